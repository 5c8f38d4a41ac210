"""Torch's own functions, classes and modes, as they answer while a virtual GPU is active."""
