"""A run as data, its file, and the readings of it, without torch and the tracer."""
