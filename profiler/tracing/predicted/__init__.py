"""The readings of a trace on the virtual GPU."""
