"""Remembering what was worked out of a record, as long as the record lives.

A profile does not change, several readers want the same reading of it, and a run of sequential offload has a hundred
thousand events: each reading is made once.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.profile import Profile

_T = TypeVar("_T")


def once_per_profile(read: Callable[[Profile], _T]) -> Callable[[Profile], _T]:
    """Return `read` with its answers kept. The answer is shared between callers, so it must not be changed."""
    answers: WeakKeyDictionary[Profile, _T] = WeakKeyDictionary()

    @functools.wraps(read)
    def remembered(profile: Profile) -> _T:
        if profile not in answers:
            answers[profile] = read(profile)
        return answers[profile]

    return remembered
