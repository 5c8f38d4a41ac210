"""Errors for users, each kind with the exit code of the command."""

from __future__ import annotations


class ProfilerError(Exception):
    """A failure with a message for the user: the problem, the value, and what to try."""

    exit_code = 1


class InputError(ProfilerError):
    """Input from the user that cannot be used; nothing was changed or written."""

    exit_code = 2


class FindingError(ProfilerError):
    """A negative answer to the user's question: it does not fit, or it drifted."""

    exit_code = 3
