"""Values of virtual tensors: kept while they are small and known, so that schedulers, masks and `.item()` work.

A storage holds the real bytes, and all its views share them, so a write through one is seen by all. A write of an
unknown value makes the whole storage unknown. If code reads a value that is not known, the assumption is
counted and reported.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from profiler.virtual.dispatch import NEW, Out
from profiler.virtual.tensor import CPU, META, VirtualTensor, aten, canonical

if TYPE_CHECKING:
    from profiler.virtual.dispatch import LearnedOperator

MOST_ELEMENTS = 1 << 16
ROUTING = "routing"

# What one operand decides whatever the other is: true of "or", false of "and".
_DECIDED_BY = {
    aten.bitwise_or.Tensor: True,
    aten.logical_or.default: True,
    aten.bitwise_and.Tensor: False,
    aten.logical_and.default: False,
}

# These write every element of their target, so that it is known again.
_OVERWRITES = {aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default, aten.copy_.default}


class Values:
    """The values of one virtual GPU's tensors.

    Attributes:
        assumed: how often each assumption was made, by (what was read, what was assumed).
        crowded: whether all tokens are assumed to go to the same experts, rather than evenly to all.
    """

    def __init__(self) -> None:
        self.assumed: Counter[tuple[str, str]] = Counter()
        self.crowded = False

    def assume(self, asked: str, taken: str) -> None:
        """Count an assumption."""
        self.assumed[asked, taken] += 1

    def routed(self, choices: int, experts: int, chosen: int) -> list[int]:
        """Return the number of tokens of each expert, with the assumption counted.

        These are the two bounds of an expert's work: as few tokens for the fullest expert as possible, or all of them
        (a token never chooses an expert twice, so as many experts are full as a token chooses).

        Args:
            choices: tokens times `chosen`.
            experts: the number of experts.
            chosen: the number of experts that a token goes to.
        """
        if self.crowded:
            self.assume(ROUTING, "all tokens go to the same experts")
            return [choices // chosen if index < chosen else 0 for index in range(experts)]
        self.assume(ROUTING, "tokens go evenly to all experts")
        share, rest = divmod(choices, experts)
        return [share + (index < rest) for index in range(experts)]

    def known(self, tensor: VirtualTensor) -> torch.Tensor | None:
        """Return the value of `tensor` as a real tensor that shares the storage's bytes, or None."""
        real = tensor.storage_record.real
        if real is None:
            return None
        with _disable_current_modes():
            return _look_into(real, tensor)

    def read(self, tensor: VirtualTensor, asked: str) -> torch.Tensor:
        """Return the value of `tensor`; zeros, with the assumption counted, if it is unknown."""
        real = self.known(tensor)
        if real is not None:
            return real
        self.assume(asked, "zeros")
        with _disable_current_modes():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)

    def keep(self, tensor: VirtualTensor, real: torch.Tensor) -> None:
        """Make `real` the value of `tensor`'s storage, if it is small and of the same shape and dtype.

        A CPU kernel may return less than the operator promises: statistics that only training needs are empty.
        """
        if real.numel() > MOST_ELEMENTS or (real.dtype, real.shape) != (tensor.dtype, tensor.shape):
            return
        storage = real.untyped_storage()
        same_layout = (
            real.stride() == tensor.stride() and real.storage_offset() == tensor.storage_offset()
        )
        if not same_layout or storage.nbytes() < tensor.storage_record.nbytes:
            copy = torch.empty(tensor.storage_record.nbytes, dtype=torch.uint8).untyped_storage()
            _look_into(copy, tensor).copy_(real)
            storage = copy
        tensor.storage_record.real = storage

    def realised(self, tree: Any) -> Any:
        """Return `tree`, of tuples, lists and dicts, with known tensors as real ones and CUDA devices as the CPU."""
        kind = type(tree)
        if isinstance(tree, VirtualTensor):
            real = tree.storage_record.real
            assert real is not None, "a value was asked for that is not known"
            return _look_into(real, tree)
        if kind is tuple or kind is list:
            return kind(map(self.realised, tree))
        if kind is dict:
            return {name: self.realised(value) for name, value in tree.items()}
        return CPU if kind is torch.device else tree

    def follow(
        self,
        entry: LearnedOperator,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        tensors: list[VirtualTensor],
        result: Any,
    ) -> None:
        """Compute the operator's values if all its inputs are known; otherwise forget those that it overwrites."""
        written = {id(tensors[index]) for index in entry.writes}
        inputs = [
            tensor for tensor in tensors if id(tensor) not in written or func not in _OVERWRITES
        ]
        if any(tensor.storage_record.real is None for tensor in inputs):
            for index in entry.writes:
                tensors[index].storage_record.real = None
            if func in _DECIDED_BY:
                self._decide(_DECIDED_BY[func], inputs, result)
            return
        with _disable_current_modes():
            if entry.writes:
                self._write(func, args, kwargs, [tensors[index] for index in entry.writes])
            elif entry.valued:
                self._compute(entry, func, args, kwargs, result)

    def _decide(self, by: bool, inputs: list[VirtualTensor], result: VirtualTensor) -> None:
        """Keep the result of "or" or "and" if one known operand decides all of it.

        So a text that is generated ends at its longest, although nobody knows whether it would have ended before.
        """
        with _disable_current_modes():
            for tensor in inputs:
                real = tensor.storage_record.real
                if real is None or (by and tensor.dtype != torch.bool):
                    continue
                known = _look_into(real, tensor)
                if known.numel() and bool(known.all() if by else not known.any()):
                    self.keep(result, torch.full(result.shape, by, dtype=result.dtype))
                    return

    def _compute(
        self, entry: LearnedOperator, func: Any, args: Any, kwargs: dict[str, Any], result: Any
    ) -> None:
        real = func(*self.realised(tuple(args)), **_on_cpu(self.realised(dict(kwargs))))
        outs = result if isinstance(result, list) else [result]
        for out, tensor, value in zip(
            entry.outs, outs, real if isinstance(result, list) else [real], strict=True
        ):
            if isinstance(out, Out) and out.source == NEW:
                self.keep(tensor, value)

    def _write(
        self, func: Any, args: Any, kwargs: dict[str, Any], targets: list[VirtualTensor]
    ) -> None:
        if func in _OVERWRITES:
            (target,) = targets
            if target.storage_record.real is None and not self._cover(target):
                return
        random = torch.Tag.nondeterministic_seeded in func.tags
        if random or any(target.storage_record.real is None for target in targets):
            for target in targets:
                target.storage_record.real = None
            return
        func(*self.realised(tuple(args)), **_on_cpu(self.realised(dict(kwargs))))

    @staticmethod
    def _cover(target: VirtualTensor) -> bool:
        """Give a small storage bytes to be written to, if `target` covers all of it."""
        record = target.storage_record
        covers = target.nbytes == record.nbytes
        if not covers or target.numel() > MOST_ELEMENTS or record.device == META:
            return False
        record.real = torch.empty(record.nbytes, dtype=torch.uint8).untyped_storage()
        return True


def _look_into(storage: torch.UntypedStorage, tensor: VirtualTensor) -> torch.Tensor:
    empty = torch.empty(0, dtype=tensor.dtype)
    return empty.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())  # type: ignore[arg-type]


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    if kwargs.get("device") is not None and canonical(kwargs["device"]).type == "cuda":
        kwargs["device"] = torch.device("cpu")
    return {
        name: value
        for name, value in kwargs.items()
        if name not in ("generator", "pin_memory", "non_blocking")
    }
