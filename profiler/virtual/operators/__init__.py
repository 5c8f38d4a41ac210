"""Operators on the virtual GPU: their results, memory and seconds."""
