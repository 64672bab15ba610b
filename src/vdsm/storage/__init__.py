"""DOMAIN the image repository: storage domains, images, volumes, chains, leases. docs/storage.md draws it."""
