"""Costs of every placement of every component, in bytes and nanoseconds."""
