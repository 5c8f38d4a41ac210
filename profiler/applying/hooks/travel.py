"""The streamed blocks of one component, each copied while the one before it computes.

At most two are on the GPU: the one that computes, and the next. Blocks follow each other in the order of the modules.
A block that is called out of turn is fetched and waited for, and the one prefetched in its place is freed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

from profiler.applying.hooks.block_group import BlockGroup
from profiler.libraries import hooks as private


class Travel:
    """The state of the stream: the blocks on the GPU, and the next one.

    Args:
        groups: The streamed blocks in their order.
    """

    def __init__(self, groups: Sequence[BlockGroup]) -> None:
        self._groups = groups
        self._running: list[int] = []

    def start(self) -> None:
        """Fetch the first block."""
        self.settle()
        self._fetch(0)

    def enter(self, index: int) -> None:
        """Make sure this block is on the GPU, and fetch the next."""
        self._free_all_but(index)
        self._running.append(index)
        self._fetch(index)
        self._groups[index].wait()
        self._fetch(index + 1)

    def leave(self, index: int) -> None:
        """Free this block, whose forward is over."""
        self._running.remove(index)
        if index not in self._running:
            self._groups[index].offload_()

    def settle(self) -> None:
        """Free every block on the GPU: fetched and not called, or left by a forward that failed."""
        self._running.clear()
        self._free_all_but(-1)

    def _fetch(self, index: int) -> None:
        if index < len(self._groups) and not self._groups[index].is_loaded:
            self._groups[index].onload_()

    def _free_all_but(self, index: int) -> None:
        for other, group in enumerate(self._groups):
            if group.is_loaded and other != index and other not in self._running:
                group.offload_()


class BlockHook(ModelHook):
    """A hook on the forward of one streamed block, in diffusers' registry of hooks.

    Attributes:
        leaves: Attributes that registering it added to the block.
    """

    def __init__(self, travel: Travel, index: int) -> None:
        super().__init__()
        self.leaves: list[str] = []
        self._travel, self._index = travel, index

    @private.compiler_disable
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Make sure the block is on the GPU, and fetch the next."""
        self._travel.enter(self._index)
        return args, kwargs

    @private.compiler_disable
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Free the block."""
        self._travel.leave(self._index)
        return output


def hang(block: nn.Module, hook: BlockHook) -> None:
    """Register `hook` on a block."""
    hook.leaves = [name for name in ("forward", private.REGISTRY) if name not in vars(block)]
    HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, private.STREAMED)


def take_down(block: nn.Module) -> None:
    """Remove the hook from a block, and the attributes that registering it added."""
    registry: HookRegistry | None = vars(block).get(private.REGISTRY)
    if registry is None or (hook := registry.get_hook(private.STREAMED)) is None:
        return
    registry.remove_hook(private.STREAMED, recurse=False)
    for name in () if registry.hooks else hook.leaves:
        vars(block).pop(name, None)
