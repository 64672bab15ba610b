"""What is on the disks, exact to the byte: bytes or texts in, frozen facts out, and back. No I/O, no clock.

sealed    KEY=VALUE texts with a checksum: the form of a domain's metadata in files and in tags
domain    a domain's metadata          pool      the pool's part of it
volume    a volume's metadata          leases    areas of sanlock, lease values
xleases   the index of external leases mailbox   requests to extend thin volumes
block     tags, slots and volumes of a volume group
tree      names, modes and sizes of files and directories
mounts    the directory name of a connection
"""
