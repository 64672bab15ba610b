"""Out of process: every storage domain's files behind a process of its own, which can be given up when it hangs."""
