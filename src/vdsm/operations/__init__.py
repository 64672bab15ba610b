"""Journaled long-running work, used by every domain: steps, locks, progress, cancel, resume, explain."""
