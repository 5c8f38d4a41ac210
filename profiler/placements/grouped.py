"""Group offload by diffusers: groups of blocks or single layers are onloaded and offloaded, with or without a stream.

Sources: `GroupOffloadingHook`, `LazyPrefetchGroupOffloadingHook` and `ModuleGroup` in diffusers 0.42.1,
hooks/group_offloading.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from profiler.allocator.pinned import round_pinned
from profiler.placements import acts
from profiler.placements.acts import (
    GROUP_ASKER,
    HOST_AWAITS_COPIES,
    HOST_AWAITS_KERNELS,
    OFFLOAD,
    ONLOAD,
    PAGEABLE,
    PINNED,
    UNCAST,
    Act,
    cast_act,
)
from profiler.placements.group_structure import structure_of
from profiler.placements.placement import DISK, GROUP, RECORDED, HostBytes, Placement, PlacementRule
from profiler.placements.tensor_sizes import sizes_of
from profiler.placements.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from profiler.record.components import Component

GROUP_BLOCK, GROUP_LEAF = "group-block", "group-leaf"
_BLOCKS_PER_GROUP = (1, 2, 4, 8)


@dataclass(frozen=True)
class Grouped(Placement):
    """A component under `apply_group_offloading`."""

    blocks: int = 0  # blocks per group at block level; 0 for leaf level
    stream: bool = False
    record_stream: bool = False
    low_cpu_mem: bool = False
    disk: bool = False

    kind: ClassVar = "grouped"
    names: ClassVar = (GROUP_BLOCK, GROUP_LEAF)
    rules: ClassVar = (
        PlacementRule(
            "stream-takes-one-block",
            "with a stream diffusers makes groups of one block, whatever is asked for",
            lambda how, _: how.stream and how.blocks > 1,
        ),
        PlacementRule(
            "record-stream-needs-stream",
            "record_stream has no meaning without a stream",
            lambda how, _: how.record_stream and not how.stream,
        ),
        PlacementRule(
            "low-cpu-mem-needs-stream",
            "low_cpu_mem says how a stream's host copies in memory are pinned: diffusers ignores it without a stream, "
            "and on disk",
            lambda how, _: how.low_cpu_mem and (how.disk or not how.stream),
        ),
        PlacementRule(
            "groupable",
            "its class does not support group offloading",
            lambda _, facts: not facts.groupable,
        ),
        PlacementRule(
            "disk-loses-ties",
            "two of its modules hold the same tensor, and diffusers writes it to disk once more after emptying it",
            lambda how, facts: how.disk and facts.tied,
        ),
    )

    @classmethod
    def options(cls, component: Component, levers: Collection[str]) -> Iterator[Grouped]:
        """Yield groups of single layers and of blocks, each with and without a stream; on disk if asked for."""
        for lever, disk in ((GROUP, False), (DISK, True)):
            if lever in levers and component.groups:
                yield from cls._kept_so(disk=disk, recorded=RECORDED in levers)

    @classmethod
    def _kept_so(cls, *, disk: bool, recorded: bool) -> Iterator[Grouped]:
        yield cls(disk=disk)
        for blocks in _BLOCKS_PER_GROUP:
            yield cls(blocks, disk=disk)
        for blocks in (0, 1):
            for record in (False, True) if recorded else (False,):
                yield cls(blocks, stream=True, record_stream=record, disk=disk)
                if not disk:
                    yield cls(blocks, stream=True, record_stream=record, low_cpu_mem=True)

    @property
    def name(self) -> str:
        """The name of the placement."""
        return GROUP_BLOCK if self.blocks else GROUP_LEAF

    @property
    def on_disk(self) -> bool:
        """True if the weights are kept in files."""
        return self.disk

    @property
    def on_stream(self) -> bool:
        """True if a stream copies the groups."""
        return self.stream

    @property
    def keeps_copies(self) -> bool:
        """True if copies are kept that a cast does not reach: those that a stream sends, and files."""
        return self.stream or self.disk

    def is_valid(self) -> bool:
        """Tell whether the values are valid."""
        return self.blocks >= 0

    def machine(self, component: Component) -> GroupMachine:
        """Return the machine that simulates the groups' hooks."""
        return GroupMachine(component, self)

    def host_bytes(self, component: Component) -> HostBytes:
        """Return the host memory that the weights take: pageable, pinned for a stream, or none if on disk."""
        moved = sizes_of(component).moved
        if self.disk:
            return HostBytes(0, 0)
        if not self.stream:
            return HostBytes(sum(moved), 0)
        groups = structure_of(component, self.blocks, stream=self.stream).groups
        streamed = [
            [moved[tensor] for tensor in group.tensors] for group in groups if group.streams
        ]
        if self.low_cpu_mem:
            # One group is pinned at a time, beside its pageable copy; PyTorch caches the pinned memory for the next.
            most = max((sum(map(round_pinned, sizes)) for sizes in streamed), default=0)
            return HostBytes(sum(moved), most)
        pinned = {tensor for group in groups if group.streams for tensor in group.tensors}
        rest = sum(size for tensor, size in enumerate(moved) if tensor not in pinned)
        # A tensor in two groups is pinned once: the second group finds it pinned.
        return HostBytes(rest, sum(round_pinned(moved[tensor]) for tensor in pinned))

    def words(self) -> str:
        """Return a phrase for the placement."""
        level = f"groups of {self.blocks} blocks" if self.blocks > 1 else "block by block"
        words = [level if self.blocks else "groups of one layer"]
        words += ["on a stream"] if self.stream else []
        words += ["pinned on the fly"] if self.low_cpu_mem else []
        words += ["from disk"] if self.disk else []
        return ", ".join(words)


class GroupMachine:
    """Simulation of a component under group offload."""

    def __init__(self, component: Component, grouped: Grouped) -> None:
        self._how = grouped
        structure = structure_of(component, grouped.blocks, stream=grouped.stream)
        self._groups, self._hooks = structure.groups, structure.hooks
        self._component, self._dtype = component, UNCAST
        self._sizes = self._first_sizes = sizes_of(component)
        self._on_gpu: set[int] = set()
        # `Module.to` replaces a module's buffers, but the group's list keeps the old ones: both move from then on.
        self._stale: dict[int, tuple[int, ...]] = {}
        self._stale_on_gpu: dict[int, tuple[int, ...]] = {}
        self._lost: set[int] = (
            set()
        )  # which the hooks onload in another dtype than the model's, or not at all
        self._next: dict[int, int] = {}  # by part: the group that its hook prefetches
        self._fetches_itself = [True] * len(self._groups)
        self._learning = {
            module: [
                part
                for part in self._hooks
                if part != module and _is_below(component, part, module)
            ]
            for module in structure.lazy
        }
        self._order: dict[int, list[int]] = {module: [] for module in structure.lazy}
        self._first = set(structure.lazy)

    def set_up(self) -> Iterable[Act]:
        """Return no operations: nothing is on the GPU, and nothing moves."""
        return ()

    def here(self, tensors: Iterable[int]) -> bool:
        """Tell whether all of these tensors are on the GPU."""
        return self._on_gpu.issuperset(tensors) and self._lost.isdisjoint(tensors)

    def settle(self) -> Iterable[Act]:
        """Return no operations: no part of the component moves as a whole."""
        return ()

    def cast(self, dtype: str) -> Act:
        """Cast the component: pinned and on-disk copies keep the old dtype, the groups' lists keep the old buffers."""
        weights = Weights(self._component)
        changed = frozenset(weights.changed(self._dtype, dtype))
        kept: set[int] = set()
        for number, group in enumerate(self._groups):
            keeps = group.streams or self._how.disk
            self._lost.update(changed.intersection(group.tensors if keeps else group.only_listed))
            before = self._stale.get(number, ())
            fresh = [one for one in group.loose_buffers if one in changed and one not in before]
            if fresh:
                there = [one for one in fresh if one in self._on_gpu]
                kept.update(there)
                self._stale[number] = (*before, *fresh)
                self._stale_on_gpu[number] = (*self._stale_on_gpu.get(number, ()), *there)
        act = cast_act(weights, self._dtype, dtype, self._on_gpu, kept=kept, away=PAGEABLE)
        self._dtype, self._sizes = dtype, sizes_of(self._component, dtype)
        return act

    def enter(self, part: int) -> Iterator[Act]:
        """Onload the part's group, and prefetch the next one."""
        for module in self._first:
            if part in self._learning[module]:
                self._order[module].append(part)
        number = self._hooks.get(part)
        if number is None or self._groups[number].onload_leader != part:
            return
        group = self._groups[number]
        if self._fetches_itself[number]:
            yield from self._onload(number)
        elif group.first_parameter is not None and group.first_parameter not in self._on_gpu:
            yield from self._onload(number)
            yield Act(HOST_AWAITS_COPIES)
        following = self._next.get(part)
        ahead = following is not None and not self._fetches_itself[following]
        if ahead and following is not None:
            yield from self._onload(following)
        elif not self._fetches_itself[number] and group.streams:
            yield Act(HOST_AWAITS_COPIES)

    def leave(self, part: int) -> Iterator[Act]:
        """Offload the part's group."""
        number = self._hooks.get(part)
        if number is not None and self._groups[number].offload_leader == part:
            yield from self._offload(number)
        if part in self._first:
            self._first.discard(part)
            self._learned(part)

    def _learned(self, module: int) -> None:
        order = self._order[module]
        for hook, following in zip([module, *order], order, strict=False):
            self._next[hook] = self._hooks[following]
            self._fetches_itself[self._hooks[following]] = False

    def _onload(self, number: int) -> Iterator[Act]:
        group, sizes = self._groups[number], self._sizes
        if group.streams:
            yield Act(HOST_AWAITS_COPIES)
        came = [tensor for tensor in group.tensors if tensor not in self._on_gpu]
        stale = self._stale.get(number, ())
        already = self._stale_on_gpu.get(number, ())
        stale_came = tuple(one for one in stale if one not in already)
        first = self._first_sizes
        sent = group.tensors if group.streams or self._how.disk else came
        self._on_gpu.update(came)
        self._stale_on_gpu[number] = stale
        reported = group.tensors if group.streams else came
        learning = bool(self._first)
        yield Act(
            ONLOAD,
            group.path,
            tuple(came),
            stale_came,
            (*sizes.copies(sent), *first.copies(stale_came)),
            acts.DISK if self._how.disk else PINNED if group.streams else PAGEABLE,
            beside=group.streams,
            blocks=not group.streams or learning,
            copied_on_host=group.streams and (self._how.low_cpu_mem or self._how.disk),
            change_bytes=sizes.total(came) + first.total(stale_came),
            transient_bytes=self._transient(sent, came, stale_came),
            reported_bytes=sum(sizes.moved[tensor] for tensor in reported)
            + sum(first.copies(stale_came)),
            asked_by=GROUP_ASKER,
        )

    def _transient(self, sent: Iterable[int], came: list[int], stale: Iterable[int]) -> int:
        """Return by how much the peak rises: a tensor that is sent again is briefly on the GPU twice."""
        there = self._on_gpu.difference(came)
        held = highest = 0
        for tensor in sent:
            size = self._sizes.allocated[tensor]
            highest = max(highest, held + size)
            if tensor not in there:
                held += size
        return max(highest, held + self._first_sizes.total(stale))

    def _offload(self, number: int) -> Iterator[Act]:
        group, sizes, first = self._groups[number], self._sizes, self._first_sizes
        if group.streams and not self._how.record_stream:
            yield Act(HOST_AWAITS_KERNELS)
        went = [tensor for tensor in group.tensors if tensor in self._on_gpu]
        stale = self._stale_on_gpu.get(number, ())
        freed = sizes.total(went) + first.total(stale)
        drops = group.streams or self._how.disk
        if went and not drops:
            # At the first offload both places hold the same buffer, so it is copied for each of them.
            known = self._stale.get(number, ())
            went += [one for one in group.loose_buffers if one not in known]
            self._stale[number] = group.loose_buffers
        self._on_gpu.difference_update(went)
        self._stale_on_gpu[number] = ()
        copied = () if drops else (*sizes.copies(went), *first.copies(stale))
        yield Act(
            OFFLOAD,
            group.path,
            tuple(went),
            stale,
            copied,
            change_bytes=-freed,
            reported_bytes=sum(copied),
            asked_by=GROUP_ASKER,
            dropped=drops,
        )


def _is_below(component: Component, part: int, module: int) -> bool:
    path = component.parts[module].path
    return not path or component.parts[part].path.startswith(f"{path}.")
