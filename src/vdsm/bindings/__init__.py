"""Ways in: decode, call one verb, encode."""
