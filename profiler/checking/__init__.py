"""Checks of external input: arguments, values in files, names that become code, text to display."""
