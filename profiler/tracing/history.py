"""Torch's own memory history for the length of a trace, with the purpose of the memory in every entry.

Torch attaches a string, its metadata, to everything that its allocator does on a thread. The tracer sets it whenever it
sees a component entered or left, weights moved, or a step taken. Real and virtual GPUs use the same private
functions of torch 2.13; no other module names them.

A recording that was already on continues: it is neither cleared nor ended, and its settings stay unchanged. If it drops
entries or leaves kinds out, the snapshot is incomplete in the same way, and the highest point is not reported.
Otherwise the trace records, without stack traces, and ends the recording. The previous metadata string is restored.
"""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from profiler.allocator.history_replay import (
    DoesNotAddUpError,
    LiveBlock,
    highest,
    segments_of,
    settings_of,
)
from profiler.errors import InputError
from profiler.libraries.modules import on_gpu, tensors_of
from profiler.record.memory_history import BEFORE, HeldBlock, MemoryHistory

_OURS = "torch's recording was off; the trace turned it on and off again"
_THEIRS = "torch was recording before the trace and still is: its settings, and its earlier entries, are as they were"
_GAP = (
    "torch was recording before the trace, and keeps too few entries (max_entries) or leaves some out (skip_actions); "
    "end that with torch.cuda.memory._record_memory_history(enabled=None), and trace again"
)
_STRANGE = (
    "the entries that torch recorded do not make the blocks that are there: was its recording changed inside the "
    "trace, or is a CUDA graph's pool in use?"
)


class Made(NamedTuple):
    """The purpose of the memory allocated from some moment on; the fields are those of `HeldBlock`."""

    component: str
    what: str
    call: int
    phase: str
    step: int

    def __str__(self) -> str:
        """Return the string that torch attaches: `unet: activations, call 0, denoise step 3`."""
        when = "" if self.call < 0 else f", call {self.call}"
        step = "" if self.step < 0 else f" step {self.step}"
        return f"{self.component or 'pipeline'}: {self.what}{when}, {self.phase}{step}"


_NOBODY_KNOWS = Made("", "other", -1, "", -1)  # of another thread, or a foreign string


class TorchHistory:
    """Torch's recording, from `begin` to `leave`.

    Args:
        modules: components by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._made: dict[str, Made] = {}
        self._begun = self._recording = False
        self._now = self._users = ""
        self._snapshot: dict[str, Any] = {}

    def begin(self) -> None:
        """Start recording, unless torch is recording already.

        Raises:
            InputError: if torch uses another allocator, which has no history.
        """
        backend = torch.cuda.get_allocator_backend()
        if backend != "native":
            raise InputError(
                f"memory_history=True needs PyTorch's own allocator, and this is {backend}: take the backend out of "
                "PYTORCH_ALLOC_CONF, or trace without it"
            )
        self._device = torch.cuda.current_device()
        self._recording = not torch._C._cuda_isHistoryEnabled()  # else it was on before
        self._now = self._users = torch.cuda.memory._get_memory_metadata()
        self._begun = True
        if self._recording:
            torch.cuda.memory._record_memory_history("all", context=None, stacks="python")
        # The entry of this very snapshot marks the beginning of the trace.
        self._first = f"vram-profiler: trace {uuid.uuid4().hex} begins"
        self._set(self._first)
        self._before = segments_of(torch.cuda.memory_snapshot(include_traces=False), self._device)
        self._owners = _addresses(self._modules)

    def label(self, made: Made) -> None:
        """Set the purpose of what is allocated from now on."""
        text = str(made)
        self._made[text] = made
        now = torch.cuda.memory._get_memory_metadata()
        if now != self._now:
            self._users = now  # set by other code since: the one to restore
        self._set(text)

    def _set(self, text: str) -> None:
        self._now = text
        torch.cuda.memory._set_memory_metadata(text)

    def result(self) -> MemoryHistory:
        """Return the history that was kept."""
        snapshot = self._snapshot
        note, gap = (_OURS, _STRANGE) if self._recording else (_THEIRS, _GAP)
        try:
            entries = self._own_entries(snapshot)
            after = segments_of(snapshot["segments"], self._device)
            peak = highest(self._before, entries, after, settings_of(snapshot))
        except (DoesNotAddUpError, InputError):
            return MemoryHistory(snapshot=snapshot, held=(), note=note, gap=gap)
        held = tuple(self._mapped(block, entries) for block in peak.held)
        return MemoryHistory(snapshot=snapshot, held=held, note=note)

    def keep(self) -> None:
        """Keep what has been recorded so far. Safe to call twice, and if nothing was started."""
        if self._begun and not self._snapshot:
            self._snapshot = torch.cuda.memory._snapshot()

    def leave(self) -> None:
        """Restore everything. Safe to call twice, and if nothing was started."""
        if not self._begun:
            return
        if self._recording and torch._C._cuda_isHistoryEnabled():
            torch.cuda.memory._record_memory_history(enabled=None)
        if torch.cuda.memory._get_memory_metadata() == self._now:
            torch.cuda.memory._set_memory_metadata(self._users)
        self._begun = False

    def _own_entries(self, snapshot: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the entries of this trace; raise DoesNotAddUpError if its beginning is not among them."""
        entries: list[dict[str, Any]] = snapshot["device_traces"][self._device]
        for number, entry in enumerate(entries):
            if entry["user_metadata"] == self._first:
                return entries[number:]
        raise DoesNotAddUpError("the first entry")

    def _mapped(self, block: LiveBlock, entries: list[dict[str, Any]]) -> HeldBlock:
        if block.entry >= 0:
            made = self._made.get(entries[block.entry]["user_metadata"], _NOBODY_KNOWS)
        else:
            component = self._owner_of(block)
            made = Made(component, "weights" if component else "other", -1, BEFORE, -1)
        return HeldBlock(block.address, block.size, block.requested, *made)

    def _owner_of(self, block: LiveBlock) -> str:
        """Return the component that had a tensor in a block when the trace began; "" if there was none."""
        index = bisect_right(self._owners, (block.address + block.size - 1, "\U0010ffff")) - 1
        address, name = self._owners[index] if index >= 0 else (-1, "")
        return name if address >= block.address else ""


def _addresses(modules: Mapping[str, nn.Module]) -> list[tuple[int, str]]:
    """Return the addresses of the components' tensors on the GPU, sorted."""
    return sorted(
        (tensor.data_ptr(), name)
        for name, module in modules.items()
        for tensor in tensors_of(module)
        if on_gpu(tensor)
    )
