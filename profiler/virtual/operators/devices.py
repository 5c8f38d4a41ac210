"""The device on which an operator runs and its results are."""

from __future__ import annotations

from typing import Any

import torch

from profiler.virtual.tensor import CPU, META, VirtualTensor, aten, canonical

_MIXES_DEVICES = {
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten.set_.source_Tensor,
}

# If these are called for `meta`, the caller is C++, which means "the device of x" (`type_as`, circular padding), or
# code inside `vmap`. `x.to("meta")` never reaches an operator.
_BESIDE = {
    aten._to_copy.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
}


def device_of(func: Any, kwargs: dict[str, Any], tensors: list[VirtualTensor]) -> torch.device:
    """Return the device of an operator: the one that is asked for, else that of its tensors, the GPU before others.

    Raises:
        RuntimeError: if its tensors are on different devices, with torch's wording.
    """
    explicit = kwargs.get("device")
    if explicit is not None and not (func in _BESIDE and canonical(explicit) == META):
        return canonical(explicit)
    if func in _MIXES_DEVICES:
        return tensors[0].device
    devices = _devices_of(func, tensors)
    for kind in ("cuda", "meta", "cpu"):
        for device in devices:
            if device.type == kind:
                return device
    return CPU


def _devices_of(func: Any, tensors: list[VirtualTensor]) -> set[torch.device]:
    """Return the devices that may determine the device of the result.

    Raises:
        RuntimeError: if tensors that are not scalars are on different devices, with torch's wording.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) == 1:
        return devices
    spread = {tensor.device for tensor in tensors if tensor.dim() and not _is_number(tensor)}
    if len(spread) > 1 and func not in _MIXES_DEVICES:
        found = sorted(str(device) for device in spread)
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{found[1]} and {found[0]}! (when checking argument for {func})"
        )
    # C++ makes the scalars of `torch.where(mask, 0.0, 1.0)` on `meta`.
    return devices if META in spread else devices - {META}


def _is_number(tensor: VirtualTensor) -> bool:
    """Tell whether a tensor is a number that C++ made on `meta` (`quantile`), the device that it sees for others."""
    return tensor.device == META and tensor.numel() == 1
