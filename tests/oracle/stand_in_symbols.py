"""The symbols that torch's libraries want of NVIDIA's: which library each belongs to, and stubs for the rest.

Everything is read off torch's own libraries with `nm`. A symbol that is linked carries the name of its library as its
version (`cudaMalloc@libcudart.so.13`); one without a version is told by its prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """A shared library that stands in for one of NVIDIA's."""

    soname: str
    sources: tuple[str, ...] = ()  # files of `runtime/`; every other function is a stub
    folder: str = "cu13"  # below site-packages/nvidia, where torch looks for it
    pattern: str = ""  # of the whole name of symbols without a version that belong to it
    version: str = ""  # of its symbols; the soname if not given
    answer: int = 0  # what a stub returns: an error, where torch must not believe that it worked


LIBRARIES = (
    Library("libcudart.so.13", ("gpu.c", "memory.c", "streams.c", "kernels.c")),
    Library("libcuda.so.1", ("driver.c",), pattern=r"cu(?!File)[A-Z]\w+"),
    Library("libnvidia-ml.so.1", ("nvml.c",), pattern=r"nvml\w+"),
    Library("libcublas.so.13", ("cublas.c",)),
    Library("libcublasLt.so.13", ("cublasLt.c",)),
    Library("libcudnn.so.9", ("cudnn.c",), folder="cudnn"),
    Library("libcufft.so.12", ("cufft.c",)),
    Library("libcupti.so.13", ("cupti.c",)),
    Library("libnvrtc.so.13", ("nvrtc.c",)),
    Library("libcurand.so.10", pattern=r"curand\w+"),
    Library("libcufile.so.0", pattern=r"cuFile\w+"),
    Library("libcusparse.so.12", answer=10),  # CUSPARSE_STATUS_NOT_SUPPORTED
    Library("libcusolver.so.12", answer=9),  # CUSOLVER_STATUS_NOT_SUPPORTED
    Library("libcusparseLt.so.0", folder="cusparselt", pattern=r"cusparseLt\w+", answer=10),
    Library("libnccl.so.2", folder="nccl", pattern=r"nccl\w+", answer=3),  # ncclInternalError
    Library(
        "libnvshmem_host.so.3",
        folder="nvshmem",
        pattern=r"nvshmem\w*",
        version="NVSHMEM",
        answer=1,
    ),
)


def parse_symbols(listing: str) -> dict[str, str]:
    """Return the names in a listing of `nm -D` with their versions; "" where a symbol has none.

    Example:
        >>> parse_symbols("                 U cudaMalloc@libcudart.so.13")
        {'cudaMalloc': 'libcudart.so.13'}
    """
    found = {}
    for line in filter(None, map(str.strip, listing.splitlines())):
        name, _, version = line.split()[-1].partition("@")
        found[name] = version.lstrip("@")
    return found


def wanted_of(library: Library, symbols: Mapping[str, str]) -> set[str]:
    """Return the names among `symbols` that belong to `library`."""
    version = library.version or library.soname
    return {
        name
        for name, own in symbols.items()
        if own == version or (not own and re.fullmatch(library.pattern or r"(?!)", name))
    }


def stubs(names: Iterable[str], answer: int) -> str:
    """Return the C text of functions that do nothing and return `answer`; what is destroyed always succeeds."""
    lines = ["/* Generated: what torch links and nobody calls, or what must fail. */"]
    lines += [
        f'__attribute__((visibility("default"))) int {name}(void) {{ return {0 if "Destroy" in name else answer}; }}'
        for name in sorted(names)
    ]
    return "\n".join(lines) + "\n"


def version_script(library: Library, symbols: Mapping[str, str]) -> str:
    """Return the linker script that gives the library's symbols the version that torch links against."""
    version = library.version or library.soname
    return f"{version if version in symbols.values() else ''} {{ global: *; }};\n".lstrip()
