"""What nodes can be to one another: servers and clients of storage and networks, lease holders, a BMC."""
