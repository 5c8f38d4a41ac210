"""Operators whose result depends on values: implemented here, and never cached.

If the value is unknown, the one that bounds memory from above is assumed, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from profiler.virtual.copies import LinkCopy
from profiler.virtual.operators.indexing import fills_a_mask, is_mask
from profiler.virtual.operators.scratch import counting_scratch, selecting_scratch
from profiler.virtual.tensor import CPU, VirtualTensor, aten, canonical

if TYPE_CHECKING:
    from profiler.virtual.device import Device

_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
_COUNT_BYTES = 4  # how many elements are not zero, an int


class ValuedOperators:
    """Serves these operators for one virtual GPU."""

    def __init__(self, gpu: Device) -> None:
        self.gpu = gpu
        self._specials: dict[Any, Callable[..., Any]] = {
            aten._local_scalar_dense.default: self._item,
            aten.equal.default: self._equal,
            aten.allclose.default: self._allclose,
            aten.lift_fresh.default: self._lift,
            aten.lift.default: self._lift,
            aten.nonzero.default: self._nonzero,
            aten.masked_select.default: self._masked_select,
            aten.is_pinned.default: lambda func, args, kwargs: args[0].is_pinned(),
            aten._pin_memory.default: lambda func, args, kwargs: self.gpu.pin(args[0]),
            aten.record_stream.default: lambda func, args, kwargs: None,
            aten.scalar_tensor.default: self._scalar,
            aten.repeat_interleave.Tensor: self._computed,
            aten.topk.default: self._topk,
            aten.bincount.default: self._bincount,
            aten._unique2.default: self._computed,
            aten.unique_consecutive.default: self._computed,
            aten.unique_dim.default: self._computed,
        }

    def find(self, func: Any, args: Any) -> Callable[..., Any] | None:
        """Return the function that serves an operator, or None if it does not depend on values."""
        if func in _INDEXED and any(map(is_mask, args[1])):
            return None if self._fills(func, args) else self._index_mask
        return self._specials.get(func)

    def _item(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        if tensor.is_cuda:
            self._read(tensor.element_size())
        with self.gpu.suspended():
            return self.gpu.values.read(tensor, "item").item()

    def _read(self, nbytes: int) -> None:
        """Bring so many bytes from the GPU, through pinned memory.

        Source: `_local_scalar_dense_cuda` in cuda/CUDAScalar.cu, `nonzero_cuda_out_impl` in cuda/Nonzero.cu.
        """
        block = self.gpu.host.pin(nbytes)
        self.gpu.copy(LinkCopy("cuda", "cpu", nbytes), block, pinned=True)
        if block is not None:
            self.gpu.host.pinned.free(block)

    def _equal(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Compare two tensors; on the GPU by a mask, all of which must be true, unless they are the same memory.

        Source: `cuda_equal` in cuda/Equal.cpp.
        """
        one, other = args
        if one.is_cuda and one.shape == other.shape and not _is_alias(one, other):
            with self.gpu.mode():
                mask = torch.eq(one, other)
                self._found(mask.all())
        return self._compared(torch.equal, "equal", args, {})

    def _allclose(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Compare two tensors as `torch.isclose` does. Source: `allclose` in TensorCompare.cpp."""
        with self.gpu.mode():
            mask = torch.isclose(*args, **kwargs)
            self._found(mask.all())
        return self._compared(torch.allclose, "allclose", args, kwargs)

    def _found(self, answer: Any) -> None:
        """Read an answer from the GPU."""
        if answer.is_cuda:
            self._read(answer.element_size())

    def _compared(self, compare: Callable[..., bool], name: str, args: Any, kwargs: Any) -> bool:
        reals = [self.gpu.values.known(tensor) for tensor in args[:2]]
        if all(real is not None for real in reals):
            with self.gpu.suspended():
                return compare(*reals, *args[2:], **kwargs)
        self.gpu.values.assume(name, "taken to be equal")
        return True

    def _lift(self, func: Any, args: Any, kwargs: Any) -> VirtualTensor:
        tensor = args[0]
        if isinstance(tensor, VirtualTensor):
            return tensor
        return self.gpu.lift(tensor)

    def _scalar(self, func: Any, args: Any, kwargs: Any) -> VirtualTensor:
        """Make the scalar of `x[0] = 3`, which C++ makes on the device that it sees for `x`, `meta`."""
        with self.gpu.suspended():
            real = torch.scalar_tensor(args[0], dtype=kwargs.get("dtype"))
        return self.gpu.place(real, canonical(kwargs.get("device") or CPU))

    def _nonzero(self, func: Any, args: Any, kwargs: Any) -> VirtualTensor:
        """Find the elements that are not zero: on the GPU they are counted first, then selected, by CUB.

        Source: `nonzero_cuda_out_impl` in cuda/Nonzero.cu.
        """
        mask = args[0]
        if not mask.is_cuda:
            return self._positions(mask)
        with self.gpu.temporaries() as held:
            if not mask.is_contiguous():
                held.take(mask.nbytes)
            held.take(_COUNT_BYTES)
            for nbytes in counting_scratch(mask.numel()):
                held.take(nbytes)
                held.take(-nbytes)
            self._read(_COUNT_BYTES)
            found = self._positions(mask)
            for nbytes in selecting_scratch(self.gpu.spec, mask.numel()):
                held.take(nbytes)
        return found

    def _positions(self, mask: VirtualTensor) -> VirtualTensor:
        """Return where a mask is true `[count, dimensions]`."""
        known = self.gpu.values.known(mask)
        if known is not None:
            with self.gpu.suspended():
                return self.gpu.place(known.nonzero(), mask.device)
        self.gpu.values.assume("nonzero", "every element taken to be nonzero")
        return self.gpu.empty((mask.numel(), mask.dim()), torch.int64, mask.device)

    def _masked_select(self, func: Any, args: Any, kwargs: Any) -> VirtualTensor:
        source, mask = torch.broadcast_tensors(*args)
        return self._index_mask(aten.index.Tensor, (source, [mask]), {})

    @staticmethod
    def _fills(func: Any, args: Any) -> bool:
        return func is not aten.index.Tensor and fills_a_mask(*args[1:3])

    def _index_mask(self, func: Any, args: Any, kwargs: Any) -> VirtualTensor:
        """Index by positions, as CUDA does: a mask becomes the index tensors of its nonzero elements."""
        source, indices, *values = args
        positions: list[Any] = []
        for index in indices:
            if is_mask(index):
                found = self._nonzero(aten.nonzero.default, (index,), {})
                positions += [found.select(1, dim) for dim in range(index.dim())]
            else:
                positions.append(index)
        return self.gpu.dispatch(func, (source, positions, *values), kwargs)  # type: ignore[no-any-return]

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Serve an operator whose output size depends on values: computed, or as large as its input."""
        reals = [
            self.gpu.values.known(tensor)
            for tensor in tree_leaves(args)
            if isinstance(tensor, VirtualTensor)
        ]
        source = args[0]
        with self.gpu.suspended():
            if all(real is not None for real in reals):
                result = func(*self.gpu.values.realised(args), **self.gpu.values.realised(kwargs))
            else:
                self.gpu.values.assume(
                    func.__name__, "its output taken to be as large as its input"
                )
                result = func(
                    torch.arange(source.numel()), *self.gpu.values.realised(args[1:]), **kwargs
                )
            return tree_map(lambda leaf: self.gpu.place(leaf, source.device), result)

    def _topk(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Record the number of candidates and of choices with indices whose values are unknown."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, VirtualTensor)]
        with self.gpu.suspended():
            entry = self.gpu.operators.learn(func, args, kwargs, tensors)
        values, indices = self.gpu.dispatch.run(entry, func, args, kwargs, tensors)
        dim = args[2] if len(args) > 2 else kwargs.get("dim", -1)
        if args[0].dim() and indices.storage_record.real is None:
            indices.storage_record.routing = (args[0].shape[dim], indices.shape[dim])
        return values, indices

    def _bincount(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Count the occurrences of each index; by assumption, if the indices are the experts of tokens."""
        routing = args[0].storage_record.routing
        if routing is None or self.gpu.values.known(args[0]) is not None:
            return self._computed(func, args, kwargs)
        counts = self.gpu.values.routed(args[0].numel(), *routing)
        with self.gpu.suspended():
            # `torch.tensor` is served by the GPU itself, and would return a virtual one.
            return self.gpu.place(torch.LongTensor(counts), args[0].device)


def _is_alias(one: VirtualTensor, other: VirtualTensor) -> bool:
    """Tell whether two tensors of one shape are the same elements of the same memory."""
    return (
        one.storage_record is other.storage_record
        and one.storage_offset() == other.storage_offset()
        and one.stride() == other.stride()
    )
