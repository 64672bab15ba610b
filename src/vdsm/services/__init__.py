"""Verbs: one short function per API call, one module per namespace; here domains meet."""
