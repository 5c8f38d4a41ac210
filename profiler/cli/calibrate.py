"""`vram calibrate`: measures the installed GPU, so that predictions for it need no rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from profiler.cli import printing
from profiler.cli.options import takes_options
from profiler.errors import InputError

if TYPE_CHECKING:
    from profiler.calibrating import Calibrated, Learnt


@dataclass(kw_only=True)
class CalibrateOptions:
    """Options of the measurement and its output."""

    models: Annotated[
        str | None,
        typer.Option(
            help="Whose operators to measure, comma between; the whole catalogue if not given."
        ),
    ] = None
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32.")] = None
    batch: Annotated[int | None, typer.Option(help="Images or videos per prompt.")] = None
    vae_tiling: Annotated[bool, typer.Option("--vae-tiling", help="Decode tile by tile.")] = False
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The table (TOML); what it holds is not measured again."
        ),
    ] = None
    budget_seconds: Annotated[
        float | None, typer.Option(help="Stop after this long; the same command goes on later.")
    ] = None
    learn_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="PROFILE",
            help="Learn this machine from a measured profile instead: launches, copies, what kernels reach. Repeat it.",
        ),
    ] = None
    dry: Annotated[
        bool, typer.Option("--dry", help="Try it on a virtual GPU; such a table is never used.")
    ] = False
    gpu: Annotated[str | None, typer.Option(help="With --dry: the virtual GPU.")] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False


@takes_options
def calibrate(options: CalibrateOptions) -> None:
    """Measure the GPU at hand: its link, its context, and each operator of the catalogue's models.

    Predictions for this GPU then use what was measured.

    Example: vram calibrate --models flux1-dev,sdxl-base

    Example: vram calibrate --from measured.parquet
    """
    if options.learn_from:
        _learn(options, options.learn_from)
        return
    from profiler.calibrating import calibrate as measure_gpu
    from profiler.libraries.modes import Mode
    from profiler.pipelines.catalogue import catalogue
    from profiler.sizing.scenario import Scenario

    names = (
        list(catalogue())
        if options.models is None
        else [name.strip() for name in options.models.split(",")]
    )
    mode = Mode(name="resident", vae_tiling=options.vae_tiling)
    scenarios = [
        Scenario(model=name, dtype=options.dtype, batch=options.batch, mode=mode) for name in names
    ]
    with printing.progress() as report:
        found = measure_gpu(
            scenarios,
            output=options.output,
            dry=options.dry,
            gpu=options.gpu,
            budget_seconds=options.budget_seconds,
            report=report,
        )
    if options.as_json:
        printing.answer_json(found.summary())
    else:
        printing.answer(_summary(found))


def _learn(options: CalibrateOptions, paths: list[Path]) -> None:
    from dataclasses import asdict

    from profiler.calibrating import keep, learn
    from profiler.record.profile import Profile

    if options.dry or options.gpu:
        raise InputError("--from reads a profile that was measured: drop --dry and --gpu")
    profiles = [Profile.load(path) for path in paths]
    with printing.progress() as report:
        learnt = learn(profiles, model=options.models or "", report=report)
    path = keep(learnt, options.output)
    if options.as_json:
        printing.answer_json({"schema_version": 1, "path": str(path), **asdict(learnt)})
    else:
        printing.answer(_learnt(learnt, path))


def _learnt(learnt: Learnt, path: Path) -> str:
    before, after = learnt.before, learnt.after
    rows = (
        ("launch", before.launch_seconds * 1e6, after.launch_seconds * 1e6, "µs per kernel"),
        ("kernels", before.kernels, after.kernels, "of what is usual for the GPU"),
        (
            "pageable up",
            before.h2d_bytes_per_second / 1e9,
            after.h2d_bytes_per_second / 1e9,
            "GB/s",
        ),
        (
            "pageable down",
            before.d2h_bytes_per_second / 1e9,
            after.d2h_bytes_per_second / 1e9,
            "GB/s",
        ),
    )
    calls = "call" if len(after.fitted_on) == 1 else "calls"
    lines = [
        f"{learnt.gpu}: learnt from {len(after.fitted_on)} {calls}",
        *(f"  {name:14} {was:8.3g} -> {now:8.3g} {unit}" for name, was, now, unit in rows),
        f"predictions were {_off(learnt.miss_before)} off, now {_off(learnt.miss_after)} (median of parts)",
        f"wrote {path}",
    ]
    return "\n".join(lines)


def _off(miss: float) -> str:
    return f"{math.expm1(miss):.0%}"


def _summary(found: Calibrated) -> str:
    from profiler.units import format_bytes

    table = found.table
    context = ", ".join(
        f"{name.replace('_', ' ')} {format_bytes(nbytes)}"
        for name, nbytes in table.context_bytes.items()
    )
    lines = [
        f"{table}" + (": a dry run on a virtual GPU" if table.dry else ""),
        f"{len(table.kernels)} operators, {found.measured} of them measured now, {len(table.failed)} failed",
        f"context: {context}",
        "link: " + ", ".join(_rates(found)),
        *(f"not known: {model}: {why}" for model, why in found.skipped.items()),
    ]
    if found.left:
        lines.append(f"no time for {', '.join(found.left)}: the same command goes on")
    if found.path is not None:
        lines.append(f"wrote {found.path}")
    return "\n".join(lines)


def _rates(found: Calibrated) -> list[str]:
    rates = []
    for pinned in (True, False):
        for way, word in (("h2d", "up"), ("d2h", "down")):
            rate = found.table.bytes_per_second(way, pinned=pinned)
            if rate is not None:
                rates.append(f"{'pinned' if pinned else 'pageable'} {word} {rate / 1e9:.1f} GB/s")
    return rates
