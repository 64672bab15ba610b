"""The agent of a virtualization host."""
