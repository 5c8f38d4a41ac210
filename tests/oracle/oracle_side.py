"""One side of the comparison: runs cases on the stand-in (the oracle) or on the virtual GPU, and writes their figures.

Usage: python tests/oracle/oracle_side.py oracle|predicted FOLDER CASE...

Each case runs in a fork of this process, which has imported what is slow to import. All cases must be of one GPU. Both
sides build the same pipelines and make the same calls; convolutions take no workspace on either, since nobody but cuDNN
knows what they take. The oracle's weights are memory that nobody wrote.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle_cases import CALLS, EVENT_CASES, FRAMES, STEPS, Case, cases

TIMEOUT_SECONDS = 600
RAM_BYTES = 14 << 30  # that a case may take; more means that weights are written somewhere
PYTORCH_SETTINGS = "PYTORCH_ALLOC_CONF"


def call_arguments(pipe: Any, model: str) -> dict[str, Any]:
    """Return the arguments of a short call of the model's own kind."""
    from profiler.pipelines.sensible_call import sensible_call

    given: dict[str, Any] = {"num_inference_steps": STEPS}
    if model in FRAMES:
        given["num_frames"] = FRAMES[model]
    return sensible_call(pipe, given)[0]


def mode_of(text: str) -> Any:
    """Return the mode that a case's text means."""
    from profiler.libraries.modes import Mode

    name, *extras = text.split("+")
    return Mode(
        name=name,
        stream="stream" in extras,
        record_stream="record" in extras,
        vae_tiling="tiling" in extras,
        layerwise_casting="layerwise" in extras,
    )


def run(case: Case, weights: str) -> dict[str, Any]:
    """Return the figures of placing a pipeline and calling it, and how it ended."""
    import torch

    from profiler.libraries.placing import enable_mode
    from profiler.pipelines import load_pipeline

    found: dict[str, Any] = {"stages": [], "error": ""}
    pipe = load_pipeline(case.model, weights=weights)
    pipe.set_progress_bar_config(disable=True)
    arguments = call_arguments(pipe, case.model)
    stages = ["placed", *(f"call {number}" for number in range(1, CALLS + 1))]
    try:
        for stage in stages:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.reset_peak_host_memory_stats()
            if stage == "placed":
                enable_mode(pipe, mode_of(case.mode))
            else:
                pipe(**arguments)
            found["stages"].append(figures(stage))
    except Exception as error:  # noqa: BLE001  # any way to fail is a result
        found["stages"].append(figures(f"{stage}, failed"))
        found["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        found["traceback"] = traceback.format_exc()[-3000:]
    return found


def figures(stage: str) -> dict[str, Any]:
    """Return what torch counts since its peaks were last reset."""
    import torch

    gpu, host = torch.cuda.memory_stats(), torch.cuda.host_memory_stats()
    return {
        "stage": stage,
        "allocated": gpu["allocated_bytes.all.peak"],
        "reserved": gpu["reserved_bytes.all.peak"],
        "segments": gpu["segment.all.peak"],
        "pinned": host["allocated_bytes.peak"],
        "allocated_after": gpu["allocated_bytes.all.current"],
        "reserved_after": gpu["reserved_bytes.all.current"],
        "requested": gpu["requested_bytes.all.peak"],
        "allocations": gpu["allocation.all.allocated"],
        "retries": gpu["num_alloc_retries"],
        "ooms": gpu["num_ooms"],
    }


@contextmanager
def stand_in(case: Case) -> Iterator[None]:
    """Let this process see the stand-in of the case's GPU, and compute what is small."""
    import torch
    from oracle_environment import runtime_library
    from oracle_values import SmallValues

    from profiler.allocator.settings import parse_settings
    from profiler.pipelines import building

    building.fill_at_random = lambda module: None
    runtime = ctypes.CDLL(str(runtime_library()))
    runtime.stand_in_restart()
    torch.cuda._is_in_bad_fork = lambda: False  # the parent allocated nothing
    torch.cuda.init()
    if case.allocator:
        torch.cuda.memory._set_allocator_settings(case.allocator)
        # Torch reads this one setting when CUDA is initialised, which the parent did: diffusers, while it is imported.
        torch.cuda.set_per_process_memory_fraction(parse_settings(case.allocator).memory_fraction)
    with SmallValues(runtime):
        yield


@contextmanager
def virtual_gpu(case: Case) -> Iterator[None]:
    """Let this process see the virtual GPU of the case."""
    from profiler.allocator.clock import Clock, Mark
    from profiler.virtual import VirtualGPU, workspaces

    workspaces.convolution = lambda spec, args, output: workspaces.NOTHING
    if mode_of(case.mode).record_stream:
        # How long its blocks are kept is a matter of time, which the stand-in has not.
        Clock.mark = lambda clock, stream: Mark(clock.host, clock._ideal_host)
    if case.allocator:
        os.environ[PYTORCH_SETTINGS] = case.allocator
    with VirtualGPU(case.gpu, capacity=case.capacity or None):
        yield


def describe_gpu(case: Case) -> None:
    """Tell the stand-in, by the environment, the GPU that the virtual one models."""
    os.environ |= facts_of_gpu(case.gpu, case.capacity)


def facts_of_gpu(gpu: str, capacity: str = "") -> dict[str, str]:
    """Return the environment variables that make the stand-in one of a GPU."""
    from profiler.gpus.hardware import choose_gpu_spec

    spec = choose_gpu_spec(gpu, capacity or None)
    major, minor = spec.compute_capability
    return {
        "STAND_IN_NAME": spec.name,
        "STAND_IN_TOTAL_BYTES": str(spec.capacity_bytes),
        "STAND_IN_CONTEXT_BYTES": str(spec.context_bytes),
        "STAND_IN_L2_BYTES": str(spec.l2_cache_bytes),
        "STAND_IN_CAPABILITY": str(10 * major + minor),
        "STAND_IN_MULTIPROCESSORS": str(spec.multi_processor_count),
    }


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done with a case, beside running it."""

    digest: str = ""  # of what the figures follow from
    history: bool = False  # its memory history is written, too
    events: bool = False  # the tracer's events are written in place of figures


def run_here(side: str, case: Case, file: Path, work: Work) -> None:
    """Run a case in this process and write its figures, or its events, and its memory history if that is asked."""
    import oracle_events
    from oracle_recording import recorded

    from profiler.pipelines.quiet import quiet

    started = time.perf_counter()
    describe_gpu(case)
    within, weights = (stand_in, "random") if side == "oracle" else (virtual_gpu, "none")
    with quiet(), within(case), recorded(file.with_suffix(".history") if work.history else None):
        found = (oracle_events.run if work.events else run)(case, weights)
    found |= {"case": case.name, "side": side, "digest": work.digest}
    found["seconds"] = round(time.perf_counter() - started, 1)
    file.write_text(json.dumps(found, indent=1))
    print(f"{side:9} {case.name:50} {found['seconds']:6} s  {found['error']}", flush=True)


def run_forked(side: str, case: Case, file: Path, work: Work) -> None:
    """Run a case in a fork, and write that it was ended if it takes too much time or memory."""
    child = os.fork()
    if not child:
        status = 1
        try:
            run_here(side, case, file, work)
            status = 0
        except BaseException:  # noqa: BLE001  # a fork must not go on as its parent
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    why = _watched(child)
    if why:
        lost = {"case": case.name, "side": side, "digest": work.digest, "stages": [], "error": why}
        file.write_text(json.dumps(lost, indent=1))
        print(f"{side:9} {case.name:50} {why}", flush=True)


def _watched(child: int) -> str:
    """Return why the child ended without a result; "" if it has one."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    why = ""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return why or (f"ended with {status}" if status else "")
        if not why and time.monotonic() > deadline:
            why = f"took over {TIMEOUT_SECONDS} s"
        if not why and _ram_bytes(child) > RAM_BYTES:
            why = f"took over {RAM_BYTES >> 30} GiB of RAM"
        if why:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.1)


def _ram_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(one.split()[1]) << 10 for one in lines if one.startswith("RssAnon")), 0)


def main() -> None:
    """Run the cases that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("oracle", "predicted"))
    parser.add_argument("folder", type=Path, help="where each case's figures are written")
    parser.add_argument("cases", nargs="+", help="names of cases")
    parser.add_argument("--digest", default="", help="of what the figures follow from")
    parser.add_argument("--history", action="store_true", help="record memory histories as well")
    parser.add_argument("--events", action="store_true", help="write the tracer's events instead")
    options = parser.parse_args()
    work = Work(digest=options.digest, history=options.history, events=options.events)
    known = {case.name: case for case in (*cases(), *EVENT_CASES)}
    chosen = [known[name] for name in options.cases]
    describe_gpu(chosen[0])
    _import_slow_modules()
    for case in chosen:
        file = options.folder / f"{case.name.replace(' ', '_')}.json"
        run_forked(options.side, case, file, work)


def _import_slow_modules() -> None:
    for name in ("accelerate.hooks", "diffusers.hooks", "diffusers", "transformers"):
        importlib.import_module(name)


if __name__ == "__main__":
    main()
