"""Replays a log, by net effects if they are known.

A model consists of similar blocks, so its log repeats itself. It is cut into pieces at the repetitions, and a tree is
built over them: two neighbours make one piece, and equal pieces are shared. Every piece remembers its net effects and
their conditions on the free blocks. What schedulers keep is at other addresses in every step, and so is what a model
begins and ends with; the blocks in between soon find their free blocks as they were, many at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.allocator import net_effect as allocator_net
from profiler.allocator.net_effect import Change, HeldBlock, Measure, Preconditions, Watch
from profiler.virtual.step_replay.log import Item, Log, StorageUse
from profiler.virtual.storage import Storage
from profiler.virtual.workspaces import NOTHING, Workspace

if TYPE_CHECKING:
    from profiler.allocator.blocks import Block
    from profiler.virtual.device import Device
    from profiler.virtual.step_replay.log import LoggedStretch

MOST_NETS = 8  # the most net effects that are remembered for one piece
LEAST_REPEATED = 32  # the least number of equal items for which a log counts as repeating itself

Births = list["Block | None"]
"""The blocks of a log's allocations so far, in order; None for a freed one."""


class Net(NamedTuple):
    """The effect of a piece on an allocator with certain free blocks.

    Attributes:
        conditions: the conditions on the free blocks.
        changes: the changes of the allocator's figures.
        workspace: (bytes allocated above the beginning, workspace among them) where a workspace last raised the peak;
            the first is 0 if none did.
        most_above: how far above the beginning the highest point would be if every workspace took its upper bound;
            None without workspaces.
        held: its surviving blocks, each with its number among the piece's allocations.
    """

    conditions: Preconditions
    changes: tuple[Change, ...]
    workspace: tuple[int, Workspace]
    most_above: int | None
    held: tuple[tuple[int, HeldBlock], ...]


class ReplayedPiece:
    """A run of requests.

    Attributes:
        items: the requests.
        parts: the pieces that it consists of; empty if it is not cut further.
        allocations: the number of allocations among the requests.
        frees: the earlier allocations that it frees, counted from the last one before it: -1, -2, ...
        releases: the number of blocks that it frees, including kernels' workspaces.
        launches: the seconds of each launch.
        nets: its net effects, by the places of the blocks that it frees; the last used first.
    """

    def __init__(self, items: tuple[Item, ...], parts: tuple[ReplayedPiece, ...] = ()) -> None:
        self.items = items
        self.parts = parts
        self.launches = tuple(item for item in items if isinstance(item, float))
        self.nets: dict[Any, list[Net]] = {}
        frees = []
        born = 0
        for item in items:
            if isinstance(item, int):
                if item >= 0:
                    born += 1
                elif born + item < 0:
                    frees.append(born + item)
        self.allocations = born
        self.frees = tuple(frees)
        self.releases = sum(
            bool(item.workspace) if isinstance(item, StorageUse) else item < 0 for item in items
        )


class Player:
    """Plays one log, any number of times."""

    def __init__(self, log: Log) -> None:
        self._operators = log.operators
        self._stretches: list[tuple[ReplayedPiece, LoggedStretch]] = []
        known: dict[tuple[Item, ...], ReplayedPiece] = {}
        for stretch in log.stretches:
            leaves = [
                known.setdefault(part, ReplayedPiece(part))
                for part in cut_where_repeated(stretch.items)
            ]
            self._stretches.append((_joined(leaves), stretch))

    def play(self, gpu: Device) -> list[Block]:
        """Apply the log to the GPU, and return the surviving blocks.

        Raises:
            torch.cuda.OutOfMemoryError: with torch's wording, if it exceeds the capacity. The traceback then holds what
                the code would have held.
        """
        births: Births = []
        try:
            for piece, (_, copy, pinned) in self._stretches:
                _play(gpu, piece, births)
                if copy is not None:
                    gpu.cross(copy, pinned=pinned)
        except BaseException:
            _held = [Storage.over(gpu, block) for block in births if block is not None]
            raise
        gpu.dispatch.operators += self._operators
        return [block for block in births if block is not None]


def _play(gpu: Device, piece: ReplayedPiece, births: Births) -> Preconditions | None:
    """Play a piece, and return the conditions under which its net effect repeats; None if they are not known."""
    allocator = gpu.allocator
    if not allocator_net.is_settled(allocator):
        _do(gpu, piece, births, None)
        return None
    released = allocator.all.allocation.fell
    # What Python's garbage collector frees meanwhile is deferred, so that the free blocks stay those examined here.
    with allocator.undisturbed():
        nets = piece.nets.setdefault(tuple([_place_of(births[n]) for n in piece.frees]), [])
        net = _met(gpu, nets)
        if net is not None:
            _apply(gpu, piece, net, births)
            return net.conditions
        watch = Watch(allocator, gpu.clock.current)
    calls = allocator_net.driver_calls(allocator)
    first = len(births)
    peaks, measure = _Peaks(gpu), Measure(allocator)
    try:
        known = _do(gpu, piece, births, watch)
    finally:
        changes = measure.changes()
        workspace, most_above = peaks.above()
    # Otherwise Python's garbage collector has interfered.
    alone = allocator.all.allocation.fell - released == piece.releases
    undriven = calls == allocator_net.driver_calls(allocator)
    if not (known and alone and undriven and allocator_net.is_settled(allocator)):
        return None
    held = tuple(
        (number, allocator_net.held(allocator, block))
        for number, block in enumerate(births[first:])
        if block is not None
    )
    nets.insert(0, Net(watch.conditions(), changes, workspace, most_above, held))
    del nets[MOST_NETS:]
    return nets[0].conditions


def _met(gpu: Device, nets: list[Net]) -> Net | None:
    """Return the net whose conditions are met, and move it to the front for the next time."""
    for index, net in enumerate(nets):
        if net.conditions.hold(gpu.allocator, gpu.clock.current):
            nets.insert(0, nets.pop(index))
            return net
    return None


def _do(gpu: Device, piece: ReplayedPiece, births: Births, watch: Watch | None) -> bool:
    """Play a piece's parts, or its own requests; tell whether `watch` saw everything."""
    if not piece.parts:
        _ask(gpu, piece.items, births, watch)
        return True
    known = True
    for part in piece.parts:
        conditions = _play(gpu, part, births)
        if conditions is None:
            known = False
        elif watch is not None:
            watch.following(conditions)
    return known


class _Peaks:
    """Measures the highest points with workspaces from now on.

    Meanwhile they start anew, as the peaks do; `above` restores the earlier ones if they are higher.
    """

    def __init__(self, gpu: Device) -> None:
        self._gpu = gpu
        self._base_bytes = gpu.allocator.allocated_bytes
        self._peak_bytes = gpu.allocator.peak_bytes
        self._before = (gpu.workspace_peak, gpu.most_peak_bytes)
        gpu.workspace_peak, gpu.most_peak_bytes = (0, NOTHING), 0

    def above(self) -> tuple[tuple[int, Workspace], int | None]:
        """Return a net's `workspace` and `most_above`, and stop measuring."""
        gpu = self._gpu
        (at_bytes, workspace), most_bytes = gpu.workspace_peak, gpu.most_peak_bytes
        workspace_peak, most_peak_bytes = self._before
        if at_bytes <= self._peak_bytes:
            gpu.workspace_peak = workspace_peak
        gpu.most_peak_bytes = max(most_bytes, most_peak_bytes)
        return (
            (at_bytes - self._base_bytes if at_bytes else 0, workspace),
            most_bytes - self._base_bytes if most_bytes else None,
        )


def _place_of(block: Block | None) -> tuple[int, int, int, bool | None, bool | None]:
    """Return a block's address and size, and whether its neighbours are free; None for a missing one."""
    assert block is not None, "freed twice"
    before, behind = block.previous, block.next
    return (
        block.address,
        block.size,
        block.requested,
        None if before is None else before.free,
        None if behind is None else behind.free,
    )


def _apply(gpu: Device, piece: ReplayedPiece, net: Net, births: Births) -> None:
    above, workspace = net.workspace
    base_bytes = gpu.allocator.allocated_bytes
    if above and base_bytes + above > gpu.allocator.peak_bytes:
        gpu.workspace_peak = (base_bytes + above, workspace)
    if net.most_above is not None:
        gpu.most_peak_bytes = max(gpu.most_peak_bytes, base_bytes + net.most_above)
    allocator_net.apply(gpu.allocator, net.changes)
    gpu.clock.launch_all(gpu.launch_seconds, piece.launches)
    freed = [births[number] for number in piece.frees]
    first = len(births)
    for number in piece.frees:
        births[number] = None
    births += [None] * piece.allocations
    blocks = allocator_net.exchange(
        gpu.allocator,
        [block for block in freed if block is not None],
        [held for _, held in net.held],
    )
    for (number, _), block in zip(net.held, blocks, strict=True):
        births[first + number] = block


def _ask(gpu: Device, items: tuple[Item, ...], births: Births, watch: Watch | None) -> None:
    overhead_seconds, allocator = gpu.launch_seconds, gpu.allocator
    for item in items:
        if isinstance(item, float):
            gpu.clock.launch(overhead_seconds, item)
        elif isinstance(item, StorageUse):
            if watch is not None and item.workspace:
                watch.allocating(item.workspace)
            gpu.use_workspace(item.workspace, soft=item.soft)
        elif item >= 0:
            if watch is not None:
                watch.allocating(item)
            births.append(gpu.allocate(item))
        else:
            block = births[item]
            assert block is not None, item
            births[item] = None
            if watch is not None:
                watch.freeing(block)
            allocator.free(block)


def _joined(pieces: list[ReplayedPiece]) -> ReplayedPiece:
    """Return one piece that consists of these: neighbours are joined in pairs, repeatedly; equal pairs are shared."""
    known: dict[tuple[ReplayedPiece, ...], ReplayedPiece] = {}
    while len(pieces) > 1:
        pairs = [tuple(pieces[index : index + 2]) for index in range(0, len(pieces), 2)]
        pieces = [pair[0] if len(pair) == 1 else _pair(pair, known) for pair in pairs]
    return pieces[0] if pieces else ReplayedPiece(())


def _pair(
    parts: tuple[ReplayedPiece, ...], known: dict[tuple[ReplayedPiece, ...], ReplayedPiece]
) -> ReplayedPiece:
    if parts not in known:
        known[parts] = ReplayedPiece(parts[0].items + parts[1].items, parts)
    return known[parts]


def cut_where_repeated(items: tuple[Item, ...]) -> Iterator[tuple[Item, ...]]:
    """Yield consecutive parts of a sequence; if it repeats itself, one part for each repetition."""
    seen: dict[tuple[Item, ...], int] = {}
    start = here = 0
    while here + LEAST_REPEATED <= len(items):
        gram = items[here : here + LEAST_REPEATED]
        first = seen.get(gram, -1)
        period = here - first
        repeated = items[first:here]
        if first < start or items[here : here + period] != repeated:
            seen[gram] = here
            here += 1
            continue
        if first > start:
            yield items[start:first]
        yield repeated
        while items[here : here + period] == repeated:
            yield repeated
            here += period
        start = here
    if start < len(items):
        yield items[start:]
