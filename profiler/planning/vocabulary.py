"""Which placements of a component a plan may choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.errors import InputError
from profiler.placements.scheme import (
    COPY,
    DROP,
    PINNED,
    Grouped,
    Sequential,
    Streamed,
    streamed_blocks,
)
from profiler.placements.streamed import blocks_of
from profiler.planning.costs.table import SPLIT, Choice
from profiler.planning.costs.whole_components import STAYS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from profiler.placements.scheme import Inside
    from profiler.planning.costs.table import Rides
    from profiler.record.components import Component

SWAP, STREAM, GROUP, SEQUENTIAL, DISK = "swap", "stream", "group", "sequential", "disk"
LEVERS = (SWAP, STREAM, GROUP, SEQUENTIAL)
"""What a plan may use besides the sequence and exclusions: host copies that are kept, blocks that travel, diffusers'
group offload and accelerate's sequential offload. `disk` has to be asked for, since it writes the weights to a disk."""

_BLOCKS_PER_GROUP = (1, 2, 4, 8)


def check_levers(levers: Collection[str]) -> None:
    """Raise InputError if one of them is unknown."""
    unknown = [lever for lever in levers if lever not in (*LEVERS, DISK)]
    if unknown:
        raise InputError(
            f"no lever is called {', '.join(unknown)}: choose of {', '.join((*LEVERS, DISK))}"
        )


def splits(component: Component, rides: Rides, levers: Collection[str]) -> Iterator[Inside]:
    """Yield the ways to split a component, as far as diffusers allows them and the parts had their weights."""
    if not component.parts or not rides.may_hook_inside(component.name):
        return
    ways: list[Inside] = [Sequential()] if SEQUENTIAL in levers else []
    if GROUP in levers and component.groups:
        ways += _grouped(disk=False)
    if DISK in levers and component.groups:
        ways += _grouped(disk=True)
    for way in ways:
        if rides.ride_of(component.name, Choice(SPLIT, COPY, way)).sound:
            yield way


def _grouped(*, disk: bool) -> Iterator[Grouped]:
    yield Grouped(disk=disk)
    for blocks in _BLOCKS_PER_GROUP:
        yield Grouped(blocks, disk=disk)
    for blocks in (0, 1):
        for record in (False, True):
            yield Grouped(blocks, stream=True, record_stream=record, disk=disk)
            if not disk:
                yield Grouped(blocks, stream=True, record_stream=record, low_cpu_mem=True)


def streamings(component: Component, rides: Rides, levers: Collection[str]) -> tuple[Streamed, ...]:
    """Return the numbers of blocks that may stay while the others travel."""
    name = component.name
    if STREAM not in levers or not component.parts or not rides.may_hook_inside(name):
        return ()
    if not rides.entered_by_forward(name) or rides.is_cast(name):
        return ()
    blocks = blocks_of(component)
    if not blocks or not rides.ride_of(name, Choice(STAYS, COPY, Streamed(0))).sound:
        return ()
    # accelerate asks a component's first parameter where the component is, so that one has to stay.
    asked = {i for i, block in enumerate(blocks) if component.first_tensor in block.tensors}
    return tuple(
        Streamed(resident)
        for resident in range(len(blocks))
        if asked.isdisjoint(streamed_blocks(len(blocks), resident))
    )


def swaps(component: Component, levers: Collection[str]) -> tuple[str, ...]:
    """Return the ways in which what is offloaded may leave the card; with host copies kept, no other is better."""
    if SWAP not in levers or component.quantization:
        return (COPY,)
    return (DROP, PINNED)
