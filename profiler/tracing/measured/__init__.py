"""The readings of a trace on a real GPU."""
