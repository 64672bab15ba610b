"""Measurements of the whole agent against what a user would take instead. ``python -m bench --help``."""
