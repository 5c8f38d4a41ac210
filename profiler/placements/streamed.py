"""Streaming by our own hooks: some blocks of a component are copied to the GPU, each while the one before it computes.

One machine simulates the blocks' hooks; the rest of the component moves as a whole component does. At most two streamed
blocks are on the GPU. A block that is called out of turn is fetched then, and the one prefetched in its place is freed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from profiler.allocator.pinned_chunks import pinned_bytes
from profiler.placements.acts import (
    CAST,
    COPIES_AWAIT_KERNELS,
    GROUP_ASKER,
    KERNELS_AWAIT_COPIES,
    OFFLOAD,
    ONLOAD,
    PINNED,
    Act,
)
from profiler.placements.group_structure import ROOT
from profiler.placements.placement import STREAM, HostBytes, Placement, PlacementRule
from profiler.placements.tensor_sizes import sizes_of
from profiler.placements.weights import Weights
from profiler.record.cache import once_per_component

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from profiler.record.components import Component


@dataclass(frozen=True)
class Streamed(Placement):
    """A component with only some of its blocks placed as the component is; the others are streamed one by one."""

    resident_blocks: int

    kind: ClassVar = "streamed"
    leaves_rest: ClassVar = True
    needs_forward: ClassVar = True
    rules: ClassVar = (
        PlacementRule(
            "streamed-blocks",
            "of its blocks none up to all but one can stay while the others travel",
            lambda how, facts: not 0 <= how.resident_blocks < facts.blocks,
        ),
        PlacementRule(
            "first-parameter-stays",
            "accelerate asks a component's first parameter where the component is, and it is in a block that would "
            "travel",
            lambda how, facts: (
                0 <= how.resident_blocks < facts.blocks
                and facts.first_block in streamed_blocks(facts.blocks, how.resident_blocks)
            ),
        ),
    )

    @classmethod
    def options(cls, component: Component, levers: Collection[str]) -> Iterator[Streamed]:
        """Yield a placement for each number of blocks that may stay while the others are streamed."""
        blocks = blocks_of(component) if STREAM in levers else ()
        # accelerate takes the device of the first parameter for the component's device, so that parameter has to stay.
        asked = {i for i, block in enumerate(blocks) if component.first_tensor in block.tensors}
        for resident in range(len(blocks)):
            if asked.isdisjoint(streamed_blocks(len(blocks), resident)):
                yield cls(resident)

    @property
    def on_stream(self) -> bool:
        """True: each block is copied while the one before it computes."""
        return True

    @property
    def name(self) -> str:
        """The empty string: the component is placed as its rest is."""
        return ""

    @property
    def keeps_copies(self) -> bool:
        """True, since a cast does not reach the page-locked copies."""
        return True

    def is_valid(self) -> bool:
        """Tell whether the value is valid."""
        return self.resident_blocks >= 0

    def representative(self) -> Streamed:
        """Return the placement that streams all blocks."""
        return Streamed(0)

    def machine(self, component: Component) -> StreamMachine:
        """Return the machine that simulates the blocks' hooks."""
        return StreamMachine(component, self.resident_blocks)

    def checked_parts(self, component: Component) -> frozenset[int] | None:
        """Return the component and its blocks; None (all parts) if every block is streamed, which covers all cases."""
        if not self.resident_blocks:
            return None
        return frozenset((ROOT, *(block.part for block in blocks_of(component))))

    def rest(self, component: Component) -> Component:
        """Return the part of `component` that is not streamed, as a component."""
        blocks = blocks_of(component)
        travelling = {
            tensor
            for number in streamed_blocks(len(blocks), self.resident_blocks)
            for tensor in blocks[number].tensors
        }
        kept = [one for index, one in enumerate(component.tensors) if index not in travelling]
        return replace(component, tensors=tuple(kept), parts=())

    def host_bytes(self, component: Component) -> HostBytes:
        """Return the host memory that the streamed blocks take: packed and page-locked."""
        moved, blocks = sizes_of(component).moved, blocks_of(component)
        travelling = [blocks[i] for i in streamed_blocks(len(blocks), self.resident_blocks)]
        sizes = [moved[tensor] for block in travelling for tensor in block.tensors]
        return HostBytes(0, pinned_bytes(sizes))

    def words(self) -> str:
        """Return a phrase for the placement."""
        if not self.resident_blocks:
            return "all blocks travel"
        return f"{self.resident_blocks} blocks stay, the others travel"


def streamed_blocks(count: int, resident: int) -> tuple[int, ...]:
    """Return the blocks to stream out of `count` if `resident` stay: spread evenly, so that each copy has equal time.

    Args:
        count: Blocks of the component.
        resident: The number of blocks that stay, 0 to `count`.
    """
    streamed = count - resident
    return tuple((2 * index + 1) * count // (2 * streamed) for index in range(streamed))


class StreamedBlock(NamedTuple):
    """One block that may be streamed."""

    part: int  # index into `Component.parts`
    path: str
    tensors: tuple[int, ...]  # tensors of this block alone; integer tensors stay with the rest


@once_per_component
def blocks_of(component: Component) -> tuple[StreamedBlock, ...]:
    """Return the blocks of a component, in the order of its modules."""
    names = {block.name for block in component.blocks}
    everywhere: Counter[int] = Counter()
    here: dict[str, Counter[int]] = {block.name: Counter() for block in component.blocks}
    numbers = {}
    for number, part in enumerate(component.parts):
        own = (*part.parameters, *part.buffers)
        everywhere.update(own)
        numbers[part.path] = number
        block = _block_around(part.path, names)
        if block is not None:
            here[block].update(own)
    return tuple(
        StreamedBlock(
            numbers[name],
            name,
            tuple(
                tensor
                for tensor, count in held.items()
                if component.tensors[tensor].floating and count == everywhere[tensor]
            ),
        )
        for name, held in here.items()
    )


def _block_around(path: str, names: set[str]) -> str | None:
    while path and path not in names:
        path = path.rpartition(".")[0]
    return path or None


class StreamMachine:
    """Simulation of the streamed blocks of one component."""

    def __init__(self, component: Component, resident_blocks: int) -> None:
        blocks = blocks_of(component)
        self.blocks = [blocks[i] for i in streamed_blocks(len(blocks), resident_blocks)]
        self._numbers = {block.part: number for number, block in enumerate(self.blocks)}
        self._sizes = sizes_of(component)
        self._loaded: set[int] = set()
        self._away = {tensor for block in self.blocks for tensor in block.tensors}
        self._running: list[int] = []
        self._component = component
        self._lost: frozenset[int] = frozenset()

    def set_up(self) -> tuple[Act, ...]:
        """Return no operations: no block is on the GPU, and none is onloaded."""
        return ()

    def here(self, tensors: Iterable[int]) -> bool:
        """Tell whether the GPU has all of these tensors, as far as they are streamed."""
        return self._away.isdisjoint(tensors) and self._lost.isdisjoint(tensors)

    def cast(self, dtype: str) -> Act:
        """Cast the component: its blocks then lie outside the page-locked memory, and nothing is promised for them."""
        changed = Weights(self._component).changed(None, dtype)
        travelling = {tensor for block in self.blocks for tensor in block.tensors}
        self._lost = self._lost | travelling.intersection(changed)
        return Act(CAST)

    def enter(self, part: int) -> Iterator[Act]:
        """Fetch the first block if the component is entered; else make sure this block is there, and fetch the next."""
        if part == ROOT:
            yield from self.settle()
            yield from self._fetch(0)
            return
        number = self._numbers.get(part)
        if number is None:
            return
        yield from self._free_all_but(number)
        self._running.append(number)
        yield from self._fetch(number)
        yield Act(KERNELS_AWAIT_COPIES)
        yield from self._fetch(number + 1)

    def leave(self, part: int) -> Iterator[Act]:
        """Free the block."""
        if part == ROOT:
            yield from self.settle()
            return
        number = self._numbers.get(part)
        if number is None:
            return
        self._running.remove(number)
        if number not in self._running:
            yield self._free(number)

    def settle(self) -> Iterator[Act]:
        """Free blocks that were fetched and not called."""
        self._running.clear()
        yield from self._free_all_but(-1)

    def _fetch(self, number: int) -> Iterator[Act]:
        if number >= len(self.blocks) or number in self._loaded:
            return
        self._loaded.add(number)
        self._away.difference_update(self.blocks[number].tensors)
        block, sizes = self.blocks[number], self._sizes
        allocated = sizes.total(block.tensors)  # each tensor begins on an allocator block boundary
        yield Act(COPIES_AWAIT_KERNELS)
        yield Act(
            ONLOAD,
            block.path,
            block.tensors,
            copied=sizes.copies(block.tensors),
            source=PINNED,
            beside=True,
            blocks=False,
            change_bytes=allocated,
            transient_bytes=allocated,
            reported_bytes=sum(sizes.moved[tensor] for tensor in block.tensors),
            asked_by=GROUP_ASKER,
        )

    def _free_all_but(self, number: int) -> Iterator[Act]:
        for other in sorted(self._loaded):
            if other != number and other not in self._running:
                yield self._free(other)

    def _free(self, number: int) -> Act:
        self._loaded.discard(number)
        block = self.blocks[number]
        self._away.update(block.tensors)
        return Act(
            OFFLOAD,
            block.path,
            block.tensors,
            change_bytes=-self._sizes.total(block.tensors),
            asked_by=GROUP_ASKER,
            dropped=True,
        )
