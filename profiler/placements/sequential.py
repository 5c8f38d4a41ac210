"""Sequential offload by accelerate: each part's own tensors are on the GPU only during its forward.

Source: `AlignDevicesHook` in accelerate 1.15.0, hooks.py, and `cpu_offload` in its big_modeling.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from profiler.placements import placement
from profiler.placements.acts import ALIGN_ASKER, META, OFFLOAD, ONLOAD, UNCAST, Act, cast_act
from profiler.placements.group_structure import ROOT
from profiler.placements.placement import HostBytes, Placement
from profiler.placements.tensor_sizes import sizes_of
from profiler.placements.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from profiler.record.components import Component

SEQUENTIAL = "sequential"


@dataclass(frozen=True)
class Sequential(Placement):
    """A component under accelerate's `cpu_offload`, as `enable_sequential_cpu_offload` calls it."""

    place: str = SEQUENTIAL  # the only value; plan files contain it

    kind: ClassVar = "sequential"
    names: ClassVar = (SEQUENTIAL,)

    @classmethod
    def options(cls, component: Component, levers: Collection[str]) -> Iterator[Sequential]:  # noqa: ARG003
        """Yield the only option."""
        if placement.SEQUENTIAL in levers:
            yield cls()

    @property
    def name(self) -> str:
        """The name of the placement."""
        return self.place

    def is_valid(self) -> bool:
        """Tell whether this is the only valid value."""
        return self == Sequential()

    def machine(self, component: Component) -> SequentialMachine:
        """Return the machine that simulates the parts' hooks."""
        return SequentialMachine(component)

    def host_bytes(self, component: Component) -> HostBytes:
        """Return the host memory that the weights take: all of them are pageable."""
        return HostBytes(sum(sizes_of(component).moved), 0)

    def words(self) -> str:
        """Return a phrase for the placement."""
        return "layer by layer"


class SequentialMachine:
    """Simulation of accelerate's `cpu_offload`: each part's own tensors are onloaded and dropped with it."""

    def __init__(self, component: Component) -> None:
        self._component, self._dtype = component, UNCAST
        self._parts = component.parts
        self._sizes = sizes_of(component)
        self._converted: frozenset[int] = frozenset()  # tensors whose host copy has another dtype
        # As `enable_sequential_cpu_offload` decides: buffers are offloaded if the component itself has parameters.
        self._buffers_travel = bool(component.parts[ROOT].parameters)
        self._resident: set[int] = set()
        self._on_gpu: set[int] = set()

    def set_up(self) -> Iterator[Act]:
        """Onload the buffers that are not offloaded; they stay."""
        for part in self._parts:
            stay = part.loose_buffers if self._buffers_travel else part.buffers
            self._resident.update(stay)
            yield self._onload(part.path, stay)

    def here(self, tensors: Iterable[int]) -> bool:
        """Tell whether all of these tensors are on the GPU."""
        return (self._on_gpu | self._resident).issuperset(tensors)

    def settle(self) -> tuple[Act, ...]:
        """Return no operations: no part of the component moves as a whole."""
        return ()

    def cast(self, dtype: str) -> Act:
        """Cast the component: the host copies keep their dtype, and are converted whenever a part is entered."""
        weights = Weights(self._component)
        act = cast_act(weights, self._dtype, dtype, self._on_gpu | self._resident, away=META)
        self._converted = frozenset(weights.changed(UNCAST, dtype))
        self._dtype, self._sizes = dtype, sizes_of(self._component, dtype)
        return act

    def enter(self, part: int) -> Iterator[Act]:
        """Onload the part's tensors."""
        travelling = self._travelling(part)
        self._on_gpu.update(travelling)
        yield self._onload(self._parts[part].path, travelling)

    def leave(self, part: int) -> Iterator[Act]:
        """Drop the part's tensors."""
        travelling = self._travelling(part)
        self._on_gpu.difference_update(travelling)
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
