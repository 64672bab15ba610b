"""A storage domain in a directory of a file system."""
