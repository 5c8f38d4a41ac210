"""Free functions of torch that depend on the device before an operator is dispatched, and the active GPU of a thread.

C++ sees virtual tensors on `meta`; these are the functions for which that matters:

- `torch.tensor` and related functions would copy to a CUDA device in C++;
- attention, `rms_norm` and dropout have kernels of their own on CUDA, while `meta` takes many small operators;
- transformers reads weights on other threads, which do not see the GPU.

Each replacement serves the thread on which the GPU is active and passes every other call on.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import overrides
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map

from profiler.libraries.quantised import is_wrapper
from profiler.libraries.text_models import materialization
from profiler.patching import Patches
from profiler.virtual.operators import attention
from profiler.virtual.operators.normalisation import is_fused, rms_norm_of_parts
from profiler.virtual.tensor import VirtualTensor, aten
from profiler.virtual.torch_api.cuda import here_or

if TYPE_CHECKING:
    from profiler.virtual.device import Device

_active = SimpleNamespace(gpu=None)  # one for all threads, like the functions that it replaces


def active_gpu() -> Device | None:
    """Return the virtual GPU that is active on this thread, or None."""
    gpu: Device | None = _active.gpu
    return gpu if gpu is not None and gpu.here() else None


_TABLES = (
    _device_constructors,  # the factories that `with torch.device(...)` serves
    overrides.get_ignored_functions,
    overrides.get_default_nowrap_functions,
    overrides.get_testing_overrides,
    overrides.get_overridable_functions,
)
"""Tables of its own functions that torch makes once, at their first use: not with ours in them."""


def install(gpu: Device, patches: Patches) -> None:
    """Make `gpu` this thread's active one, and serve torch's device-dependent free functions for it."""
    for known in _TABLES:
        known()
    patches.replace(_active, "gpu", gpu)
    functional = torch.nn.functional
    for owner, name, make in (
        (torch, "tensor", _constructor),
        (torch, "as_tensor", _constructor),
        (torch, "asarray", _constructor),
        (torch, "from_numpy", _from_numpy),
        (torch, "rms_norm", _rms_norm),
        (torch, "softmax", _as_method),
        (torch, "log_softmax", _as_method),
        (torch, "quantile", _as_method),
        (torch, "nanquantile", _as_method),
        (torch, "allclose", _as_method),
        (torch, "dropout", _dropout),
        (torch._VF, "dropout", _dropout),
        (functional, "scaled_dot_product_attention", _attention),
        (functional, "linear", _linear),
        (functional, "one_hot", _one_hot),
        (torch._C._nn, "pad_sequence", _pad_sequence),
        *((*owner, _materialize_here) for owner in filter(None, (materialization(),))),
    ):
        original = getattr(owner, name)
        patches.replace(owner, name, here_or(gpu, make(gpu, original), original))


def _constructor(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `torch.tensor` or a related function that makes a tensor on the host, then sends it, as torch does."""

    def construct(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.pop("device", None)
        if isinstance(data, VirtualTensor):
            # as_tensor and asarray alias; torch.tensor copies.
            source = data.clone() if original.__name__ == "tensor" else data
            return source.to(device=device or data.device, dtype=kwargs.get("dtype") or data.dtype)
        if isinstance(data, list | tuple) and any(
            isinstance(leaf, torch.Tensor) for leaf in tree_leaves(data)
        ):
            data = tree_map(
                lambda leaf: _numbers(leaf) if isinstance(leaf, torch.Tensor) else leaf, data
            )
        with gpu.suspended():
            real = original(data, *args, **kwargs)
        made = gpu.lift(real)
        return made if device is None else made.to(device)

    return construct


def _numbers(tensor: torch.Tensor) -> Any:
    """Return a tensor's elements, each read from the GPU by itself.

    Source: `recursive_store` in PyTorch's torch/csrc/utils/tensor_new.cpp.
    """
    if not tensor.is_cuda:
        return tensor.tolist()
    return [_numbers(row) for row in tensor.unbind()] if tensor.dim() else tensor.item()


def _from_numpy(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    def from_numpy(array: Any) -> torch.Tensor:
        with gpu.suspended():
            return gpu.lift(original(array))

    return from_numpy


def _rms_norm(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `rms_norm` that is one fused kernel on CUDA, unless dtypes or the layout speak against it.

    Source: `rms_norm_symint` in PyTorch's aten/src/ATen/native/layer_norm.cpp.
    """

    def rms_norm(
        input: torch.Tensor,
        normalized_shape: Any,
        weight: torch.Tensor | None = None,
        eps: float | None = None,
    ) -> torch.Tensor:
        if not input.is_cuda:
            return original(input, normalized_shape, weight, eps)  # type: ignore[no-any-return]
        if not is_fused(input, weight):
            return rms_norm_of_parts(input, normalized_shape, weight, eps)  # type: ignore[no-any-return]
        # Called past C++, which would take it apart for `meta`.
        return gpu.dispatch(
            aten._fused_rms_norm.default, (input, list(normalized_shape), weight, eps), {}
        )[0]  # type: ignore[no-any-return]

    return gpu.autocast.around("rms_norm", rms_norm)


def _linear(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `linear` that adds the bias in place if the input is not contiguous.

    So C++ does for a plain bias; for one of another class, as ours is, it makes a new tensor.

    Source: `linear` in PyTorch's aten/src/ATen/native/Linear.cpp.
    """

    def linear(
        input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        plain = type(bias) in (VirtualTensor, torch.nn.Parameter) and not is_wrapper(weight)
        if not plain or not input.is_cuda or input.dim() < 3 or input.is_contiguous():
            return original(input, weight, bias)  # type: ignore[no-any-return]
        return torch.matmul(input, weight.t()).add_(bias)  # type: ignore[arg-type]

    return gpu.autocast.around("linear", linear)


def _dropout(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a dropout that is one kernel on CUDA, which keeps a mask.

    Source: `dropout` in PyTorch's aten/src/ATen/native/Dropout.cpp.
    """

    def dropout(input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
        if train and 0 < p < 1 and input.is_cuda and input.numel():
            return torch.native_dropout(input, p, train)[0]
        return original(input, p, train)  # type: ignore[no-any-return]

    return dropout


def _materialize_here(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Read weights on the GPU's own thread; transformers passes each tensor to a pool of others."""

    def spawn_materialize(thread_pool: Any, *args: Any, **kwargs: Any) -> Any:
        return original(None, *args, **kwargs)

    return spawn_materialize


def _one_hot(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `one_hot` of zeros and a scatter; C++ would compare with an `arange` on `meta`.

    Source: `one_hot` in PyTorch's aten/src/ATen/native/Onehot.cpp.
    """

    def one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
        classes = num_classes if num_classes >= 0 else int(tensor.max().item()) + 1
        empty = torch.zeros((*tensor.shape, classes), dtype=torch.int64, device=tensor.device)
        return empty.scatter_(-1, tensor.unsqueeze(-1), 1)

    return one_hot


def _pad_sequence(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `pad_sequence` that fills one tensor and copies each sequence in; C++ would make it on `meta`.

    Source: `pad_sequence` in PyTorch's aten/src/ATen/native/PackedSequence.cpp.
    """

    def pad_sequence(
        sequences: Any,
        batch_first: bool = False,
        padding_value: float = 0.0,
        padding_side: str = "right",
    ) -> torch.Tensor:
        first = sequences[0]
        longest = max(len(sequence) for sequence in sequences)
        leading = (len(sequences), longest) if batch_first else (longest, len(sequences))
        out = torch.full(
            (*leading, *first.shape[1:]), padding_value, dtype=first.dtype, device=first.device
        )
        for index, sequence in enumerate(sequences):
            begin = 0 if padding_side == "right" else longest - len(sequence)
            row = out.select(0 if batch_first else 1, index)
            row.narrow(0, begin, len(sequence)).copy_(sequence)
        return out

    return pad_sequence


def _as_method(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is a virtual tensor's own method."""

    def call(input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(input, VirtualTensor) and "out" not in kwargs:
            return getattr(input, original.__name__)(*args, **kwargs)
        return original(input, *args, **kwargs)

    return call


def _attention(gpu: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    def scaled_dot_product_attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        given = (query, key, value, attn_mask)
        options: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        if not isinstance(query, VirtualTensor):
            return original(*given, dropout_p, **options)  # type: ignore[no-any-return]
        options["dropout_p"] = dropout_p
        if not query.is_cuda:
            return attention.attend_on_host(*given, **options)
        return attention.attend(gpu.spec, *given, **options)

    return gpu.autocast.around("scaled_dot_product_attention", scaled_dot_product_attention)
