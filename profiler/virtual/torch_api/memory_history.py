"""Replacements of the functions of `torch._C` by which `torch.cuda.memory` records and reads memory history."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from profiler.allocator.history import ACTIONS, History


def functions(history: History) -> dict[str, Callable[..., Any]]:
    """Return the functions of `torch._C` behind `torch.cuda.memory`'s private ones, by name."""

    def record(  # torch's own parameters, given by position
        enabled: str | None,
        context: str | None,
        stacks: str,
        max_entries: int,
        clear_history: bool,
        compile_context: bool = False,
        global_record_annotations: bool = False,
        skip_actions: Sequence[str] = (),
        record_pinned_host_memory: bool = False,  # since torch 2.14, as the next
        record_cuda: bool = True,
    ) -> None:
        _check(enabled in (None, "state", "all"), "expected state to be 'state', 'all', or None")
        known = context in (None, "state", "alloc", "all")
        _check(known, "expected context to be 'state', 'alloc', 'all', or None")
        _check(stacks in ("python", "all"), "expected stacks to be 'python', or 'all'")
        for action in skip_actions:
            _check(action in ACTIONS, f"Unknown TraceEntry action: {action}")
        most = min(max_entries, sys.maxsize)
        wanted = enabled if record_cuda else None
        history.record(wanted, most=most, clear=clear_history, skipped=skip_actions)

    def record_as_before(  # torch's own parameters, given by position
        enabled: bool,
        record_context: bool,
        max_entries: int,
        context_of_entries: bool,
        cpp_context: bool,
        clear_history: bool,
        *rest: Any,
    ) -> None:
        record("all" if enabled else None, None, "all", max_entries, clear_history, *rest)

    def set_metadata(metadata: str) -> None:
        history.metadata = metadata

    return {
        "_cuda_record_memory_history": record,
        "_cuda_record_memory_history_legacy": record_as_before,
        "_cuda_isHistoryEnabled": lambda: history.recording,
        "_cuda_memorySnapshot": lambda mempool_id: history.snapshot(),
        "_cuda_setMemoryMetadata": set_metadata,
        "_cuda_getMemoryMetadata": lambda: history.metadata,
    }


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(otherwise)
