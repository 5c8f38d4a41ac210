"""A run as data, its file, and what can be read off it: no torch, no tracer."""
