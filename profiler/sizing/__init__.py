"""Use cases, one file each: what a command does, from a model's name to a profile, a plan or advice."""
