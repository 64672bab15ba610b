"""Ways to storage: mounts and links, and the tree that they make on a host."""
