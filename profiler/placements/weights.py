"""Sizes of a component's weights, as a whole and through casts.

A component is on the GPU or on the CPU as a whole, and a cast gives all its floating-point tensors one dtype. So two
words describe its state: its device, and the dtype of its last cast. Moves count exact bytes; the GPU's allocator
rounds each tensor up to whole blocks.

`nn.Module._apply` replaces one tensor after another: while a tensor is cast on the GPU, both its old and its new
storage are allocated.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from profiler.allocator.settings import round_block

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from profiler.record.components import Component, TensorSize

_ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_FLOATS = {8: "float64", 4: "float32", 2: "float16", 1: "float8_e4m3fn"}
_INTEGERS = {8: "int64", 4: "int32", 2: "int16", 1: "int8"}


class WeightSize(NamedTuple):
    """A component's weights in one dtype state."""

    moved_bytes: int  # transferred by a copy of all weights
    allocated_bytes: int  # on the GPU
    dtype: str  # of most of the bytes


class CastOnGpu(NamedTuple):
    """GPU memory that a cast takes."""

    change_bytes: int  # in allocated bytes
    transient_bytes: int  # by how much the peak meanwhile exceeds what was allocated before


class Weights:
    """The sizes of one component's weights in every dtype state; `cast` is None before the first cast."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._sizes: dict[str | None, WeightSize] = {}
        self._extras: dict[tuple[str | None, str], int] = {}

    def size(self, cast: str | None) -> WeightSize:
        """Return the size of the weights once cast to `cast`."""
        if cast not in self._sizes:
            self._sizes[cast] = self._measure(cast)
        return self._sizes[cast]

    def cast_extra_bytes(self, cast: str | None, to: str) -> int:
        """Return by how much the peak exceeds `size(cast).allocated_bytes` during a cast on the GPU."""
        key = (cast, to)
        if key not in self._extras:
            self._extras[key] = self.walk_cast(cast, to).transient_bytes
        return self._extras[key]

    def changed(self, cast: str | None, to: str) -> tuple[int, ...]:
        """Return the indices of the tensors that a cast to `to` replaces."""
        return tuple(
            index
            for index, tensor in enumerate(self._component.tensors)
            if tensor.floating and self._dtype(tensor, cast) != to
        )

    def changed_bytes(self, cast: str | None, to: str) -> int:
        """Return the bytes, after the cast, of the tensors that a cast to `to` replaces."""
        tensors = self._component.tensors
        return sum(
            tensors[index].numel * self._itemsize(tensors[index], to)
            for index in self.changed(cast, to)
        )

    def tensor_bytes(self, cast: str | None) -> list[int]:
        """Return the bytes of each tensor once cast to `cast`."""
        return [one.numel * self._itemsize(one, cast) for one in self._component.tensors]

    def dtype_of(
        self, tensors: Iterable[int], cast: str | None = None, *, uncast: Iterable[int] = ()
    ) -> str:
        """Return the dtype of most of the bytes of these tensors; "" if there are none.

        Args:
            tensors: The indices of the tensors.
            cast: The dtype of their last cast.
            uncast: Further tensors, which no cast reached.
        """
        per_dtype: Counter[str] = Counter()
        for indices, dtype in ((tensors, cast), (uncast, None)):
            for index in indices:
                tensor = self._component.tensors[index]
                count = tensor.numel * self._itemsize(tensor, dtype)
                per_dtype[self._dtype(tensor, dtype)] += count
        return per_dtype.most_common(1)[0][0] if per_dtype else ""

    def floating_bytes(self, cast: str | None) -> int:
        """Return the bytes of the floating-point tensors, once cast to `cast`."""
        return sum(
            tensor.numel * self._itemsize(tensor, cast)
            for tensor in self._component.tensors
            if tensor.floating
        )

    def walk_cast(
        self,
        cast: str | None,
        to: str,
        there: Container[int] | None = None,
        kept: Container[int] = (),
    ) -> CastOnGpu:
        """Return the GPU memory that a cast takes.

        Args:
            cast: The dtype of the last cast.
            to: The dtype of this one.
            there: The indices of the tensors on the GPU; None for all.
            kept: The indices of the tensors whose old memory is also held elsewhere.
        """
        extra, highest = 0, 0
        for index in self.changed(cast, to):
            if there is None or index in there:
                tensor = self._component.tensors[index]
                old = round_block(tensor.numel * self._itemsize(tensor, cast))
                new = round_block(tensor.numel * self._itemsize(tensor, to))
                highest = max(highest, extra + new)
                extra += new if index in kept else new - old
        return CastOnGpu(extra, highest)

    def on_device_bytes(self, device: str) -> int:
        """Return the allocated bytes of the tensors that were on `device` at the end of set-up."""
        return sum(
            round_block(tensor.numel * tensor.itemsize)
            for tensor in self._component.tensors
            if tensor.device == device
        )

    def _measure(self, cast: str | None) -> WeightSize:
        per_dtype: Counter[str] = Counter()
        allocated = 0
        for tensor in self._component.tensors:
            count = tensor.numel * self._itemsize(tensor, cast)
            per_dtype[self._dtype(tensor, cast)] += count
            allocated += round_block(count)
        dtype = max(per_dtype, key=lambda name: per_dtype[name], default="")
        return WeightSize(sum(per_dtype.values()), allocated, dtype)

    def _itemsize(self, tensor: TensorSize, cast: str | None) -> int:
        return _ITEMSIZES.get(cast, 1) if cast is not None and tensor.floating else tensor.itemsize

    def _dtype(self, tensor: TensorSize, cast: str | None) -> str:
        if not tensor.floating:
            return _INTEGERS.get(tensor.itemsize, self._component.dtype)
        if cast is not None:
            return cast
        main = self._component.dtype
        return main if _ITEMSIZES.get(main) == tensor.itemsize else _FLOATS[tensor.itemsize]


def weights_of(components: Iterable[Component]) -> dict[str, Weights]:
    """Return the weights of each component, by name."""
    return {component.name: Weights(component) for component in components}
