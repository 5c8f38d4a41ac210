"""Use cases, one file each: the work of a command, from a model's name to a profile, a plan or advice."""
