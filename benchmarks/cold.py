"""What a cold `vram profile flux1-dev --gpu h100 --mode model --json` costs: seconds and peak memory.

Run: python benchmarks/cold.py [--json]

The command runs in a process of its own, as a user would start it. Beside it stand the imports it
cannot do without, so that what is ours is the difference. Limits: 12 s and 0.9 GiB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

MODEL_OFFLOAD = ("profile", "flux1-dev", "--gpu", "h100", "--mode", "model", "--json")
RUNS = {
    "imports": ("-c", "import torch, diffusers; diffusers.FluxPipeline"),
    "profile": ("-c", "from profiler.cli import main; main()", *MODEL_OFFLOAD),
}
LIMIT_SECONDS = 12.0
LIMIT_BYTES = int(0.9 * 2**30)


def measure(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Return wall seconds and the highest resident memory of one Python process."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        # `wait4` gives this child's own usage; RUSAGE_CHILDREN would give the largest of all.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {child.returncode}")
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "peak_rss_bytes": usage.ru_maxrss * unit}


def main() -> None:
    """Print the figures of each run, and fail where a limit is exceeded."""
    found = {name: measure(arguments) for name, arguments in RUNS.items()}
    if "--json" in sys.argv:
        print(json.dumps(found, indent=2))
    else:
        for name, one in found.items():
            rss = one["peak_rss_bytes"] / 2**30
            print(f"{name:8s} {one['seconds']:6.2f} s {rss:6.2f} GiB resident")
    ours = found["profile"]
    if ours["seconds"] > LIMIT_SECONDS or ours["peak_rss_bytes"] > LIMIT_BYTES:
        raise SystemExit(f"over the limit of {LIMIT_SECONDS:g} s and {LIMIT_BYTES / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
