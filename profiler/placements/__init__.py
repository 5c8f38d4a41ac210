"""Placements of a component, and what follows from each: bytes, moves, host memory, rules and wording."""
