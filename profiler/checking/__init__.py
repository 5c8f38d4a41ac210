"""Checks of all that comes from outside: arguments, values in files, names that become code, text that is shown."""
