"""PyTorch's memory engines in plain Python, without torch: the caching allocator, the pinned one, and the clock."""
