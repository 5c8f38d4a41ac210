"""Checks of this machine before anything is profiled: versions, the GPU, its other processes, shadowed names."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import profiler
from profiler import __version__
from profiler.gpus import nvml
from profiler.libraries.private_names import gone
from profiler.libraries.releases import TESTED, installed, tested
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = "ok"
NOTE = "note"  # worth knowing; nothing is wrong
PROBLEM = "problem"

PACKAGES = ("profiler", "reports")


class Check(NamedTuple):
    """The result of one check."""

    name: str  # stable identifier
    status: str  # OK, NOTE or PROBLEM
    told: str
    fix: str = ""


def examine(folder: Path | None = None) -> tuple[Check, ...]:
    """Return the results of all checks of this machine.

    Args:
        folder: The folder in which a notebook would run; None for the current one.
    """
    gpu = nvml.gpu_memory()
    return (
        Check("python", OK, f"vram-profiler {__version__}, Python {platform.python_version()}"),
        *_versions(),
        *_private_names(),
        *_shadows(folder or Path.cwd()),
        _torch(gpu),
        *_memory(gpu),
        *_link(nvml.status()),
        *_spilling(),
    )


def _versions() -> Iterator[Check]:
    """Yield a check for each library whose internals the tracer and the virtual GPU depend on."""
    for one in TESTED:
        version = installed(one.library)
        if version is None:
            words, fix = f"{one.library} is not installed", f"pip install {one.library}"
            yield Check(one.library, PROBLEM, words, fix)
        elif one.covers(version):
            yield Check(one.library, OK, f"{one.library} {version}")
        else:
            words = f"{one.library} {version} is not what was tested, {one}: figures may be off"
            yield Check(one.library, PROBLEM, words, f'pip install "{one.requirement}"')


def _private_names() -> Iterator[Check]:
    """Yield a check for each private name that a library no longer has."""
    for one in gone():
        newest = tested(one.library)
        words = (
            f"{one.library} has no {one}, last seen in {newest.newest}: {one.serves} cannot be read"
        )
        yield Check("private-name", PROBLEM, words, f'pip install "{newest.requirement}"')


def _shadows(folder: Path) -> Iterator[Check]:
    """Yield a check for the names of this package, which a file beside a notebook would shadow."""
    ours = Path(profiler.__file__).resolve().parent.parent
    found = False
    for name in PACKAGES:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file() and path.resolve() != ours / name / "__init__.py":
                found = True
                what = path if path.name != "__init__.py" else path.parent
                yield Check(
                    "shadowed",
                    PROBLEM,
                    f"{what} is imported in place of this package's {name} by notebooks and scripts beside it",
                    f"rename {what}",
                )
    if not found:
        yield Check("shadowed", OK, f"nothing in {folder} has the name of a package of ours")


def _torch(gpu: nvml.GpuMemory | None) -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("card", PROBLEM, f"torch cannot be imported: {error}", "pip install torch")
    if torch.cuda.is_available():
        return Check("card", OK, f"torch sees {torch.cuda.get_device_name()}")
    if gpu is None:
        return Check("card", NOTE, "torch sees no GPU: runs are predicted on a virtual one")
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    words = f"the driver sees {gpu.name}, and this torch, built {built}, does not"
    return Check("card", PROBLEM, words, "install the CUDA build of torch, or a newer driver")


def _memory(gpu: nvml.GpuMemory | None) -> Iterator[Check]:
    if gpu is None:
        return
    free, total = format_bytes(gpu.free_bytes), format_bytes(gpu.total_bytes)
    others = [_held(holder) for holder in gpu.holders if holder.pid != os.getpid()]
    words = f"{free} of {total} are free"
    if others:
        yield Check(
            "memory", NOTE, f"{words}; held by {', '.join(others)}", "end what is not needed"
        )
    else:
        yield Check("memory", OK, words)


def _link(status: nvml.Status | None) -> Iterator[Check]:
    """Yield a check of the lanes; an idle GPU lowers its PCIe generation, so that of GPU and slot is reported."""
    if status is None or None in status.link:
        return
    link = status.link
    words = f"PCIe {link.most_generation} x{link.width}"
    if link.width == link.most_width:
        yield Check("link", OK, words)
    else:
        fix = "another slot, or a slot that no second GPU shares"
        yield Check("link", NOTE, f"{words}, and GPU and slot have x{link.most_width}", fix)


def _held(holder: nvml.Holder) -> str:
    size = "" if holder.bytes is None else f" {format_bytes(holder.bytes)}"
    return f"{holder.name or 'process'} ({holder.pid}){size}"


def _spilling() -> Iterator[Check]:
    if platform.system() == "Windows":
        yield Check(
            "spilling",
            NOTE,
            "this driver may lend system memory in place of running out, many times slower",
            'NVIDIA control panel: "CUDA - Sysmem Fallback Policy": "Prefer No Sysmem Fallback"',
        )
