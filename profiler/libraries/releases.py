"""The releases of PyTorch and Hugging Face's libraries that this package was tested with, and what they do differently.

The package runs on their private names, so a release that nobody tried may move what is read. It is warned about, not
refused. What differs between tested releases, as far as it changes a figure, is a `Fact`.
"""

from __future__ import annotations

import importlib.metadata
import re
import warnings
from functools import cache
from typing import NamedTuple


class Tested(NamedTuple):
    """The tested releases of one library: from `oldest`, up to any release of `newest`."""

    library: str
    oldest: str
    newest: str

    def covers(self, version: str) -> bool:
        """Tell whether a version lies between them."""
        newest = numbers(self.newest)
        return (
            numbers(self.oldest) <= numbers(version) and numbers(version)[: len(newest)] <= newest
        )

    @property
    def requirement(self) -> str:
        """What pip is asked for: `diffusers>=0.37.0,<0.43`."""
        *first, last = numbers(self.newest)
        below = ".".join(map(str, (*first, last + 1)))
        return f"{self.library}>={self.oldest},<{below}"

    def __str__(self) -> str:
        """Return both, as a sentence has them: `0.37.0 to 0.42`."""
        return f"{self.oldest} to {self.newest}"


class Fact(NamedTuple):
    """Something that one library does otherwise since a release, and that shows in figures."""

    library: str
    since: str
    what: str


TESTED = (
    Tested("torch", "2.13", "2.14"),
    Tested("diffusers", "0.37.0", "0.42"),
    Tested("accelerate", "1.12.0", "1.15"),
    Tested("transformers", "4.57.0", "5.24"),
)
"""`make matrix` tries both ends of each (docs/compatibility.md)."""

FACTS = (
    Fact(
        "transformers",
        "5.0",
        "T5's embeddings are two modules with one weight; before, one module with two parents, which accelerate's "
        "sequential offload hooks and loads twice",
    ),
    Fact(
        "transformers",
        "5.0",
        "T5's mask is made of numbers that are sent to the GPU, and one that is read back; before, on the GPU alone",
    ),
    Fact(
        "transformers",
        "5.2",
        "weights that a class keeps in float32 are so in float16 only, as in 4.57; in 5.0 and 5.1 in bfloat16 too "
        "(T5's `wo`)",
    ),
    Fact(
        "transformers",
        "5.15",
        "T5 computes its attention in one fused kernel, and sends two numbers less for its mask; before, it wrote the "
        "scores",
    ),
    Fact(
        "transformers",
        "5.20",
        "the bias of T5's positions is contiguous where attention takes it; before, each layer copied it",
    ),
    Fact("diffusers", "0.39", "SDXL sends two numbers, 12 bytes, less to the GPU"),
)


def tested(library: str) -> Tested:
    """Return the tested releases of a library."""
    (found,) = (one for one in TESTED if one.library == library)
    return found


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release: (2, 13, 0) for `2.13.0+cpu`."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+", maxsplit=1)[0])[:3])


def installed(library: str) -> str | None:
    """Return the installed version of a library; None if there is none."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def warn_of_untested() -> None:
    """Warn, once in a process, of each library whose installed release was not tested."""
    for one in TESTED:
        version = installed(one.library)
        if version is not None and not one.covers(version):
            warnings.warn(
                f"{one.library} {version} was not tested with this release of vram-profiler, {one} were: "
                "figures may be off. `vram doctor` says more",
                stacklevel=4,
            )
