"""Builds what a full node is made of, from Debian packages only: see build.py."""
