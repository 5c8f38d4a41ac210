"""The interface of a placement inside a component: its tensors move part by part, and not as a whole.

One file a placement (`grouped`, `sequential`, `streamed`): its options, its hooks' moves, its host memory, its rules
and its words. `table` lists them; the half that works on real modules is the file of its name in `applying/hooks`.
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
"""What a plan may use besides the sequence and exclusions: host copies that are kept, blocks that travel, diffusers'
group offload and accelerate's sequential offload. `disk` has to be asked for, since it writes the weights to a disk."""


class Machine(Protocol):
    """The hooks inside one component: told of each part that is entered and left, it answers with their acts."""

    def set_up(self) -> Iterable[Act]:
        """Return what placing the hooks does, on a component that is on the CPU."""

    def enter(self, part: int) -> Iterable[Act]:
        """Return what they do when a part is entered."""

    def leave(self, part: int) -> Iterable[Act]:
        """Return what they do when a part is left."""

    def settle(self) -> Iterable[Act]:
        """Return what they do when the component's own hook brings it or sends it away."""

    def cast(self, dtype: str) -> Act:
        """Return what a cast of the whole component to `dtype` does, whose floating-point tensors all get it."""

    def here(self, tensors: Iterable[int]) -> bool:
        """Tell whether the GPU has all of these tensors, as far as the hooks move them, and as the model has them."""


class HostBytes(NamedTuple):
    """Bytes of host memory."""

    pageable: int
    pinned: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.pageable + self.pinned


class Facts(NamedTuple):
    """What the rules ask of one component."""

    blocks: int = 0  # entries of its outermost `nn.ModuleList`s
    first_block: int | None = None  # the block that holds its first parameter, if one does
    has_parameters: bool = True
    quantized: bool = False  # by a library whose tensors are more than parameters and buffers
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
    """Tells whether the placement, on a component of which these are the facts, breaks the rule."""


class Placement(ABC):
    """How the tensors of one component move inside it; plain data, compared by value.

    Attributes:
        kind: its name in a plan's file.
        names: what `name` can be.
        rules: what libraries and our own hooks demand of it.
        leaves_rest: whether a part of the component moves as a whole, in a sequence or not.
        needs_forward: whether its component must be entered by its `forward` alone, and never be cast.
    """

    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[tuple[PlacementRule, ...]] = ()
    leaves_rest: ClassVar[bool] = False
    needs_forward: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def options(cls, component: Component, levers: Collection[str]) -> Iterator[Self]:
        """Yield the ways in which a plan with these levers may place a component so."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of where the component lives; "" if that is decided by what moves as a whole."""

    @abstractmethod
    def machine(self, component: Component) -> Machine:
        """Return the machine that follows its hooks inside `component`."""

    @abstractmethod
    def host_bytes(self, component: Component) -> HostBytes:
        """Return what the weights that do not move as a whole take of the host's memory, at rest."""

    @abstractmethod
    def words(self) -> str:
        """Return the placement as a phrase."""

    @property
    def on_disk(self) -> bool:
        """Whether its weights are kept in files."""
        return False

    @property
    def keeps_copies(self) -> bool:
        """Whether copies are kept that a cast of the component does not reach."""
        return False

    def is_valid(self) -> bool:
        """Tell whether its values have a meaning; they may come from a file."""
        return True

    def representative(self) -> Placement:
        """Return the one whose hooks touch the most parts of those of its kind: if it is sound, so is this."""
        return self

    def checked_parts(self, component: Component) -> frozenset[int] | None:  # noqa: ARG002
        """Return the parts that must find their tensors on the GPU; None for all."""
        return None

    def rest(self, component: Component) -> Component:
        """Return what of `component` moves as a whole, as a component of its own; all of it if nothing does."""
        return component
