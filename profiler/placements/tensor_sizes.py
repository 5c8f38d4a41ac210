"""The size of each of a component's tensors, in each dtype that casts give it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.allocator.settings import round_block
from profiler.placements.weights import Weights
from profiler.record.cache import once_per_component

if TYPE_CHECKING:
    from collections.abc import Iterable

    from profiler.record.components import Component


class Sizes:
    """The sizes of a component's tensors in one dtype state, by index."""

    def __init__(self, moved: list[int]) -> None:
        self.moved = moved
        self.allocated = [round_block(size) for size in moved]

    def copies(self, tensors: Iterable[int]) -> tuple[int, ...]:
        """Return the bytes of each copy; empty tensors are not copied."""
        return tuple(self.moved[index] for index in tensors if self.moved[index])

    def total(self, tensors: Iterable[int]) -> int:
        """Return the allocated bytes of these tensors on the GPU."""
        return sum(self.allocated[index] for index in tensors)


def sizes_of(component: Component, cast: str | None = None) -> Sizes:
    """Return the sizes of the component's tensors; `cast` is the dtype of its last cast, None before the first."""
    made = _made(component)
    if cast not in made:
        made[cast] = Sizes(Weights(component).tensor_bytes(cast))
    return made[cast]


@once_per_component
def _made(_component: Component) -> dict[str | None, Sizes]:
    return {}
