"""What runs inside a full node: init (pid 1), initramfs_init, agent.py. The lab itself imports none of it."""
