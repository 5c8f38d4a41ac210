"""What can go wrong for a user, each kind with the exit code the command gives it."""

from __future__ import annotations


class ProfilerError(Exception):
    """A failure with a message for the user: what is wrong, the value, what to try."""

    exit_code = 1


class InputError(ProfilerError):
    """Something the user wrote cannot be used; nothing was changed or written."""

    exit_code = 2


class FindingError(ProfilerError):
    """The question was answered, and the answer is no: it does not fit, or it drifted."""

    exit_code = 3
