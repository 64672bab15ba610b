"""Image data between files of this machine and the image daemon of a host."""
