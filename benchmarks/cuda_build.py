"""Whether a CUDA build of torch predicts what the CPU build predicts: the same peaks, bytes and events.

Run: python benchmarks/cuda_build.py [--venv .venv-cuda] [--json], or `make nightly-cuda`. Needs no GPU, but some 6 GB
of disk for the CUDA build and its libraries, which are installed once into an environment of their own.

Exits with 4 where any figure differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

MODELS = ("sd15", "sdxl-base", "flux1-dev", "cogvideox-5b", "wan2.1-t2v-1.3b", "z-image-turbo")
MODES = (
    {"name": "resident"},
    {"name": "model"},
    {"name": "sequential"},
    {"name": "group-block"},
    {"name": "group-leaf"},
    {"name": "group-leaf", "stream": True},
)
GPU = "h200"
ROOT = Path(__file__).resolve().parents[1]


def figures() -> dict[str, Any]:
    """Return what this interpreter's torch predicts, by model and mode, and which build it is."""
    import torch

    from profiler.libraries.modes import Mode
    from profiler.sizing.scenario import Scenario
    from profiler.sizing.size import profile_model

    found = {}
    for model in MODELS:
        for options in MODES:
            profile = profile_model(
                Scenario(model=model, gpu=GPU, mode=Mode(**options), steps=2)  # type: ignore[arg-type]
            )
            events = json.dumps(profile.events).encode()
            found[f"{model} {' '.join(map(str, options.values()))}"] = {
                **profile.totals.__dict__,
                "complete": profile.complete,
                "error": profile.error,
                "events": len(profile.events),
                "events_sha256": hashlib.sha256(events).hexdigest(),
            }
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "figures": found}


def install(folder: Path) -> Path:
    """Return the interpreter of an environment with the CUDA build of torch, made where it is missing."""
    python = folder / "bin" / "python"
    ready = folder / ".installed"
    if not ready.exists():
        venv.create(folder, with_pip=True)
        # `===` compares the whole version as text, so a build with a suffix (2.13.0+cpu) is never taken for it.
        pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt"]
        subprocess.run([*pip, f"torch==={_tested_torch()}"], check=True, cwd=ROOT)
        subprocess.run([*pip, ".[models]"], check=True, cwd=ROOT)
        ready.touch()
    return python


def _tested_torch() -> str:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = next(line for line in lines if line.startswith("torch=="))
    return pinned.removeprefix("torch==").partition("+")[0]


def run_in(python: str | Path) -> dict[str, Any]:
    """Return the figures that another interpreter predicts with this checkout."""
    # The GPU that may be there plays no part: both builds predict.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(python), __file__, "--print"],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return a line for each figure that is not the same in both."""
    return [
        f"{case}: {name} is {one[case].get(name)} and {other[case].get(name)}"
        for case in one
        for name in one[case]
        if one[case][name] != other[case].get(name)
    ]


def main() -> None:
    """Compare this interpreter's build with the CUDA build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-cuda")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--print", action="store_true", help="print this interpreter's figures")
    options = parser.parse_args()
    if options.print:
        print(json.dumps(figures(), indent=2))
        return
    cuda = run_in(install(options.venv.absolute()))
    if not cuda["cuda"]:
        raise SystemExit(f"{options.venv} holds torch {cuda['torch']}, which is no CUDA build")
    ours = run_in(sys.executable)
    found = differences(ours["figures"], cuda["figures"])
    summary = {
        "builds": [ours["torch"], cuda["torch"]],
        "cases": len(ours["figures"]),
        "events": sum(one["events"] for one in ours["figures"].values()),
        "differences": found,
    }
    print(json.dumps(summary, indent=2 if options.json else None))
    if found:
        raise SystemExit(4)


if __name__ == "__main__":
    main()
