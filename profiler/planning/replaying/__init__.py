"""Replays of a profile's calls under a scheme, move by move."""
