"""supervdsm: the root helper, a closed list of typed calls, and its client."""
