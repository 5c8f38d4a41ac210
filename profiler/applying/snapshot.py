"""What a pipeline was before a plan, to the attribute, and the way back to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from profiler import diffusers_private as private

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Snapshot:
    """The offload state of a pipeline and of the pipelines inside it. Owns no tensors, only where they were."""

    pipe: DiffusionPipeline
    pipelines: tuple[tuple[DiffusionPipeline, dict[str, Any]], ...]
    modules: tuple[
        tuple[torch.nn.Module, dict[str, Any]], ...
    ]  # every part that carried accelerate's attributes
    devices: dict[str, tuple[torch.device, ...]]  # of each component's tensors
    sequential: bool

    def restore(self) -> None:
        """Bring the pipeline back: hooks, attributes, and every component to where it was."""
        components = private.modules_of(self.pipe)
        for module in components.values():
            _strip(module)
        if self.sequential:
            # accelerate keeps the weights in its hooks: only its own call brings that state back.
            self._restore_pipelines()
            self.pipe.enable_sequential_cpu_offload(device=self.pipe._offload_device)
            return
        for name, module in components.items():
            _place(module, self.devices.get(name, ()))
        for part, attributes in self.modules:
            vars(part).update(attributes)
        self._restore_pipelines()

    def _restore_pipelines(self) -> None:
        for pipeline, attributes in self.pipelines:
            for name in private.PIPELINE_STATE:
                vars(pipeline).pop(name, None)
            vars(pipeline).update(attributes)


def snapshot(pipe: DiffusionPipeline) -> Snapshot:
    """Return the offload state of `pipe`."""
    components = private.modules_of(pipe)
    parts = (part for module in components.values() for part in module.modules())
    return Snapshot(
        pipe=pipe,
        pipelines=tuple(
            (one, _kept(one, private.PIPELINE_STATE))
            for one in (pipe, *private.inner_pipelines(pipe))
        ),
        modules=tuple(
            (part, kept) for part in parts if (kept := _kept(part, private.MODULE_STATE))
        ),
        devices={
            name: tuple(tensor.device for tensor in _tensors(module))
            for name, module in components.items()
        },
        sequential=any(map(private.is_sequentially_offloaded, components.values())),
    )


def _strip(module: torch.nn.Module) -> None:
    """Remove accelerate's hooks and what it leaves behind: the old `forward`, as an attribute of the instance."""
    private.remove_hooks(module)
    for part in module.modules():
        for name in private.MODULE_STATE:
            vars(part).pop(name, None)


def _kept(owner: Any, names: Iterable[str]) -> dict[str, Any]:
    attributes = vars(owner)
    return {name: attributes[name] for name in names if name in attributes}


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _place(module: torch.nn.Module, devices: tuple[torch.device, ...]) -> None:
    """Move the module's tensors to `devices`; as a whole where that is one device, as diffusers would."""
    tensors = list(_tensors(module))
    if tuple(tensor.device for tensor in tensors) == devices or not devices:
        return
    if len(set(devices)) == 1:
        module.to(devices[0])
        return
    with torch.no_grad():
        for tensor, device in zip(tensors, devices, strict=False):
            if tensor.device != device:
                tensor.data = tensor.data.to(device)
