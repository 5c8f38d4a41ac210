"""The answers that come with the package: `data/cudnn`, a folder for a version of cuDNN, a line for each convolution.

Made by `benchmarks/cudnn_answers.py`, which can also ask for all of them again. `convolutions.txt.xz` holds their
texts; a file for each kind of GPU the workspaces of their plans in bytes, as `Heuristics.workspaces` returns them, in
the same order, and an empty line where PyTorch does not ask cuDNN. They hold for PyTorch's defaults:
`torch.backends.cudnn.allow_tf32`, and deterministic or not.
"""

from __future__ import annotations

import lzma
from functools import cache
from importlib import resources

VERSION = (9, 20, 0)
"""The cuDNN that PyTorch 2.13's CUDA 13 build brings along: `nvidia-cudnn-cu13` in its wheel's requirements."""

CONVOLUTIONS = "convolutions"


def shipped_chain(kind: str, convolution: str) -> tuple[int, ...] | None:
    """Return the workspaces of a convolution's plans, in bytes; None if the package has no answer.

    Args:
        kind: of the GPU, as `gpu_properties.kind_of` returns it.
        convolution: its text.
    """
    line = _answers(kind).get(convolution)
    return tuple(map(int, line.split())) if line else None


def shipped_lines(name: str) -> list[str]:
    """Return the lines of a kind of GPU, or those of the convolutions; none if the package does not have them."""
    file = resources.files("profiler") / "data" / "cudnn" / folder_name() / f"{name}.txt.xz"
    return lzma.decompress(file.read_bytes()).decode().split("\n") if file.is_file() else []


def folder_name() -> str:
    """Return the name of the version's folder."""
    return "{}.{}.{}".format(*VERSION)


@cache
def _answers(kind: str) -> dict[str, str]:
    return dict(zip(shipped_lines(CONVOLUTIONS), shipped_lines(kind), strict=False))
