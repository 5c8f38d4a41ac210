"""The answers that come with the package: `data/cudnn`, a compressed file for each version of cuDNN.

Made by `benchmarks/cudnn_answers.py`, which can also ask for all of them again. A file holds `convolutions`, their
texts; `chains`, the distinct lists of workspaces in bytes, as `Heuristics.workspaces` returns them; and `answers`, for
each kind of GPU the index of a chain for each convolution, -1 where none was asked for. They hold for PyTorch's
defaults: `torch.backends.cudnn.allow_tf32`, and deterministic or not.
"""

from __future__ import annotations

import json
import lzma
from functools import cache
from importlib import resources
from typing import Any

VERSION = (9, 20, 0)
"""The cuDNN that PyTorch 2.13's CUDA 13 build brings along: `nvidia-cudnn-cu13` in its wheel's requirements."""


def file_name(version: tuple[int, int, int]) -> str:
    """Return the name of a version's file."""
    return "{}.{}.{}.json.xz".format(*version)


def shipped_chain(
    kind: str, convolution: str, version: tuple[int, int, int] = VERSION
) -> tuple[int, ...] | None:
    """Return the workspaces of a convolution's plans, in bytes; None if the package has no answer.

    Args:
        kind: of the GPU, as `gpu_properties.kind_of` returns it.
        convolution: its text.
        version: of cuDNN.
    """
    return _chains(version, kind).get(convolution)


@cache
def _chains(version: tuple[int, int, int], kind: str) -> dict[str, tuple[int, ...]]:
    table = _table(version)
    indices = table.get("answers", {}).get(kind, ())
    chains = [tuple(chain) for chain in table.get("chains", ())]
    texts = table.get("convolutions", ())
    return {text: chains[index] for text, index in zip(texts, indices, strict=False) if index >= 0}


@cache
def _table(version: tuple[int, int, int]) -> dict[str, Any]:
    file = resources.files("profiler") / "data" / "cudnn" / file_name(version)
    if not file.is_file():
        return {}
    table: dict[str, Any] = json.loads(lzma.decompress(file.read_bytes()))
    return table
