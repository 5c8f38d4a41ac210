"""The memory history of a case: every block and segment that torch's allocator gave and took, and which line asked."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENTRIES = 1_000_000
# Frames that stand between the line that asked and the operator, in every stack.
_BETWEEN = ("module.py:", "_contextlib", "/hooks.py", "oracle_values.py")


@contextmanager
def recorded(file: Path | None) -> Iterator[None]:
    """Record the history of what runs inside the context into `file`, if there is one."""
    import torch

    if file is None:
        yield
        return
    torch.cuda.memory._record_memory_history(max_entries=ENTRIES, stacks="python")
    try:
        yield
    finally:
        gc.disable()  # what it frees would be an entry more while the entries are read
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        gc.enable()
        entries = [[entry["action"], entry["size"], _lines(entry)] for entry in trace]
        file.write_text(json.dumps(entries))


def _lines(entry: dict[str, Any]) -> list[str]:
    """Return the innermost lines of an entry's stack, as `file:line function`."""
    frames = [
        f"{frame['filename'].rpartition('site-packages/')[2]}:{frame['line']} {frame['name']}"
        for frame in entry.get("frames", [])
    ]
    return [frame for frame in frames if not any(one in frame for one in _BETWEEN)][:5]
