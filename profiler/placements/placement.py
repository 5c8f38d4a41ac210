"""The interface of a placement inside a component, whose tensors move part by part instead of as a whole.

Each placement has its own file (`grouped`, `sequential`, `streamed`) with its options, the moves of its hooks, its host
memory, its rules and its wording. `table` lists them. The half that works on real modules is in the file of the same
name in `applying/hooks`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from profiler.placements.acts import Act
    from profiler.record.components import Component

SWAP, STREAM, GROUP, SEQUENTIAL, DISK = "swap", "stream", "group", "sequential", "disk"
LEVERS = (SWAP, STREAM, GROUP, SEQUENTIAL)
RECORDED = "recorded"
"""Recorded streams of group offload, which no user chooses: freed blocks come back later with them, so a plan whose run
fails for pieces of memory is sought again without."""
"""Options of a plan besides sequence and exclusions: kept host copies, streamed blocks, diffusers' group offload and
accelerate's sequential offload. `disk` has to be asked for, since it writes the weights to a disk."""


class Machine(Protocol):
    """Simulation of the hooks inside one component: yields their operations as parts are entered and left."""

    def set_up(self) -> Iterable[Act]:
        """Return the operations of attaching the hooks to a component that is on the CPU."""

    def enter(self, part: int) -> Iterable[Act]:
        """Return the hooks' operations when a part is entered."""

    def leave(self, part: int) -> Iterable[Act]:
        """Return the hooks' operations when a part is left."""

    def settle(self) -> Iterable[Act]:
        """Return the hooks' operations when the component's own hook onloads or offloads it."""

    def cast(self, dtype: str) -> Act:
        """Return the cast of the whole component to `dtype`, which all its floating-point tensors get."""

    def here(self, tensors: Iterable[int]) -> bool:
        """Tell whether the GPU has all of these tensors, as far as the hooks move them, in their current state."""


class HostBytes(NamedTuple):
    """Bytes of host memory."""

    pageable: int
    pinned: int

    @property
    def total(self) -> int:
        """Pageable and pinned bytes together."""
        return self.pageable + self.pinned


class Facts(NamedTuple):
    """Properties of one component that the rules depend on."""

    blocks: int = 0  # entries of its outermost `nn.ModuleList`s
    first_block: int | None = None  # the block that holds its first parameter, if one does
    has_parameters: bool = True
    quantized: bool = False  # by a library that keeps tensors besides parameters and buffers
    movable: bool = True  # False for 8-bit weights that `enable_model_cpu_offload` leaves alone
    groupable: bool = True  # `_supports_group_offloading` of its class
    tied: bool = False  # two of its modules hold the same tensor
    upcast: bool = False  # its pipeline casts it within a call
    castable: bool = False  # a denoiser with `enable_layerwise_casting`
    tiles: bool = False  # the VAE, with `enable_tiling`
    slices: bool = False  # the VAE, with `enable_slicing`


class PlacementRule(NamedTuple):
    """A rule of one placement."""

    name: str
    sentence: str
    broken_by: Callable[[Any, Facts], bool]
    """Tells whether the placement breaks the rule on a component with these facts."""


class Placement(ABC):
    """A placement of the tensors inside one component; plain data, compared by value.

    Attributes:
        kind: The name in a plan's file.
        names: The values that `name` can have.
        rules: The requirements of the libraries and of our own hooks.
        leaves_rest: Whether the rest of the component moves as a whole, in a sequence or not.
        needs_forward: Whether the component must be entered only through its `forward`, and must never be cast.
    """

    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[tuple[PlacementRule, ...]] = ()
    leaves_rest: ClassVar[bool] = False
    needs_forward: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def options(cls, component: Component, levers: Collection[str]) -> Iterator[Self]:
        """Yield the placements of this kind that a plan with these levers may give a component."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the placement; "" if the part that moves as a whole decides it."""

    @abstractmethod
    def machine(self, component: Component) -> Machine:
        """Return the machine that simulates the hooks inside `component`."""

    @abstractmethod
    def host_bytes(self, component: Component) -> HostBytes:
        """Return the host memory that the weights that do not move as a whole take at rest."""

    @abstractmethod
    def words(self) -> str:
        """Return a phrase for the placement."""

    @property
    def on_disk(self) -> bool:
        """True if the weights are kept in files."""
        return False

    @property
    def on_stream(self) -> bool:
        """True if weights are copied from page-locked memory on a stream of their own."""
        return False

    @property
    def keeps_copies(self) -> bool:
        """True if copies are kept that a cast of the component does not reach."""
        return False

    def is_valid(self) -> bool:
        """Tell whether the values are valid; they may come from a file."""
        return True

    def representative(self) -> Placement:
        """Return the placement of this kind whose hooks touch the most parts: if that one is sound, so is this."""
        return self

    def checked_parts(self, component: Component) -> frozenset[int] | None:  # noqa: ARG002
        """Return the parts whose tensors must be on the GPU when they are entered; None for all."""
        return None

    def rest(self, component: Component) -> Component:
        """Return the rest of `component`, which this placement does not move, as a component; by default all of it."""
        return component
