"""Tells a trace of the positions that indexing reads off the GPU, which the tracer itself must leave out.

Python never undoes a replaced `Tensor.__getitem__` wholly (`profiler/tracing/measured/copies.py`), so a trace of a
user's pipeline does not watch indexing. Here each case has a process of its own, which ends with it.
"""

from __future__ import annotations

from typing import Any

import torch


def watch_indexing() -> None:
    """Let every measured trace from now on tell of each position that is read off the GPU, once.

    Source: `applySlicing` in PyTorch's torch/csrc/autograd/python_variable_indexing.cpp.
    """
    from profiler.tracing.measured import reader

    plain = reader.watch_methods

    def watch(patches: Any, owners: Any, observer: Any) -> None:
        within: list[bool] = []

        def told(*copy: Any) -> None:
            if not within:  # C++ may ask for a position through `__index__`
                observer(*copy)

        def indexing(original: Any) -> Any:
            def method(tensor: torch.Tensor, index: Any, *value: Any) -> Any:
                parts = index if isinstance(index, tuple) else (index,)
                read = [one for one in parts if is_position_on_gpu(one)]
                within.append(True)
                try:
                    result = original(tensor, index, *value)
                finally:
                    within.pop()
                for one in read:
                    told("cuda", "cpu", one.element_size())
                return result

            return method

        plain(patches, owners, told)
        for name in ("__getitem__", "__setitem__"):
            patches.replace(torch.Tensor, name, indexing(getattr(torch.Tensor, name)))

    reader.watch_methods = watch


def is_position_on_gpu(index: Any) -> bool:
    """Tell whether an index is a single position whose value is on the GPU."""
    return (
        isinstance(index, torch.Tensor)
        and index.is_cuda
        and not index.dim()
        and not index.is_floating_point()
    )
