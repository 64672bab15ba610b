"""supervdsm: the root helper. A closed list of typed calls over a unix socket that checks who is calling."""
