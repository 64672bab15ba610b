"""Whether all that a domain says of itself agrees, and what mends it."""
