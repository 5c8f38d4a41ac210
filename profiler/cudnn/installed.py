"""Finds the cuDNN that is installed beside Python: NVIDIA's wheel, with its headers and the libraries it loads.

PyTorch's CUDA builds bring it along; on any other machine `pip install "vram-profiler[cudnn]"` does. `$VRAM_CUDNN`
names another folder that wheels were installed into (`pip install --target`), or is empty for none.
"""

from __future__ import annotations

import importlib.util
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

PLACE = "VRAM_CUDNN"
LEAST_VERSION = (9, 8)
"""The first one that answers without a GPU."""

_PRELOADED = ("libcudart.so", "libnvrtc.so", "libcublasLt.so")  # which cuDNN opens by name


class InstalledCudnn(NamedTuple):
    """One installation.

    Attributes:
        folder: of the wheel: `lib` and `include` are in it.
        version: of its header, such as (9, 20, 0).
    """

    folder: Path
    version: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The version in words: `cuDNN 9.20.0`."""
        return "cuDNN {}.{}.{}".format(*self.version)

    @property
    def library(self) -> Path:
        """The library that has the graph API."""
        return next((self.folder / "lib").glob("libcudnn_graph.so.*"))

    def needed(self) -> list[Path]:
        """Return the libraries of NVIDIA's other wheels that it opens, as far as they are there."""
        libraries = [
            path for path in sorted(self.folder.parent.glob("*/lib/*.so.*")) if path.is_file()
        ]
        return [path for path in libraries if path.name.startswith(_PRELOADED)]


def installed_cudnn() -> InstalledCudnn | None:
    """Return the installed cuDNN; None if there is none, or one that does not answer without a GPU."""
    return _installed(os.environ.get(PLACE))


@cache
def _installed(place: str | None) -> InstalledCudnn | None:
    for folder in _places(place):
        found = _at(folder / "cudnn")
        if found is not None and found.version[:2] >= LEAST_VERSION:
            return found
    return None


def _places(place: str | None) -> list[Path]:
    """Return the folders in which wheels of NVIDIA's may be."""
    if place is not None:
        return [Path(place).expanduser() / "nvidia"] if place else []
    namespace = importlib.util.find_spec("nvidia")
    return [Path(one) for one in (namespace.submodule_search_locations or ())] if namespace else []


def _at(folder: Path) -> InstalledCudnn | None:
    header = folder / "include" / "cudnn_version.h"
    if not header.is_file() or not any((folder / "lib").glob("libcudnn_graph.so.*")):
        return None
    text = header.read_text(encoding="utf-8", errors="replace")
    numbers = dict(re.findall(r"#define CUDNN_(MAJOR|MINOR|PATCHLEVEL)\s+(\d+)", text))
    if len(numbers) != 3:
        return None
    major, minor, patch = (int(numbers[part]) for part in ("MAJOR", "MINOR", "PATCHLEVEL"))
    return InstalledCudnn(folder, (major, minor, patch))
