"""`Streamed` on real modules: some blocks of a component stay with it, and the others are streamed.

The component's own hook is one of accelerate's, so it takes its turn in a sequence like any other: it evicts the
predecessor, onloads the rest of the component, and fetches the first streamed block. The blocks' hooks are in
diffusers' registries; removing the component's hook removes them as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from accelerate.hooks import CpuOffload
from torch import nn

from profiler.applying.hooks.block_group import BlockGroup, Place
from profiler.applying.hooks.blocks import own_slots
from profiler.applying.hooks.drop import DropOffload
from profiler.applying.hooks.kinds import is_kind
from profiler.applying.hooks.pack import Pack, slots_of
from profiler.applying.hooks.swaps import RESTS, hang_up, put_hook
from profiler.applying.hooks.travel import BlockHook, Travel, hang, take_down
from profiler.checking.code_words import quoted
from profiler.libraries import hooks as private
from profiler.libraries.modules import blocks_of
from profiler.libraries.quantised import Slot
from profiler.placements.streamed import streamed_blocks

if TYPE_CHECKING:
    from profiler.applying.hooks.attachment import Target
    from profiler.placements.streamed import Streamed


class StreamedOffload(CpuOffload):
    """The hook of a component with streamed blocks.

    Args:
        rest: The hook that onloads and offloads the rest of the component.
        resident_blocks: The number of blocks that are not streamed.
        stays: Whether the rest is onloaded now, and stays until the hook is removed.
    """

    def __init__(self, rest: DropOffload, *, resident_blocks: int, stays: bool = False) -> None:
        super().__init__(rest.execution_device, rest.prev_module_hook)
        self.rest = rest
        self.resident_blocks = resident_blocks
        self.stays = stays
        self._travel: Travel | None = None
        self._travelling: list[nn.Module] = []
        self._pack = Pack()

    def init_hook(self, module: nn.Module) -> nn.Module:
        """Attach the blocks' hooks the first time; accelerate calls this to offload, too."""
        if self._travel is None:
            self.rest.copies.send_home(module)
            self._travel = self._set_up(module)
        self._travel.settle()
        if self.stays:
            self.rest.copies.bring(module, self.execution_device, keep=False)
            return module
        return self.rest.init_hook(module)

    @private.compiler_disable
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Evict the predecessor, onload the rest, and fetch the first streamed block."""
        assert self._travel is not None
        self._travel.settle()
        args, kwargs = self.rest.pre_forward(module, *args, **kwargs)
        self._travel.start()
        return args, kwargs

    @private.compiler_disable
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Free blocks that were fetched and not called."""
        self.settle()
        return output

    def detach_hook(self, module: nn.Module) -> nn.Module:
        """Leave the module on the host, in pageable memory, without the blocks' hooks."""
        self.settle()
        for block in self._travelling:
            take_down(block)
        self._travel, self._travelling = None, []
        self._pack.give_out(slots_of(module))
        self.rest.copies.staying = frozenset()
        return self.rest.detach_hook(module)

    def settle(self) -> None:
        """Free streamed blocks that are on the GPU although nothing runs."""
        if self._travel is not None:
            self._travel.settle()

    def _set_up(self, module: nn.Module) -> Travel:
        blocks = list(blocks_of(module).values())
        chosen = [blocks[index] for index in streamed_blocks(len(blocks), self.resident_blocks)]
        slots = [own_slots(module, block) for block in chosen]
        everything = [one for of_block in slots for one in of_block]
        on_gpu = self.execution_device.type != "cpu"
        self._travelling = chosen
        self.rest.copies.staying = frozenset(slot for slot, _ in everything)
        self._pack.take_in(everything, pin=on_gpu)
        device = self.execution_device
        stream = torch.get_device_module(device).Stream(device) if on_gpu else None
        places = _places(module)
        groups = [
            BlockGroup(block, [places[slot] for slot, _ in own], self.execution_device, stream)
            for block, own in zip(chosen, slots, strict=True)
        ]
        travel = Travel(groups)
        for index, block in enumerate(chosen):
            hang(block, BlockHook(travel, index))
        return travel


REPLACES_TENSORS = False
IMPORTS = ""
SOURCES = (StreamedOffload,)


def attach(target: Target, how: Streamed) -> None:
    """Stream blocks of a component that stays on the GPU, or that has the hook of `enable_model_cpu_offload`."""
    kind = RESTS[target.swap]
    if target.stays:
        hook = StreamedOffload(kind(target.device), resident_blocks=how.resident_blocks, stays=True)
        hang_up(target.module, hook)
        return

    def make(*given: Any) -> StreamedOffload:
        return StreamedOffload(kind(*given), resident_blocks=how.resident_blocks)

    put_hook(target.pipe, target.name, make)


def drift(name: str, module: nn.Module, how: Streamed, swap: str) -> Iterator[str]:
    """Yield a line if other blocks are streamed, or none."""
    hook = private.root_hook(module)
    if not is_kind(hook, StreamedOffload) or not is_kind(hook.rest, RESTS[swap]):
        yield f"{name}'s blocks do not travel as the plan says"
    elif hook.resident_blocks != how.resident_blocks:
        yield f"{hook.resident_blocks} blocks of {name} stay, not {how.resident_blocks}"


def code(name: str, how: Streamed, swap: str, *, stays: bool) -> str:
    """Return the line that streams the component's blocks."""
    rest, blocks = RESTS[swap].__name__, how.resident_blocks
    if stays:
        made = f"{rest}(pipe._offload_device), resident_blocks={blocks}, stays=True"
        return f"hang_up(pipe.{name}, StreamedOffload({made}))\n"
    made = f"{rest}(*given), resident_blocks={blocks}"
    return f"put_hook(pipe, {quoted(name)}, lambda *given: StreamedOffload({made}))\n"


def _places(module: nn.Module) -> dict[Slot, Place]:
    """Return the place of each tensor, by its slot."""
    return {
        (id(part), name): (held, name)
        for part in module.modules()
        for held in (part._parameters, part._buffers)
        for name in held
    }
