"""Storage domains: found, made, watched, taken away."""
