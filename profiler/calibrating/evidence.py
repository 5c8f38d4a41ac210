"""What a measured run says of its machine: the few constants of the cost model that a single call can tell.

The same call is predicted on a virtual GPU of the same name, and four constants are moved until the prediction meets
the measurement: what the host takes per launched kernel, what kernels reach of the data sheet (one factor for all of
them), and the rates of copies with pageable memory each way. They are fitted by least squares on the logarithm of
predicted / measured seconds of each component's forwards and of the moves in each direction (Gauss-Newton). Each is
held to what was known before by a stated width, so that a call that cannot tell a constant leaves it where it is.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from profiler.atomic import check_writable
from profiler.errors import InputError
from profiler.gpus import calibration
from profiler.gpus.calibration_table import Calibration, Fitted, load, save
from profiler.gpus.hardware import GpuSpec, gpu_spec
from profiler.libraries.modes import Mode
from profiler.pipelines import load_pipeline
from profiler.pipelines.recorded_call import repeatable_call
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

if TYPE_CHECKING:
    from pathlib import Path

    from profiler.record.profile import Profile

MODES = ("resident", "model", "sequential")
"""Placements that a profile's record describes completely."""

WIDTHS = {"launch_seconds": 0.5, "kernels": 0.3, "h2d": 0.5, "d2h": 0.5}
"""Standard deviations of the logarithm of each constant, from what was known before."""

NOISE = 0.05
"""That of a measured time."""

LEAST_SHARE = 0.002
"""Of a call's seconds: what takes less tells nothing."""

ROUNDS = 4
STEP = 0.1

Report = Callable[[str], None]

Logarithms = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """The constants before and after, and how far predictions were from the measurement with each."""

    gpu: str
    before: Fitted
    after: Fitted
    miss_before: float  # median of |ln(predicted / measured)| over forwards and moves
    miss_after: float


def learn(profiles: Sequence[Profile], *, model: str = "", report: Report | None = None) -> Learnt:
    """Return what measured profiles say of their machine.

    Args:
        profiles: measured runs of whole pipelines on one GPU.
        model: their model's name or folder, where a profile does not say it.
        report: called with a line for each thing that is being done.

    Raises:
        InputError: if one is not a measured, complete one under a placement that can be repeated, its model or GPU is
            not known, or they are of several GPUs.
    """
    names = [_checked(profile, model) for profile in profiles]
    gpus = sorted({profile.gpu.name for profile in profiles})
    if len(gpus) != 1:
        raise InputError(f"give profiles of one GPU, these are of {', '.join(gpus) or 'none'}")
    known = calibration.as_measured(gpu_spec(gpus[0]), fitted=False)
    before = Fitted(
        launch_seconds=known.cost.launch_seconds,
        kernels=1.0,
        h2d_bytes_per_second=known.h2d_bytes_per_second,
        d2h_bytes_per_second=known.d2h_bytes_per_second,
        fitted_on=(),
    )
    measured = [observed(profile) for profile in profiles]

    def misses(constants: Logarithms) -> Logarithms:
        spec = _spec(known, before, constants)
        found: list[float] = []
        for profile, name, seconds in zip(profiles, names, measured, strict=True):
            _tell(report, f"predicting {name} with {_words(before, constants)}")
            predicted = observed(_predicted(profile, name, spec))
            found += [math.log(predicted.get(what, took) / took) for what, took in seconds.items()]
        return np.array(found)

    logarithms, first, last = _fitted(misses)
    return Learnt(
        gpu=gpus[0],
        before=before,
        after=replace(
            _scaled(before, logarithms), fitted_on=tuple(map(_described, profiles, names))
        ),
        miss_before=float(np.median(np.abs(first))),
        miss_after=float(np.median(np.abs(last))),
    )


def keep(learnt: Learnt, output: Path | None = None) -> Path:
    """Write what was learnt into the GPU's table, beside what was measured there, and return its path.

    Args:
        learnt: what was learnt.
        output: the table; that of the GPU in the user's own folder if not given.

    Raises:
        InputError: if it cannot be written, or is no table, or that of another GPU.
    """
    spec = gpu_spec(learnt.gpu)
    fresh = Calibration(
        gpu=spec.name,
        compute_capability=spec.compute_capability,
        total_memory_bytes=spec.capacity_bytes,
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
    )
    path = output or calibration.own_path(fresh)
    check_writable(path)
    table = load(path) if path.exists() else fresh
    if table.gpu != fresh.gpu:
        raise InputError(
            f"{path} is the table of a {table.gpu}, not of a {fresh.gpu}: name another file"
        )
    save(replace(table, fitted=learnt.after), path)
    calibration.forget()
    return path


def observed(profile: Profile) -> dict[str, float]:
    """Return the seconds of each component's forwards, without the moves during them, and of the moves each way.

    What takes too little to tell anything is left out.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    entered: dict[str, float] = {}
    for event in profile.events:
        end = event.start_seconds + event.seconds
        if event.kind in ("onload", "offload") and event.call >= 0:
            seconds[event.kind] += event.seconds
            for component in entered:
                seconds[f"forwards of {component}"] -= event.seconds
        elif event.kind == "enter":
            entered[event.component] = event.start_seconds
        elif event.kind == "exit" and event.component in entered:
            seconds[f"forwards of {event.component}"] += end - entered.pop(event.component)
    least = LEAST_SHARE * profile.totals.seconds
    return {what: took for what, took in seconds.items() if took > least}


def _checked(profile: Profile, model: str) -> str:
    name = model or profile.model
    if profile.source != "measured":
        raise InputError(
            "a prediction says nothing of a machine: give a profile that was measured on its GPU"
        )
    if not profile.complete:
        raise InputError("the run of this profile did not end: give one of a whole call")
    if profile.mode not in MODES:
        raise InputError(
            f"the placement {profile.mode!r} is not recorded completely: measure a call that is "
            f"{', '.join(MODES[:-1])} or {MODES[-1]}"
        )
    if not name:
        raise InputError(
            "the profile does not say its model, since the pipe was loaded elsewhere: name it with --models"
        )
    return name


def _predicted(profile: Profile, model: str, spec: GpuSpec) -> Profile:
    dtype: Any = profile.dtypes or profile.dtype or None
    with VirtualGPU(spec):
        pipe = load_pipeline(
            model,
            dtype=dtype,
            quantization=profile.quantization,
            pipeline_class=profile.pipeline_class,
            config=profile.config if model == profile.model else "",
        )
        call = repeatable_call(pipe, profile.call)
        return profile_pipeline(pipe, mode=Mode(name=profile.mode), **call)


def _spec(known: GpuSpec, before: Fitted, logarithms: Logarithms) -> GpuSpec:
    return calibration.with_fitted(known, _scaled(before, logarithms))


def _scaled(before: Fitted, logarithms: Logarithms) -> Fitted:
    launch, kernels, h2d, d2h = (math.exp(one) for one in logarithms)
    return replace(
        before,
        launch_seconds=before.launch_seconds * launch,
        kernels=before.kernels * kernels,
        h2d_bytes_per_second=before.h2d_bytes_per_second * h2d,
        d2h_bytes_per_second=before.d2h_bytes_per_second * d2h,
    )


def _fitted(misses: Callable[[Logarithms], Logarithms]) -> tuple[Logarithms, ...]:
    """Return the logarithms of the constants' changes, and the misses before and after."""
    at = np.zeros(len(WIDTHS))
    widths = np.array(list(WIDTHS.values()))
    first = here = misses(at)
    for _ in range(ROUNDS):
        slopes = np.stack(
            [(misses(at + STEP * unit) - here) / STEP for unit in np.eye(len(WIDTHS))], axis=1
        )
        left = np.vstack([slopes / NOISE, np.diag(1 / widths)])
        right = np.concatenate([-here / NOISE, -at / widths])
        change = np.clip(np.linalg.lstsq(left, right, rcond=None)[0], -0.7, 0.7)
        at = at + change
        here = misses(at)
        if np.abs(change).max() < 0.02:
            break
    return at, first, here


def _described(profile: Profile, name: str) -> str:
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    return f"{name}, {profile.mode}, {profile.totals.seconds:.1f} s, learnt on {today}"


def _words(before: Fitted, logarithms: Logarithms) -> str:
    now = _scaled(before, logarithms)
    return f"{now.launch_seconds * 1e6:.0f} µs per launch and kernels at {now.kernels:.2f}"


def _tell(report: Report | None, line: str) -> None:
    if report is not None:
        report(line)
