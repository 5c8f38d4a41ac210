"""What operators allocate on the GPU that is there: a real one, the stand-in, or a virtual one."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from operator_cases import OperatorCase, empty

MARK_BYTES = 77_777
"""The size of a block that stands between what is recorded and what is not; no operator asks for it."""

_SIGNS = {"alloc": "+", "free_completed": "-"}
_LONGEST_MESSAGE = 100


class Outcome(NamedTuple):
    """What one case did.

    Attributes:
        events: the bytes of each block that was asked for (`+512`) and freed (`-512`), in order.
        result: shape, strides, dtype and device of what it returned, or its error.
    """

    events: str
    result: str


def recorded(cases: Iterable[OperatorCase]) -> dict[str, Outcome]:
    """Run every case and return what it did."""
    _warm_up()
    results = {}
    gc.collect()
    gc.disable()  # what it frees would be taken for the operators'
    torch.cuda.memory._record_memory_history(max_entries=10_000_000, stacks="python")
    try:
        with torch.no_grad():
            for case in cases:
                results[case.name] = _result_of(case)
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
        gc.enable()
    events = _between_marks(trace)
    assert len(events) == len(results)
    return {
        name: Outcome(" ".join(one), result)
        for (name, result), one in zip(results.items(), events, strict=True)
    }


def _warm_up() -> None:
    """Let torch allocate what it keeps: the workspaces of cuBLAS."""
    for dtype in (torch.float16, torch.float32):
        empty(64, 64, dtype=dtype) @ empty(64, 64, dtype=dtype)


def _result_of(case: OperatorCase) -> str:
    function, given = case.make()
    returned: Any = None
    mark = torch.empty(MARK_BYTES, dtype=torch.uint8, device="cuda")
    try:
        returned = function(*given)
        result = described(returned)
    except Exception as error:  # noqa: BLE001  # any way to fail is a result
        result = _error_text(error)
    del mark
    return result


def described(value: Any) -> str:
    """Return what is compared of a returned value."""
    if isinstance(value, torch.Tensor):
        shape, strides = list(value.shape), list(value.stride())
        return f"{shape}/{strides} {str(value.dtype)[6:]} {value.device.type}".replace(", ", ",")
    if isinstance(value, tuple | list):
        return f"({'; '.join(map(described, value))})" if len(value) < 9 else f"{len(value)} values"
    return type(value).__name__


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:_LONGEST_MESSAGE]}"


def _between_marks(trace: list[dict[str, Any]]) -> list[list[str]]:
    """Return the events between each pair of marks."""
    found: list[list[str]] = []
    inside = False
    for entry in trace:
        sign = _SIGNS.get(entry["action"])
        if sign is None:
            continue
        if entry["size"] == MARK_BYTES:
            inside = sign == "+"
            if inside:
                found.append([])
        elif inside:
            found[-1].append(f"{sign}{entry['size']}")
    return found
