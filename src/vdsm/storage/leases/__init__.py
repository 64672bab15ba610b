"""External leases of a domain."""
