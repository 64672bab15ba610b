"""Images and volumes: asked about, made ready, changed, copied."""
