"""Twins of loaded pipelines on the virtual GPU; the originals are only read."""
