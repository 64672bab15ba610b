"""Building blocks that know nothing of virtualization."""
