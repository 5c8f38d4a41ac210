"""What the hooks inside a split component do where a part is entered or left, act by act.

Each machine follows one component. It is told of every part that is entered and left, and answers with what the real
hooks would do: copies, drops, and who waits for whom. Sources: `GroupOffloadingHook`, `LazyPrefetchGroupOffloadingHook`
and `ModuleGroup` in diffusers 0.42.1, hooks/group_offloading.py; `AlignDevicesHook` in accelerate 1.15.0, hooks.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.placements.group_structure import ROOT, structure_of
from profiler.placements.tensor_sizes import sizes_of
from profiler.placements.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from profiler.placements.scheme import Grouped
    from profiler.record.components import Component

ONLOAD, OFFLOAD, CAST = "onload", "offload", "cast"
HOST_AWAITS_COPIES, HOST_AWAITS_KERNELS = "host awaits copies", "host awaits kernels"
KERNELS_AWAIT_COPIES, COPIES_AWAIT_KERNELS = "kernels await copies", "copies await kernels"
"""Who waits: the host, the default stream (kernels), or the stream of copies."""

PAGEABLE, PINNED, DISK, CARD, META = "pageable", "pinned", "disk", "card", "meta"


class Act(NamedTuple):
    """One thing that a hook does."""

    kind: str  # ONLOAD, OFFLOAD, CAST, or one that waits
    group: str = ""  # the path of the part by which the tracer names what moves
    tensors: tuple[
        int, ...
    ] = ()  # that came to the card or left it, by index; ties as often as they are held
    stale: tuple[int, ...] = ()  # those of which another copy did so, in the dtype that it once had
    copied: tuple[int, ...] = ()  # bytes of each copy over the link
    source: str = PAGEABLE  # or where they go; of a cast where the first tensor is
    beside: bool = False  # the copies run on a stream of their own
    blocks: bool = True  # the host waits for each copy
    change_bytes: int = 0  # of what is allocated on the card
    transient_bytes: int = 0  # by how much the card's peak meanwhile exceeds what was there before
    reported_bytes: int = 0  # what a trace says has moved
    copied_on_host: bool = False  # first: into pinned memory, or in another dtype
    asked_by: str = ""
    dropped: bool = False  # nothing went to the host: it has a copy


GROUP_ASKER = "diffusers.ModuleGroup"
ALIGN_ASKER = "accelerate.AlignDevicesHook"


class GroupMachine:
    """A component under group offload."""

    def __init__(self, component: Component, grouped: Grouped) -> None:
        self._how = grouped
        structure = structure_of(component, grouped)
        self._groups, self._hooks = structure.groups, structure.hooks
        self._component, self._dtype = component, _UNCAST
        self._sizes = self._first_sizes = sizes_of(component)
        self._on_card: set[int] = set()
        # `Module.to` replaces a module's buffers, the group's list keeps the old ones: both travel from then on.
        self._stale: dict[int, tuple[int, ...]] = {}
        self._stale_on_card: dict[int, tuple[int, ...]] = {}
        self._lost: set[int] = (
            set()
        )  # which the hooks bring in another dtype than the model's, or not at all
        self._next: dict[int, int] = {}  # by part: the group that its hook fetches ahead
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
        """Nothing is on the card, nothing moves."""
        return ()

    def here(self, tensors: Iterable[int]) -> bool:
        """Whether the card has all of them."""
        return self._on_card.issuperset(tensors) and self._lost.isdisjoint(tensors)

    def cast(self, dtype: str) -> Act:
        """Cast the component: streams and disks go on bringing what they keep, lists of buffers name the old ones."""
        weights = Weights(self._component)
        changed = frozenset(weights.changed(self._dtype, dtype))
        kept: set[int] = set()
        for number, group in enumerate(self._groups):
            keeps = group.streams or self._how.disk
            self._lost.update(changed.intersection(group.tensors if keeps else group.only_listed))
            before = self._stale.get(number, ())
            fresh = [one for one in group.loose_buffers if one in changed and one not in before]
            if fresh:
                there = [one for one in fresh if one in self._on_card]
                kept.update(there)
                self._stale[number] = (*before, *fresh)
                self._stale_on_card[number] = (*self._stale_on_card.get(number, ()), *there)
        act = _cast(weights, self._dtype, dtype, self._on_card, kept=kept, away=PAGEABLE)
        self._dtype, self._sizes = dtype, sizes_of(self._component, dtype)
        return act

    def enter(self, part: int) -> Iterator[Act]:
        """Onload the part's group, and fetch the next one."""
        for module in self._first:
            if part in self._learning[module]:
                self._order[module].append(part)
        number = self._hooks.get(part)
        if number is None or self._groups[number].onload_leader != part:
            return
        group = self._groups[number]
        if self._fetches_itself[number]:
            yield from self._onload(number)
        elif group.first_parameter is not None and group.first_parameter not in self._on_card:
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
        came = [tensor for tensor in group.tensors if tensor not in self._on_card]
        stale = self._stale.get(number, ())
        already = self._stale_on_card.get(number, ())
        stale_came = tuple(one for one in stale if one not in already)
        first = self._first_sizes
        sent = group.tensors if group.streams or self._how.disk else came
        self._on_card.update(came)
        self._stale_on_card[number] = stale
        reported = group.tensors if group.streams else came
        learning = bool(self._first)
        yield Act(
            ONLOAD,
            group.path,
            tuple(came),
            stale_came,
            (*sizes.copies(sent), *first.copies(stale_came)),
            DISK if self._how.disk else PINNED if group.streams else PAGEABLE,
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
        """Return the peak above what was there: a tensor that is sent again lies twice on the card for a moment."""
        there = self._on_card.difference(came)
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
        went = [tensor for tensor in group.tensors if tensor in self._on_card]
        stale = self._stale_on_card.get(number, ())
        freed = sizes.total(went) + first.total(stale)
        drops = group.streams or self._how.disk
        if went and not drops:
            # The first time it is one buffer, sent from both places.
            known = self._stale.get(number, ())
            went += [one for one in group.loose_buffers if one not in known]
            self._stale[number] = group.loose_buffers
        self._on_card.difference_update(went)
        self._stale_on_card[number] = ()
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


class SequentialMachine:
    """A component under accelerate's `cpu_offload`: each part's own tensors come and go with it."""

    def __init__(self, component: Component) -> None:
        self._component, self._dtype = component, _UNCAST
        self._parts = component.parts
        self._sizes = sizes_of(component)
        self._converted: frozenset[int] = frozenset()  # whose copy on the host has another dtype
        # As `enable_sequential_cpu_offload` decides: buffers travel if the component itself has parameters.
        self._buffers_travel = bool(component.parts[ROOT].parameters)
        self._resident: set[int] = set()
        self._on_card: set[int] = set()

    def set_up(self) -> Iterator[Act]:
        """Buffers that do not travel come for good."""
        for part in self._parts:
            stay = part.loose_buffers if self._buffers_travel else part.buffers
            self._resident.update(stay)
            yield self._onload(part.path, stay)

    def here(self, tensors: Iterable[int]) -> bool:
        """Whether the card has all of them."""
        return (self._on_card | self._resident).issuperset(tensors)

    def cast(self, dtype: str) -> Act:
        """Cast the component: the host keeps what it has, and converts it whenever a part is entered."""
        weights = Weights(self._component)
        act = _cast(weights, self._dtype, dtype, self._on_card | self._resident, away=META)
        self._converted = frozenset(weights.changed(_UNCAST, dtype))
        self._dtype, self._sizes = dtype, sizes_of(self._component, dtype)
        return act

    def enter(self, part: int) -> Iterator[Act]:
        """Send the part's tensors."""
        travelling = self._travelling(part)
        self._on_card.update(travelling)
        yield self._onload(self._parts[part].path, travelling)

    def leave(self, part: int) -> Iterator[Act]:
        """Drop them."""
        travelling = self._travelling(part)
        self._on_card.difference_update(travelling)
        yield Act(
            OFFLOAD,
            self._parts[part].path,
            travelling,
            change_bytes=-self._sizes.total(travelling),
            asked_by=ALIGN_ASKER,
            dropped=True,
        )

    def _travelling(self, part: int) -> tuple[int, ...]:
        own = self._parts[part]
        if not self._buffers_travel:
            return own.parameters
        kept = [buffer for buffer in own.buffers if buffer not in own.loose_buffers]
        return (*own.parameters, *kept)

    def _onload(self, path: str, tensors: tuple[int, ...]) -> Act:
        total = self._sizes.total(tensors)
        return Act(
            ONLOAD,
            path,
            tensors,
            copied=self._sizes.copies(tensors),
            copied_on_host=not self._converted.isdisjoint(tensors),
            change_bytes=total,
            transient_bytes=total,
            reported_bytes=sum(self._sizes.moved[tensor] for tensor in tensors),
            asked_by=ALIGN_ASKER,
        )


_UNCAST: str | None = None
"""The dtype of the last cast of a component that was never cast."""


def _cast(
    weights: Weights,
    cast: str | None,
    to: str,
    there: Container[int],
    *,
    kept: Container[int] = (),
    away: str,
) -> Act:
    """Return a cast to `to` of a component of which only some tensors are on the card; the others are `away`."""
    on_card = weights.walk_cast(cast, to, there, kept)
    return Act(
        CAST,
        tensors=weights.changed(cast, to),
        source=CARD if 0 in there else away,
        change_bytes=on_card.change_bytes,
        transient_bytes=on_card.transient_bytes,
        reported_bytes=weights.changed_bytes(cast, to),
    )


def _is_below(component: Component, part: int, module: int) -> bool:
    path = component.parts[module].path
    return not path or component.parts[part].path.startswith(f"{path}.")
