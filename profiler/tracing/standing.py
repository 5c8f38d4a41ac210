"""Replaced attributes of single objects that are not held: a component that its script drops must still be freed.

The replacement of an attribute lies in the object's own dictionary and dies with it. It keeps the original, so that
nothing outside of the object does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import update_wrapper
from typing import Any
from weakref import ref

_MISSING = object()


class Stands:
    """The replaced attributes of single objects, which are held weakly."""

    def __init__(self) -> None:
        self._taken: list[tuple[ref[Any], str, ref[Any]]] = []

    def replace(self, owner: Any, name: str, new: Callable[..., Any]) -> None:
        """Set `owner.name` to `new` until `restore`; `new` is a function that does not hold `owner`."""
        standing = _Replacement(owner, name, new)
        self._taken.append((ref(owner), name, ref(standing)))
        setattr(owner, name, standing)

    def restore(self) -> None:
        """Restore what is still there, last replaced first. Safe to call twice, and again if it was interrupted."""
        while self._taken:
            owner_ref, name, new_ref = self._taken[-1]
            owner, new = owner_ref(), new_ref()
            if owner is not None and new is not None:
                _put_back(owner, name, new.replaced)
            self._taken.pop()


class _Replacement:
    """What replaces an attribute; a deep copy of its owner gets the original.

    LTX-2's pipelines (diffusers 0.42) copy their scheduler for the sound: with the replacement its steps would be
    steps of the scheduler that was copied.
    """

    def __init__(self, owner: Any, name: str, new: Callable[..., Any]) -> None:
        self.replaced = vars(owner).get(name, _MISSING)
        self._owner, self._name, self._new = id(owner), name, new
        update_wrapper(self, new)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._new(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.replaced is not _MISSING:
            return copy.deepcopy(self.replaced, memo)
        copied = memo.get(self._owner)  # without its attributes yet
        return self if copied is None else method_of(copied, self._name)


def _put_back(owner: Any, name: str, old: object) -> None:
    if old is not _MISSING:
        setattr(owner, name, old)
    elif name in vars(owner):
        delattr(owner, name)


def method_of(owner: Any, name: str) -> Callable[..., Any]:
    """Return the present method for use in its replacement: a method of the class is bound without holding `owner`."""
    own: Callable[..., Any] | None = vars(owner).get(name)
    if own is not None:
        return own
    plain, weakly = getattr(type(owner), name), ref(owner)

    def method(*args: Any, **kwargs: Any) -> Any:
        return plain(weakly(), *args, **kwargs)

    return method
