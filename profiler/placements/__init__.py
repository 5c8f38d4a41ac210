"""Where a component can live, and all that follows from it: bytes, moves, host memory, rules and words."""
