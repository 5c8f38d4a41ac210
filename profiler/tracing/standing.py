"""Replaced attributes of single objects that are not held: a component that its script drops must still be freed.

The replacement of an attribute lies in the object's own dictionary and dies with it. It keeps the original, so that
nothing outside of the object does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

_MISSING = object()


class Stands:
    """The replaced attributes of single objects, which are held weakly."""

    def __init__(self) -> None:
        self._taken: list[tuple[ref[Any], str, ref[Any]]] = []

    def replace(self, owner: Any, name: str, new: Callable[..., Any]) -> None:
        """Set `owner.name` to `new` until `restore`; `new` is a function that does not hold `owner`."""
        new.replaced = vars(owner).get(name, _MISSING)  # type: ignore[attr-defined]
        self._taken.append((ref(owner), name, ref(new)))
        setattr(owner, name, new)

    def restore(self) -> None:
        """Restore what is still there, last replaced first. Safe to call twice, and again if it was interrupted."""
        while self._taken:
            owner_ref, name, new_ref = self._taken[-1]
            owner, new = owner_ref(), new_ref()
            if owner is not None and new is not None:
                _put_back(owner, name, new.replaced)
            self._taken.pop()


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
