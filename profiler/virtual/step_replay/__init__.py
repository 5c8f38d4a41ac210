"""Forwards that repeat, re-applied from a log instead of being run."""
