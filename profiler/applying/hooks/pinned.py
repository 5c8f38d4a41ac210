"""The swap `pinned`: `drop` with the host's copy page-locked, so that copies run at the link's full rate."""

from __future__ import annotations

from typing import Any

from accelerate.hooks import UserCpuOffloadHook
from torch import nn

from profiler.applying.hooks.drop import DropOffload
from profiler.applying.hooks.pack import Pack, slots_of


class PinnedOffload(DropOffload):
    """`DropOffload` with its floating-point tensors packed in page-locked memory, and copied without waiting.

    The copies and the kernels that need them run on one stream, so no kernel can run too early.

    Args:
        execution_device: The device on which the module computes.
        prev_module_hook: The hook of the component that it evicts.
    """

    def __init__(
        self, execution_device: Any, prev_module_hook: UserCpuOffloadHook | None = None
    ) -> None:
        self._pack = Pack()
        self._packed = False
        super().__init__(execution_device, prev_module_hook, pack=self._pack)

    def init_hook(self, module: nn.Module) -> nn.Module:
        """Offload the module; the first time, page-lock it."""
        super().init_hook(module)
        if not self._packed:
            self._packed = True
            moving = (
                (slot, tensor)
                for slot, tensor in slots_of(module)
                if slot not in self.copies.staying and tensor.is_floating_point()
            )
            self._pack.take_in(moving, pin=self.execution_device.type != "cpu")
        return module

    def detach_hook(self, module: nn.Module) -> nn.Module:
        """Leave the module on the host, in pageable memory."""
        super().detach_hook(module)
        self._pack.give_out(slots_of(module))
        self._packed = False
        return module
