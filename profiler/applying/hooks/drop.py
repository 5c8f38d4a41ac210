"""The swap `drop`: model offload that keeps the host's copy while a component is on the GPU.

accelerate copies weights back to the host although they never change. This hook reuses the host's tensors, so nothing
is copied back. Everything else is as in accelerate: the predecessor is evicted first, the device of the first parameter
decides residency, inputs are moved only if the module is, and every eviction empties the cache.
"""

from __future__ import annotations

from typing import Any

from accelerate.hooks import CpuOffload, UserCpuOffloadHook
from accelerate.utils import send_to_device
from accelerate.utils.memory import clear_device_cache
from torch import nn

from profiler.applying.hooks.host_copies import HostCopies
from profiler.applying.hooks.pack import Pack
from profiler.libraries import hooks as private


class DropOffload(CpuOffload):
    """accelerate's `CpuOffload`, without the copy back to the host.

    Args:
        execution_device: The device on which the module computes.
        prev_module_hook: The hook of the component that it evicts.
    """

    def __init__(
        self,
        execution_device: Any,
        prev_module_hook: UserCpuOffloadHook | None = None,
        *,
        pack: Pack | None = None,
    ) -> None:
        super().__init__(execution_device, prev_module_hook)
        self.copies = HostCopies(pack)

    def init_hook(self, module: nn.Module) -> nn.Module:
        """Offload the module; accelerate calls this to attach the hook, and to offload."""
        self.copies.send_home(module)
        return module

    @private.compiler_disable
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Evict the predecessor, and onload the module."""
        self._evict()
        if next(module.parameters()).device == self.execution_device:
            return args, kwargs
        self.copies.bring(module, self.execution_device)
        return (
            send_to_device(args, self.execution_device),
            send_to_device(kwargs, self.execution_device),
        )

    def detach_hook(self, module: nn.Module) -> nn.Module:
        """Leave the module on the host: its host copies are no longer tracked."""
        self.copies.send_home(module)
        return module

    def _evict(self) -> None:
        """Evict the predecessor as `CpuOffload.pre_forward` of accelerate 1.15.0 does."""
        previous = self.prev_module_hook
        if not isinstance(previous, UserCpuOffloadHook):
            return
        if next(previous.model.parameters()).device.type != "cpu":
            previous.offload()
            clear_device_cache()
