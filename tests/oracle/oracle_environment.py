"""The oracle's own environment: torch's CUDA wheel, none of NVIDIA's, and the stand-in libraries in their place.

Made once below `.venv-oracle`, in steps that are skipped when they are done. NVIDIA's public wheels are downloaded for
their headers alone, which stay there, outside of what git tracks.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import venv
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

from stand_in_build import RUNTIME, build

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-oracle"
PYTHON = FOLDER / "bin" / "python"
HEADERS = FOLDER / "headers"
# The wheels that hold headers, by the requirement of torch's that says their version.
TOOLKIT = "cuda-toolkit"
OF_TOOLKIT = ("nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-cublas")
OF_TORCH = ("nvidia-cudnn-cu13",)


def site_packages() -> Path:
    """Return the folder of the environment's packages."""
    return next((FOLDER / "lib").glob("python3*/site-packages"))


def runtime_library() -> Path:
    """Return the library that keeps the books."""
    return site_packages() / "nvidia" / "cu13" / "lib" / "libcudart.so.13"


def set_up() -> None:
    """Make the environment, or what is missing of it.

    Raises:
        subprocess.CalledProcessError: pip or the compiler failed; it says why.
    """
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    _step("packages", constraints, lambda: _install(constraints))
    torch = next(site_packages().glob("torch-*.dist-info/METADATA"))
    _step("headers", torch.read_text(encoding="utf-8"), _unpack_headers)
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted(RUNTIME.iterdir()))
    builders = "".join(
        path.read_text(encoding="utf-8") for path in RUNTIME.parent.glob("stand_in_*.py")
    )
    includes = [HEADERS / "nvidia" / "cu13" / "include", HEADERS / "nvidia" / "cudnn" / "include"]
    _step("libraries", sources + builders, lambda: build(site_packages(), includes))


def _step(name: str, made_of: str, make: Callable[[], None]) -> None:
    """Run `make` unless it was run before for the same text."""
    done = FOLDER / f".{name}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()
    if done.exists() and done.read_text() == digest:
        return
    print(f"oracle: {name}", flush=True)
    make()
    done.write_text(digest)


def _install(constraints: str) -> None:
    venv.create(FOLDER, with_pip=True)
    pinned = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    torch = next(line for line in pinned if line.startswith("torch=="))
    listed = FOLDER / "requirements.txt"
    listed.write_text("\n".join(line for line in pinned if line != torch) + "\n")
    # `===` compares the whole version as text, so a build with a suffix (2.13.0+cpu) is never taken for it. No
    # dependencies: those of torch's CUDA wheel are NVIDIA's libraries.
    plain = torch.removeprefix("torch==").partition("+")[0]
    _pip("install", "--no-deps", f"torch==={plain}")
    _pip("install", "--no-deps", "--requirement", str(listed))


def _unpack_headers() -> None:
    torch = next(site_packages().glob("torch-*.dist-info/METADATA")).read_text(encoding="utf-8")
    wheels = FOLDER / "wheels"
    shutil.rmtree(HEADERS, ignore_errors=True)
    toolkit = _download(f"{TOOLKIT}=={pinned_version(torch, TOOLKIT)}", wheels)
    with zipfile.ZipFile(toolkit) as archive:
        name = next(one for one in archive.namelist() if one.endswith("METADATA"))
        parts = archive.read(name).decode()
    wanted = [f"{one}=={pinned_version(parts, one)}" for one in OF_TOOLKIT]
    wanted += [f"{one}=={pinned_version(torch, one)}" for one in OF_TORCH]
    for requirement in wanted:
        with zipfile.ZipFile(_download(requirement, wheels)) as archive:
            archive.extractall(HEADERS, [one for one in archive.namelist() if "/include/" in one])
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


def _download(requirement: str, folder: Path) -> Path:
    before = set(folder.glob("*.whl"))
    _pip("download", "--no-deps", "--dest", str(folder), requirement)
    return (set(folder.glob("*.whl")) - before).pop()


def _pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    set_up()
