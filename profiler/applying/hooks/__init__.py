"""Hooks that move weights by themselves, where diffusers has no call of its own."""
