"""The state of a pipeline before a plan, down to single attributes, and its restoration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from profiler.applying.hooks.grouped import ungroup
from profiler.applying.hooks.restoring import HeldTensor, all_or_nothing, hold
from profiler.interrupts import to_the_end
from profiler.libraries import hooks as private

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_PLAIN = (bool, int, float, str, tuple, type(None))
_MISSING = object()


@dataclass
class Snapshot:
    """The offload state of a pipeline, and of those inside and beside it. It owns no tensors, only their devices.

    Attributes:
        objects: Parameters and buffers of components that a plan offloads sequentially: accelerate makes new ones. The
            old ones are views of the memory that accelerate keeps.
        flags: The VAE's settings that a plan changed, as they were.
        away: Components that are hidden from the pipeline at the moment.
    """

    pipe: DiffusionPipeline
    pipelines: tuple[tuple[DiffusionPipeline, dict[str, Any]], ...]
    modules: tuple[
        tuple[torch.nn.Module, dict[str, Any]], ...
    ]  # every part that carried accelerate's attributes
    registries: tuple[tuple[torch.nn.Module, private.Registry | None], ...]  # of every part
    devices: dict[str, tuple[torch.device, ...]]  # of each component's tensors
    sequential: bool
    objects: list[HeldTensor] = field(default_factory=list)
    flags: list[tuple[torch.nn.Module, str, Any]] = field(default_factory=list)
    away: dict[str, torch.nn.Module] = field(default_factory=dict)

    def restore(self) -> None:
        """Restore the pipeline: hooks, attributes, and the device of every component. Can be repeated.

        Ctrl-C is held back meanwhile.
        """
        to_the_end(self._restore)

    def _restore(self) -> None:
        self._show()
        components = private.modules_of(self.pipe)
        for module in components.values():
            _strip(module)
        self._restore_registries()
        self._restore_objects()
        for owner, name, value in self.flags:
            if value is _MISSING:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = value
        if self.sequential:
            # accelerate keeps the weights in its hooks: only its own call restores that state.
            self._restore_pipelines()
            with all_or_nothing(list(components.values())):
                self.pipe.enable_sequential_cpu_offload(device=self.pipe._offload_device)
            return
        for name, module in components.items():
            _place(module, self.devices.get(name, ()))
        for part, attributes in self.modules:
            vars(part).update(attributes)
        self._restore_pipelines()

    @contextmanager
    def hidden(self, modules: dict[str, torch.nn.Module]) -> Iterator[None]:
        """Hide components from the pipeline, bypassing its `__setattr__`, which would write that into its config."""
        self.away.update(modules)
        try:
            vars(self.pipe).update(dict.fromkeys(modules))
            yield
        finally:
            self._show()

    def _show(self) -> None:
        vars(self.pipe).update(self.away)
        self.away.clear()

    def keep_objects(self, modules: Iterable[torch.nn.Module]) -> None:
        """Remember the tensors of components that are on the CPU, whose memory accelerate is about to keep."""
        self.objects += [held._replace(data=held.tensor) for held in hold(modules)]

    def note_flags(self, owner: torch.nn.Module, before: dict[str, Any]) -> None:
        """Remember the settings that changed since `flags_of` returned `before`."""
        self.flags += [
            (owner, name, before.get(name, _MISSING))
            for name, value in flags_of(owner).items()
            if name not in before or before[name] != value
        ]

    def _restore_registries(self) -> None:
        for part, registry in self.registries:
            if registry is not None:
                registry.restore()
            elif private.REGISTRY in vars(part):
                del vars(part)[private.REGISTRY]
        for module in private.modules_of(self.pipe).values():
            private.forget_child_registries(module)

    def _restore_objects(self) -> None:
        """Restore parameters that accelerate replaced, if the new one is a view of the same memory."""
        for owner, name, tensor, _ in self.objects:
            new: torch.Tensor | None = owner.get(name)
            if new is None or (new.shape, new.dtype) != (tensor.shape, tensor.dtype):
                continue
            if new.data_ptr() == tensor.data_ptr():
                owner[name] = tensor

    def _restore_pipelines(self) -> None:
        for pipeline, attributes in self.pipelines:
            for name in private.PIPELINE_STATE:
                vars(pipeline).pop(name, None)
            vars(pipeline).update(attributes)


def snapshot(pipe: DiffusionPipeline, also: Sequence[DiffusionPipeline] = ()) -> Snapshot:
    """Return the offload state of `pipe`, and of other pipelines over its components."""
    components = private.modules_of(pipe)
    parts = [part for module in components.values() for part in module.modules()]
    return Snapshot(
        pipe=pipe,
        pipelines=tuple(
            (one, _kept(one, private.PIPELINE_STATE))
            for one in (pipe, *private.inner_pipelines(pipe), *also)
        ),
        modules=tuple(
            (part, kept) for part in parts if (kept := _kept(part, private.MODULE_STATE))
        ),
        registries=tuple((part, private.registry_of(part)) for part in parts),
        devices={
            name: tuple(tensor.device for tensor in _tensors(module))
            for name, module in components.items()
        },
        sequential=any(map(private.is_sequentially_offloaded, components.values())),
    )


def flags_of(module: torch.nn.Module) -> dict[str, Any]:
    """Return the module's plain settings."""
    return {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)}


def _strip(module: torch.nn.Module) -> None:
    """Remove accelerate's, diffusers' and our hooks, and what they leave: the old `forward`, as an attribute."""
    private.remove_hooks(module)
    ungroup(module)
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
    """Move the module's tensors to `devices`; as a whole, as diffusers would, if that is one device."""
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
