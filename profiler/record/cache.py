"""Caches of values computed from a record, kept as long as the record lives.

A profile does not change, several readers need the same reading of it, and a run with sequential offload has a hundred
thousand events, so each reading is computed once. The same holds for a component and its thousand parts.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.record.components import Component
    from profiler.record.profile import Profile

_T = TypeVar("_T")


def once_per_profile(read: Callable[[Profile], _T]) -> Callable[[Profile], _T]:
    """Return `read` with its results cached. A result is shared between callers, so it must not be changed."""
    answers: WeakKeyDictionary[Profile, _T] = WeakKeyDictionary()

    @functools.wraps(read)
    def remembered(profile: Profile) -> _T:
        if profile not in answers:
            answers[profile] = read(profile)
        return answers[profile]

    return remembered


def once_per_component(read: Callable[[Component], _T]) -> Callable[[Component], _T]:
    """Return `read` with its results cached by identity: comparing two records takes longer than most readings."""
    answers: dict[int, tuple[ref[Any], _T]] = {}

    @functools.wraps(read)
    def remembered(component: Component) -> _T:
        number = id(component)
        kept = answers.get(number)
        if kept is None or kept[0]() is not component:
            forget = ref(component, lambda _: answers.pop(number, None))
            kept = answers[number] = (forget, read(component))
        return kept[1]

    return remembered
