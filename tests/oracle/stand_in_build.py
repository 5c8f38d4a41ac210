"""Compiling the stand-in libraries into an environment, to where torch's CUDA wheel looks for NVIDIA's."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stand_in_symbols import LIBRARIES, Library, parse_symbols, stubs, version_script, wanted_of

RUNTIME = Path(__file__).resolve().parent / "runtime"
COMPILER = ("gcc", "-O2", "-g", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden", "-fno-builtin")


def build(site_packages: Path, includes: Sequence[Path]) -> None:
    """Build every library into `site_packages/nvidia`.

    Args:
        site_packages: Of the environment that holds torch's CUDA wheel.
        includes: Folders of the CUDA and cuDNN headers.

    Raises:
        subprocess.CalledProcessError: The compiler refuses a file; it says why.
    """
    symbols: dict[str, str] = {}
    for torch_library in sorted((site_packages / "torch" / "lib").glob("*.so")):
        symbols |= parse_symbols(_listing(torch_library, "-D", "--undefined-only"))
    with tempfile.TemporaryDirectory() as folder:
        for library in LIBRARIES:
            _build_one(library, symbols, site_packages / "nvidia", includes, Path(folder))


def _build_one(
    library: Library,
    symbols: dict[str, str],
    nvidia: Path,
    includes: Sequence[Path],
    folder: Path,
) -> None:
    objects = [_compile(RUNTIME / source, includes, folder) for source in library.sources]
    written = {
        name for one in objects for name in parse_symbols(_listing(one, "-g", "--defined-only"))
    }
    stub_file = folder / f"stubs_{library.soname.partition('.')[0]}.c"
    stub_file.write_text(stubs(wanted_of(library, symbols) - written, library.answer))
    script = folder / f"{library.soname}.map"
    script.write_text(version_script(library, symbols))
    target = nvidia / library.folder / "lib" / library.soname
    target.parent.mkdir(parents=True, exist_ok=True)
    # The books are in the runtime; the others call it.
    books = nvidia / LIBRARIES[0].folder / "lib" / LIBRARIES[0].soname
    subprocess.run(
        [
            *COMPILER,
            "-shared",
            f"-Wl,-soname,{library.soname}",
            f"-Wl,--version-script,{script}",
            f"-Wl,-rpath,$ORIGIN:$ORIGIN/../../{LIBRARIES[0].folder}/lib",
            *map(str, objects),
            str(_compile(stub_file, (), folder)),
            *([] if target == books else [str(books)]),
            "-o",
            str(target),
            "-lpthread",
            "-ldl",
        ],
        check=True,
    )


def _compile(source: Path, includes: Sequence[Path], folder: Path) -> Path:
    made = folder / f"{source.stem}.o"
    flags = [f"-I{include}" for include in includes]
    subprocess.run([*COMPILER, *flags, "-c", str(source), "-o", str(made)], check=True)
    return made


def _listing(file: Path, *options: str) -> str:
    done = subprocess.run(["nm", *options, file], check=True, capture_output=True, text=True)
    return done.stdout
