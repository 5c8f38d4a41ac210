"""The oracle's own environment: torch's CUDA wheel, none of NVIDIA's, and the stand-in libraries in their place.

Made once below `.venv-oracle`, in steps that are skipped when they are done; for another version of torch than the
tested one, below `.venv-oracle-VERSION`. NVIDIA's public wheels are downloaded for their headers alone, which stay
there, outside of what git tracks.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

from stand_in_build import RUNTIME, build

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-oracle"
# The wheels that hold headers, by the requirement of torch's that says their version.
TOOLKIT = "cuda-toolkit"
OF_TOOLKIT = ("nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-cublas")
OF_TORCH = ("nvidia-cudnn-cu13",)


def folder_of(torch: str = "") -> Path:
    """Return the environment's folder, which each version of torch beside the tested one has for its own."""
    return FOLDER.with_name(f"{FOLDER.name}-{torch}") if torch else FOLDER


def python_of(folder: Path) -> Path:
    """Return the interpreter of an environment."""
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    """Return the folder of an environment's packages."""
    return next((folder / "lib").glob("python3*/site-packages"))


def nvidia_libraries(folder: Path) -> Path:
    """Return the folder of most of the stand-in's libraries."""
    return site_packages(folder) / "nvidia" / "cu13" / "lib"


def runtime_library() -> Path:
    """Return the library that keeps the books, of the environment that this process runs in."""
    return nvidia_libraries(Path(sys.prefix)) / "libcudart.so.13"


def set_up(torch: str = "") -> Path:
    """Make the environment for a version of torch, or what is missing of it, and return its folder.

    Args:
        torch: the version; "" for the tested one, that of `constraints.txt`.

    Raises:
        subprocess.CalledProcessError: pip or the compiler failed; it says why.
    """
    folder = folder_of(torch)
    folder.mkdir(exist_ok=True)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    _step(folder, "packages", constraints, lambda: _install(folder, constraints, torch))
    metadata = next(site_packages(folder).glob("torch-*.dist-info/METADATA")).read_text("utf-8")
    _step(folder, "headers", metadata, lambda: _unpack_headers(folder, metadata))
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted(RUNTIME.iterdir()))
    builders = "".join(
        path.read_text(encoding="utf-8") for path in RUNTIME.parent.glob("stand_in_*.py")
    )
    headers = folder / "headers" / "nvidia"
    includes = [headers / "cu13" / "include", headers / "cudnn" / "include"]
    _step(folder, "libraries", sources + builders, lambda: build(site_packages(folder), includes))
    return folder


def _step(folder: Path, name: str, made_of: str, make: Callable[[], None]) -> None:
    """Run `make` unless it was run before for the same text."""
    done = folder / f".{name}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()
    if done.exists() and done.read_text() == digest:
        return
    print(f"{folder.name}: {name}", flush=True)
    make()
    done.write_text(digest)


def _install(folder: Path, constraints: str, torch: str) -> None:
    venv.create(folder, with_pip=True)
    pinned = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    tested = next(line for line in pinned if line.startswith("torch=="))
    listed = folder / "requirements.txt"
    listed.write_text("\n".join(line for line in pinned if line != tested) + "\n")
    # `===` compares the whole version as text, so a build with a suffix (2.13.0+cpu) is never taken for it. No
    # dependencies: those of torch's CUDA wheel are NVIDIA's libraries.
    version = torch or tested.removeprefix("torch==").partition("+")[0]
    _pip(folder, "install", "--no-deps", f"torch==={version}")
    _pip(folder, "install", "--no-deps", "--requirement", str(listed))


def _unpack_headers(folder: Path, metadata: str) -> None:
    wheels, headers = folder / "wheels", folder / "headers"
    shutil.rmtree(headers, ignore_errors=True)
    toolkit = _download(f"{TOOLKIT}=={pinned_version(metadata, TOOLKIT)}", wheels)
    with zipfile.ZipFile(toolkit) as archive:
        name = next(one for one in archive.namelist() if one.endswith("METADATA"))
        parts = archive.read(name).decode()
    wanted = [f"{one}=={pinned_version(parts, one)}" for one in OF_TOOLKIT]
    wanted += [f"{one}=={pinned_version(metadata, one)}" for one in OF_TORCH]
    for requirement in wanted:
        with zipfile.ZipFile(_download(requirement, wheels)) as archive:
            archive.extractall(headers, [one for one in archive.namelist() if "/include/" in one])
    shutil.rmtree(wheels)


def pinned_version(metadata: str, name: str) -> str:
    """Return the version of the package `name` that a distribution's metadata pins.

    Example:
        >>> pinned_version("Requires-Dist: nvidia-cublas==13.1.1.3.*; extra == 'cublas'", "nvidia-cublas")
        '13.1.1.3.*'
    """
    requirements = Parser().parsestr(metadata).get_all("Requires-Dist") or []
    pattern = re.compile(rf"{re.escape(name)}(?:\[[^\]]*\])?\s*==\s*([\w.*+]+)")
    return next(found[1] for one in requirements if (found := pattern.match(one)))


def _download(requirement: str, wheels: Path) -> Path:
    before = set(wheels.glob("*.whl"))
    _pip(wheels.parent, "download", "--no-deps", "--dest", str(wheels), requirement)
    return (set(wheels.glob("*.whl")) - before).pop()


def _pip(folder: Path, *arguments: str) -> None:
    command = [
        str(python_of(folder)),
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        *arguments,
    ]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    set_up()
