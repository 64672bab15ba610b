"""Checks a machine and prepares it as a host."""
