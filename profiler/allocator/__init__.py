"""PyTorch's memory engines as plain Python: the caching allocator, the pinned one, and the clock; without torch."""
