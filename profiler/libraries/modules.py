"""The modules of a pipeline as records, and the components that modules and tensors belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from profiler.allocator.settings import round_block
from profiler.libraries.compiled import uncompiled
from profiler.libraries.offload_state import GROUPED_LAYERS
from profiler.libraries.quantised import (
    Slot,
    beside_weights,
    elements_of,
    inner_tensors,
    memory_of,
    weights_in,
)
from profiler.record.components import Component, RepeatedLayer, Submodule, TensorSize

# Packages of diffusers whose models run once per denoise step.
_DENOISER_PACKAGES = (
    "diffusers.models.unets",
    "diffusers.models.transformers",
    "diffusers.models.controlnets",
)


def components_of(target: Any) -> dict[str, nn.Module]:
    """Return the modules of a pipeline by name, without wrappers; a bare module is its own only component."""
    if isinstance(target, nn.Module):
        inner = uncompiled(target)
        return {type(inner).__name__: inner}
    return {
        name: uncompiled(part)
        for name, part in target.components.items()
        if isinstance(part, nn.Module)
    }


def is_denoiser(module: nn.Module) -> bool:
    """Tell whether a component runs once per denoise step: a UNet, a transformer, or a ControlNet beside one.

    AudioLDM 2's UNet is in the package of its pipeline, beside models of other kinds (diffusers 0.42).
    """
    name, package = type(module).__name__, type(module).__module__
    return package.startswith(_DENOISER_PACKAGES) or (
        package.startswith("diffusers.pipelines") and "UNet" in name
    )


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the tensors that hold the weights, each once, in the order in which `nn.Module._apply` visits them.

    These are parameters and buffers, the tensors inside wrappers among them, and the extra tensors of quantised layers.
    """
    seen: set[int] = set()
    memories: set[int] = set()
    for part in visited(module):
        for _, tensor in weights_in(part):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                memories.add(memory_of(tensor))
                yield tensor
        for _, tensor in beside_weights(part):
            if memory_of(tensor) not in memories:
                memories.add(memory_of(tensor))
                yield tensor


def placed_tensors(module: nn.Module) -> Iterator[tuple[Slot, torch.Tensor]]:
    """Yield all these tensors with the slot that holds them, shared ones more than once."""
    for part in visited(module):
        yield from weights_in(part)
        yield from beside_weights(part)


def visited(module: nn.Module) -> list[nn.Module]:
    """Return a module's submodules, children before their parents. A list, since every move goes through it."""
    found: list[nn.Module] = []
    _visit(module, found)
    return found


def _visit(module: nn.Module, found: list[nn.Module]) -> None:
    for child in dict.fromkeys(module._modules.values()):
        if child is not None:
            _visit(child, found)
    found.append(module)


def on_gpu(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is on the device."""
    return tensor.device.type == "cuda"


def resident_bytes(tensors: Iterator[torch.Tensor] | list[torch.Tensor]) -> int:
    """Return the device memory of those of `tensors` that are on the device, rounded as the allocator rounds."""
    return sum(round_block(tensor.nbytes) for tensor in tensors if on_gpu(tensor))


def main_dtype(tensors: list[torch.Tensor]) -> str:
    """Return the dtype of most of the bytes, by its torch name; "" if there are no tensors."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return sizes.most_common(1)[0][0] if sizes else ""


def describe(name: str, module: nn.Module) -> Component:
    """Return the record of one component."""
    tensors = list(tensors_of(module))
    first = next((inner_tensors(one)[0] for one in module.parameters()), None)
    first_tensor = next((i for i, tensor in enumerate(tensors) if tensor is first), 0)
    quantization = quantization_of(module)
    return Component(
        name=name,
        class_name=type(module).__name__,
        dtype=main_dtype(tensors),
        parameters=sum(map(elements_of, module.parameters())),
        bytes=sum(tensor.nbytes for tensor in tensors),
        allocated_bytes=sum(round_block(tensor.nbytes) for tensor in tensors),
        tensors=tuple(_size(tensor) for tensor in tensors),
        blocks=tuple(
            RepeatedLayer(name=path, bytes=sum(tensor.nbytes for tensor in tensors_of(block)))
            for path, block in blocks_of(module).items()
        ),
        first_tensor=first_tensor,
        quantization=quantization,
        parts=() if quantization else tuple(_parts(module, tensors)),
        block_modules=tuple(getattr(module, "_group_offload_block_modules", None) or ()),
        groups=bool(getattr(module, "_supports_group_offloading", True)),
    )


def _size(tensor: torch.Tensor) -> TensorSize:
    return TensorSize(
        tensor.numel(), tensor.element_size(), tensor.is_floating_point(), str(tensor.device)
    )


def blocks_of(module: nn.Module) -> dict[str, nn.Module]:
    """Return the contents of the outermost `nn.ModuleList`s, by path, in the order of the modules, each once.

    A list or dict in a list is not a block, since it is never called: its contents are.
    """
    by_path: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for path, block in _listed(module, "", listed=False):
        if id(block) not in seen:
            seen.add(id(block))
            by_path[path] = block
    return by_path


def _listed(module: nn.Module, prefix: str, *, listed: bool) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        holds_blocks = isinstance(child, nn.ModuleList) or (
            listed and isinstance(child, nn.ModuleDict)
        )
        if listed and not holds_blocks:
            yield prefix + name, child
        else:
            yield from _listed(child, f"{prefix}{name}.", listed=holds_blocks)


def _parts(module: nn.Module, tensors: list[torch.Tensor]) -> Iterator[Submodule]:
    """Yield the modules of a component; none if its weights are wrapped, as quantised ones are."""
    index = {id(tensor): number for number, tensor in enumerate(tensors)}
    if any(id(tensor) not in index for tensor in (*module.parameters(), *module.buffers())):
        return

    def numbers(held: dict[str, Any]) -> tuple[int, ...]:
        return tuple(index[id(tensor)] for tensor in held.values() if tensor is not None)

    for path, part in module.named_modules():
        loose = part._non_persistent_buffers_set
        yield Submodule(
            path,
            numbers(part._parameters),
            numbers(part._buffers),
            numbers({name: one for name, one in part._buffers.items() if name in loose}),
            isinstance(part, nn.ModuleList | nn.Sequential),
            isinstance(part, GROUPED_LAYERS),
        )


def quantization_of(module: nn.Module) -> str:
    """Return the quantisation method of a component, such as `bitsandbytes-8bit`; "" if it has none."""
    for flag, name in (
        ("is_loaded_in_8bit", "bitsandbytes-8bit"),
        ("is_loaded_in_4bit", "bitsandbytes-4bit"),
    ):
        if getattr(module, flag, False):
            return name
    quantizer = getattr(module, "hf_quantizer", None)
    config = getattr(quantizer, "quantization_config", None)
    return str(getattr(config, "quant_method", "")) if config is not None else ""
