"""The effects of operators, learned once on meta tensors unless they depend on data (`valued.py`).

A meta tensor exists only while an operator is being learned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from profiler.errors import InputError
from profiler.gpus import calibration
from profiler.virtual.convolutions import convolution_layout
from profiler.virtual.copies import LinkCopy, link_copy, pins_its_result
from profiler.virtual.dispatch import ARGUMENT, NEW, LearnedOperator, Out
from profiler.virtual.operators import unfollowed
from profiler.virtual.operators.attention import on_host
from profiler.virtual.operators.composed import composed
from profiler.virtual.operators.devices import device_of
from profiler.virtual.operators.kernels import Kernel
from profiler.virtual.operators.mixed_dtypes import refuse_mixed_dtypes
from profiler.virtual.operators.pointwise_layout import laid_out
from profiler.virtual.operators.quantisation_kernels import LibraryKernels
from profiler.virtual.operators.results import as_on_cuda
from profiler.virtual.operators.rules import rule_of
from profiler.virtual.operators.valued import ValuedOperators
from profiler.virtual.tensor import CPU, META, VirtualTensor, aten
from profiler.virtual.values import MOST_ELEMENTS
from profiler.virtual.workspaces import Workspace

if TYPE_CHECKING:
    from profiler.virtual.device import Device

# These may mix devices: CUDA kernels take CPU tensors here (indices, or the other side of a copy).
# The first tensor determines the result's device, whatever the others': C++ makes the indices of `x[:, [0, 1]]` on
# `meta`.
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

# Composite on other devices, one kernel on CUDA.
_FUSED = {aten._fused_rms_norm.default}


class Operators:
    """Learns operators for one virtual GPU."""

    def __init__(self, gpu: Device) -> None:
        self.gpu = gpu
        self._libraries = LibraryKernels(gpu)
        self._valued = ValuedOperators(gpu)

    def lifted(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Return the arguments with every real tensor turned into a virtual one, each once.

        Raises:
            InputError: for real weights, which would stay on the CPU without being counted.
        """
        memo: dict[int, VirtualTensor] = {}

        def lift(leaf: Any) -> Any:
            if isinstance(leaf, torch.Tensor) and not isinstance(leaf, VirtualTensor):
                if isinstance(leaf, torch.nn.Parameter):
                    raise InputError(
                        "real weights, of a module that was made outside of this VirtualGPU, cannot be moved or "
                        "computed with inside: use a twin of it, gpu.lend(pipe), or profile_pipeline(pipe)"
                    )
                if id(leaf) not in memo:
                    memo[id(leaf)] = self.gpu.lift(leaf)
                return memo[id(leaf)]
            return leaf

        return tree_map(lift, args), tree_map(lift, kwargs)

    def special(self, func: Any, args: Any) -> Callable[..., Any] | None:
        """Return the function that serves an operator that cannot be cached, or None."""
        valued = self._valued.find(func, args)
        if valued is not None:
            return valued
        if func._schema.name.endswith("_") and torch.Tag.inplace_view in func.tags:
            return self._inplace_view
        if composed(func, args) is not None:
            return self._compose
        if func not in _FUSED and _is_composite(func):
            return self._decompose
        return self._libraries.find(func, args)

    # -- learning

    def learn(
        self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[VirtualTensor]
    ) -> LearnedOperator:
        """Run `func` on meta tensors and return its effects.

        Raises:
            RuntimeError: if its tensors are on different devices, with torch's wording.
        """
        device = device_of(func, kwargs, tensors)
        if device.type == "cuda":
            refuse_mixed_dtypes(func, args)
        metas = {id(tensor): _meta_of(tensor) for tensor in tensors}

        def to_meta(leaf: Any) -> Any:
            return metas[id(leaf)] if isinstance(leaf, VirtualTensor) else leaf

        meta_args = tree_map(to_meta, tuple(args))
        meta_kwargs = {name: tree_map(to_meta, value) for name, value in kwargs.items()}
        result = self._on_meta(func, meta_args, _for_meta(func, meta_kwargs, tensors))
        if device.type == "cuda":
            result = as_on_cuda(func, meta_args, result)
        outs = tuple(
            self._out(leaf, CPU, tensors, metas, counted=False)
            if on_host(func, index)
            else self._out(leaf, device, tensors, metas)
            for index, leaf in enumerate(_listed(result))
        )
        copy = self._copy(func, device, tensors, (args, kwargs), (metas, result))
        if _pins(func, copy, device, kwargs):
            outs = tuple(_pinned(out) for out in outs)
        entry = LearnedOperator(outs, _shape_of_result(result))
        entry.writes = _writes(func, args, kwargs, tensors)
        entry.valued = _may_have_value(func, device, tensors, outs)
        entry.copy = copy
        if device.type == "cuda" and entry.copy is None and _works(outs, entry.writes):
            unfollowed.tell_modes(
                self.gpu, func, tensors[0].dtype if tensors else torch.get_default_dtype()
            )
            unfollowed.tell_unknown(self.gpu, func)
            self._take_costs(entry, Kernel(self.gpu.spec, func, meta_args, meta_kwargs, result))
        elif entry.copy is not None:
            entry.workspace = Workspace(entry.copy.gpu_scratch_bytes)
        return entry.settle()

    def _take_costs(self, entry: LearnedOperator, kernel: Kernel) -> None:
        entry.on_gpu = True
        entry.seconds = kernel.seconds()
        entry.workspace = kernel.workspace()
        entry.steps = kernel.steps()
        entry.soft = kernel.is_convolution
        entry.blas = kernel.needs_blas_workspace
        if self.gpu.others is not None:
            entry.seconds = self.gpu.others.compare(kernel)
        if kernel.is_measured:
            self.gpu.values.assume("calibration", calibration.source_of(self.gpu.spec))
        elif kernel.is_convolution and entry.workspace.most:
            unfollowed.tell_source(self.gpu, entry.workspace)

    def _on_meta(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of `func` on meta tensors; an unknown operator returns tensors like its first argument.

        Raises:
            InputError: for tensors of another layout.

        Source: without a kernel for `meta`, an operator from C++ raises NotImplementedError, and one from Python
        (torch/_library/custom_ops.py) RuntimeError.
        """
        unfollowed.refuse_layout(func)
        if func is aten.convolution.default:
            layout = convolution_layout(self.gpu.spec, args)
            return func(*args, **kwargs).contiguous(memory_format=layout)
        try:
            return laid_out(func, args, func(*args, **kwargs))
        except (NotImplementedError, RuntimeError) as error:
            if rule_of(func) is not None or not (
                isinstance(error, NotImplementedError) or _NO_FAKE in str(error)
            ):
                raise
            return _like_the_first(func, args)

    def _out(
        self,
        leaf: Any,
        device: torch.device,
        tensors: list[VirtualTensor],
        metas: dict[int, torch.Tensor],
        *,
        counted: bool = True,
    ) -> Out | int | None:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        storage = leaf.untyped_storage()
        source, index = NEW, 0
        for position, tensor in enumerate(tensors):
            meta = metas[id(tensor)]
            if meta is leaf:
                source, index = ARGUMENT, position
                break
            if meta.untyped_storage()._cdata == storage._cdata:
                source = position
        if source not in (NEW, ARGUMENT):
            device = tensors[source].device
        shape, stride, offset = tuple(leaf.shape), tuple(leaf.stride()), int(leaf.storage_offset())
        tag = self.gpu.tags.of((shape, stride, leaf.dtype, offset, device))
        nbytes = storage.nbytes() if source == NEW and counted else 0
        return Out(source, shape, stride, leaf.dtype, offset, nbytes, tag, device, index)

    @staticmethod
    def _copy(
        func: Any,
        device: torch.device,
        tensors: list[VirtualTensor],
        call: tuple[Any, dict[str, Any]],
        learned: tuple[dict[int, torch.Tensor], Any],
    ) -> LinkCopy | None:
        """Return the copy over the link, if there is one."""
        args, kwargs = call
        metas, result = learned
        non_blocking = bool(kwargs.get("non_blocking", False))
        if func is aten.copy_.default and len(tensors) > 1:
            non_blocking = non_blocking or (len(args) > 2 and bool(args[2]))
        elif func is not aten._to_copy.default:
            return None
        source = tensors[-1]
        devices = (source.device.type, device.type)
        if devices not in (("cpu", "cuda"), ("cuda", "cpu")):
            return None
        return link_copy(devices, metas[id(source)], result, non_blocking=non_blocking)

    # -- operators that are run in another way

    def _inplace_view(self, func: Any, args: Any, kwargs: Any) -> VirtualTensor:
        """Change a tensor's own metadata (`unsqueeze_`, `t_`, `resize_`, ...)."""
        tensor = args[0]
        twin = getattr(aten, func._schema.name.split("::")[1][:-1], None)
        if twin is None:
            raise RuntimeError(
                f"{func} changes a tensor's shape in place, which a virtual tensor cannot follow"
            )
        tensor.data = twin(*args, **kwargs)
        return tensor  # type: ignore[no-any-return]

    def _compose(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self.gpu.mode():
            return composed(func, args)(*args, **kwargs)  # type: ignore[misc]

    def _decompose(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self.gpu.mode():
            # Follows C++, not Python's decomposition (`func.decompose`), which exists for some of them.
            return func._op_dk(_COMPOSITE, *args, **kwargs)


def _is_composite(func: Any) -> bool:
    """Tell whether C++ takes an operator apart on every device; torch's Python decompositions serve other purposes."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE.name)


def _meta_of(tensor: VirtualTensor) -> torch.Tensor:
    size = -(-tensor.storage_record.nbytes // tensor.element_size())
    flat = torch.empty(size, dtype=tensor.dtype, device=META)
    meta = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    meta.fake_device = tensor.device  # type: ignore[attr-defined]  # `meta__weight_int4pack_mm` asks for it
    return meta


def _for_meta(func: Any, kwargs: dict[str, Any], tensors: list[VirtualTensor]) -> dict[str, Any]:
    takes_device = any(argument.name == "device" for argument in func._schema.arguments)
    replaced = dict(kwargs)
    if "generator" in replaced:
        replaced["generator"] = None
    if replaced.get("pin_memory"):
        replaced["pin_memory"] = False
    if takes_device and (replaced.get("device") is not None or not tensors):
        replaced["device"] = META
    return replaced


def _listed(result: Any) -> list[Any]:
    if result is None:
        return []
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _shape_of_result(result: Any) -> str:
    if result is None:
        return "none"
    return "one" if isinstance(result, torch.Tensor) else "list"


def _writes(
    func: Any, args: Any, kwargs: dict[str, Any], tensors: list[VirtualTensor]
) -> tuple[int, ...]:
    written: list[int] = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, VirtualTensor)]
        written += [_index_of(leaf, tensors) for leaf in leaves]
    return tuple(written)


def _index_of(leaf: VirtualTensor, tensors: list[VirtualTensor]) -> int:
    """Return the first place of a tensor; `x.copy_(x)` has it twice."""
    return next(index for index, tensor in enumerate(tensors) if tensor is leaf)


def _works(outs: tuple[Out | int | None, ...], writes: tuple[int, ...]) -> bool:
    """Tell whether a kernel runs: views cost nothing."""
    return bool(writes) or any(isinstance(out, Out) and out.source == NEW for out in outs)


def _may_have_value(
    func: Any,
    device: torch.device,
    tensors: list[VirtualTensor],
    outs: tuple[Out | int | None, ...],
) -> bool:
    if device.type == "meta" or torch.Tag.nondeterministic_seeded in func.tags or func in _NO_VALUE:
        return False
    made = [out for out in outs if isinstance(out, Out) and out.source == NEW]
    small = all(out.nbytes <= MOST_ELEMENTS * out.dtype.itemsize for out in made)
    return bool(made) and small and all(tensor.numel() <= MOST_ELEMENTS for tensor in tensors)


_NO_VALUE = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.empty_permuted.default,
}


def _pins(func: Any, copy: LinkCopy | None, device: torch.device, kwargs: dict[str, Any]) -> bool:
    """Tell whether the result is in pinned memory."""
    if func is aten._to_copy.default and copy is not None:
        return pins_its_result((copy.source, copy.target), non_blocking=copy.non_blocking)
    return device == CPU and bool(kwargs.get("pin_memory"))


def _pinned(out: Out | int | None) -> Out | int | None:
    return out._replace(pinned=True) if isinstance(out, Out) and out.source == NEW else out


_NO_FAKE = "no fake impl registered"


def _like_the_first(func: Any, args: tuple[Any, ...]) -> Any:
    """Return a meta tensor like the first argument for each tensor that `func` returns."""
    first = next(leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor))
    made = [torch.empty_like(first) for _ in func._schema.returns]
    return made[0] if len(made) == 1 else made or None
