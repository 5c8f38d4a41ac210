"""Hooks that put placements into effect on real modules, including those for which diffusers has no call."""
