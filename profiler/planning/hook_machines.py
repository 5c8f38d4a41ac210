"""What the hooks inside a split component do where a part is entered or left, act by act.

Each machine follows one component. It is told of every part that is entered and left, and answers with what the real
hooks would do: copies, drops, and who waits for whom. Sources: `GroupOffloadingHook`, `LazyPrefetchGroupOffloadingHook`
and `ModuleGroup` in diffusers 0.42.1, hooks/group_offloading.py; `AlignDevicesHook` in accelerate 1.15.0, hooks.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.planning.module_groups import ROOT, structure_of
from profiler.planning.weights import allocated_block_bytes
from profiler.remembering import once_per_component

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from profiler.planning.placements import Grouped
    from profiler.profile import Component

ONLOAD, OFFLOAD = "onload", "offload"
HOST_AWAITS_COPIES, HOST_AWAITS_KERNELS = "host awaits copies", "host awaits kernels"
KERNELS_AWAIT_COPIES, COPIES_AWAIT_KERNELS = "kernels await copies", "copies await kernels"
"""Who waits: the host, the default stream (kernels), or the stream of copies."""

PAGEABLE, PINNED, DISK = "pageable", "pinned", "disk"


class Act(NamedTuple):
    """One thing that a hook does."""

    kind: str  # ONLOAD, OFFLOAD, or one that waits
    group: str = ""  # the path of the part by which the tracer names what moves
    tensors: tuple[
        int, ...
    ] = ()  # that came to the card or left it, by index; ties as often as they are held
    copied: tuple[int, ...] = ()  # bytes of each copy over the link
    source: str = PAGEABLE  # or where they go
    beside: bool = False  # the copies run on a stream of their own
    blocks: bool = True  # the host waits for each copy
    change_bytes: int = 0  # of what is allocated on the card
    transient_bytes: int = 0  # by how much the card's peak meanwhile exceeds what was there before
    reported_bytes: int = 0  # what a trace says has moved
    pinned_on_the_fly: bool = False  # the host first copies it into pinned memory
    asked_by: str = ""
    dropped: bool = False  # nothing went to the host: it has a copy


GROUP_ASKER = "diffusers.ModuleGroup"
ALIGN_ASKER = "accelerate.AlignDevicesHook"


class Sizes:
    """The bytes of a component's tensors, asked for by index."""

    def __init__(self, component: Component) -> None:
        self.moved = [tensor.numel * tensor.itemsize for tensor in component.tensors]
        self.allocated = [allocated_block_bytes(size) for size in self.moved]

    def copies(self, tensors: Iterable[int]) -> tuple[int, ...]:
        """Return the bytes of each copy."""
        return tuple(self.moved[index] for index in tensors if self.moved[index])

    def total(self, tensors: Iterable[int]) -> int:
        """Return what they take on the card."""
        return sum(self.allocated[index] for index in tensors)


@once_per_component
def sizes_of(component: Component) -> Sizes:
    """Return the bytes of the component's tensors."""
    return Sizes(component)


class GroupMachine:
    """A component under group offload."""

    def __init__(self, component: Component, grouped: Grouped) -> None:
        self._how = grouped
        structure = structure_of(component, grouped)
        self._groups, self._hooks = structure.groups, structure.hooks
        self._sizes = sizes_of(component)
        self._on_card: set[int] = set()
        # `Module.to` replaces a module's buffers, the group's list keeps the old ones: both travel from then on.
        self._stale: dict[int, bool] = {}
        self._stale_on_card: dict[int, bool] = {}
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
        return self._on_card.issuperset(tensors)

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
        stale = group.loose_buffers if self._stale.get(number) else ()
        stale_came = () if self._stale_on_card.get(number) else stale
        sent = group.tensors if group.streams or self._how.disk else (*came, *stale_came)
        self._on_card.update(came)
        self._stale_on_card[number] = bool(stale)
        reported = group.tensors if group.streams else (*came, *stale_came)
        learning = bool(self._first)
        yield Act(
            ONLOAD,
            group.path,
            (*came, *stale_came),
            sizes.copies(sent),
            DISK if self._how.disk else PINNED if group.streams else PAGEABLE,
            beside=group.streams,
            blocks=not group.streams or learning,
            pinned_on_the_fly=group.streams and (self._how.low_cpu_mem or self._how.disk),
            change_bytes=sizes.total(came) + sizes.total(stale_came),
            transient_bytes=self._transient(sent, came),
            reported_bytes=sum(sizes.moved[tensor] for tensor in reported),
            asked_by=GROUP_ASKER,
        )

    def _transient(self, sent: Iterable[int], came: list[int]) -> int:
        """Return the peak above what was there: a tensor that is sent again lies twice on the card for a moment."""
        there = self._on_card.difference(came)
        held = highest = 0
        for tensor in sent:
            size = self._sizes.allocated[tensor]
            highest = max(highest, held + size)
            if tensor not in there:
                held += size
        return highest

    def _offload(self, number: int) -> Iterator[Act]:
        group, sizes = self._groups[number], self._sizes
        if group.streams and not self._how.record_stream:
            yield Act(HOST_AWAITS_KERNELS)
        went = [tensor for tensor in group.tensors if tensor in self._on_card]
        stale = group.loose_buffers if self._stale_on_card.get(number) else ()
        freed = sizes.total(went) + sizes.total(stale)
        drops = group.streams or self._how.disk
        if went and not drops and not self._stale.get(number):
            # The first time it is one buffer, sent from both places.
            self._stale[number] = True
            stale = group.loose_buffers
        self._on_card.difference_update(went)
        self._stale_on_card[number] = False
        gone = (*went, *stale)
        yield Act(
            OFFLOAD,
            group.path,
            gone,
            () if drops else sizes.copies(gone),
            change_bytes=-freed,
            reported_bytes=0 if drops else sum(sizes.moved[tensor] for tensor in gone),
            asked_by=GROUP_ASKER,
            dropped=drops,
        )


class SequentialMachine:
    """A component under accelerate's `cpu_offload`: each part's own tensors come and go with it."""

    def __init__(self, component: Component) -> None:
        self._parts = component.parts
        self._sizes = sizes_of(component)
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
            self._sizes.copies(tensors),
            change_bytes=total,
            transient_bytes=total,
            reported_bytes=sum(self._sizes.moved[tensor] for tensor in tensors),
            asked_by=ALIGN_ASKER,
        )


def _is_below(component: Component, part: int, module: int) -> bool:
    path = component.parts[module].path
    return not path or component.parts[part].path.startswith(f"{path}.")
