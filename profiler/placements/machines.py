"""The hooks of one component under a scheme: which machine follows those inside it, and how the whole of it moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from profiler.placements.hook_machines import GroupMachine, SequentialMachine
from profiler.placements.scheme import COPY, Grouped, Streamed
from profiler.placements.streamed import StreamMachine, rest_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from profiler.placements.hook_machines import Act
    from profiler.placements.scheme import Inside, Scheme
    from profiler.record.components import Component


class Machine(Protocol):
    """The hooks inside one component."""

    def set_up(self) -> Iterable[Act]:
        """Return what placing the hooks does, on a component that is on the CPU."""

    def enter(self, part: int) -> Iterable[Act]:
        """Return what they do where a part is entered."""

    def leave(self, part: int) -> Iterable[Act]:
        """Return what they do where a part is left."""

    def cast(self, dtype: str) -> Act:
        """Return what a cast of the whole component to `dtype` does, whose floating-point tensors all get it."""

    def here(self, tensors: Iterable[int]) -> bool:
        """Whether the card has all of these tensors, as far as the hooks move them, and as the model has them."""


def machine_for(component: Component, inside: Inside) -> Machine:
    """Return the machine that follows the hooks inside `component`."""
    if isinstance(inside, Streamed):
        return StreamMachine(component, inside.resident_blocks)
    if isinstance(inside, Grouped):
        return GroupMachine(component, inside)
    return SequentialMachine(component)


def whole_part(component: Component, scheme: Scheme) -> Component:
    """Return what of `component` moves as a whole: all of it, or what does not travel."""
    streamed = scheme.streamed(component.name)
    return component if streamed is None else rest_of(component, streamed.resident_blocks)


def drops_its_copy(scheme: Scheme, name: str) -> bool:
    """Whether the component leaves the card without a copy, since the host has one."""
    return scheme.swap(name) != COPY or scheme.streamed(name) is not None
