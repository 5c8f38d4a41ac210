"""`vram profile --gpu all`: a row for each GPU, with what a model needs on it and how long a call takes."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from profiler.cli import printing
from profiler.errors import InputError
from profiler.units import GIB, format_seconds

if TYPE_CHECKING:
    from profiler.sizing.every_gpu import OnGpu
    from profiler.sizing.scenario import Scenario

_WORDS = {"fits": "yes", "tight": "tight", "does not fit": "no"}
_COLUMNS = ("gpu", "GiB", "needs", "left", "fits", "a run", "band")


def names_several(gpu: str | None) -> bool:
    """Tell whether `--gpu` names more than one GPU: all, or names with commas between."""
    return gpu is not None and (gpu.strip() == "all" or "," in gpu)


def check_one_gpu(gpu: str | None, *, to: str, instead: str) -> None:
    """Refuse several GPUs for a command, or an output, that is about one.

    Args:
        gpu: What `--gpu` says.
        to: The command or the option.
        instead: What to do instead.

    Raises:
        InputError: if it names several.
    """
    if names_several(gpu):
        raise InputError(f"{to} is about one GPU, not --gpu {gpu}: {instead}")


def answer_for_each(scenario: Scenario, *, as_json: bool) -> None:
    """Print a row for each GPU that the scenario names; exit with 3 if it fits none."""
    from profiler.sizing.every_gpu import profile_on_gpus

    with printing.progress() as report:
        rows = profile_on_gpus(replace(scenario, gpu=None), scenario.gpu or "all", report=report)
    if as_json:
        printing.answer_json(_summary(scenario, rows))
    else:
        printing.answer_table([_shown(row) for row in rows], columns=_COLUMNS)
        printing.answer(_conclusion(scenario, rows))
    if not any(row.fits for row in rows):
        raise typer.Exit(3)


def _summary(scenario: Scenario, rows: tuple[OnGpu, ...]) -> dict[str, object]:
    return {
        "schema_version": 1,
        "model": scenario.model,
        "mode": scenario.mode.name,
        "runs": len({row.run_on for row in rows}),
        "gpus": [{**asdict(row), "fits": row.fits} for row in rows],
    }


def _shown(row: OnGpu) -> dict[str, str]:
    timed = row.seconds is not None
    return {
        "gpu": row.gpu,
        "GiB": _gib(row.capacity_bytes),
        "needs": _gib(row.needed_bytes),
        "left": _gib(row.spare_bytes),
        "fits": _WORDS.get(row.answer, row.answer),
        "a run": format_seconds(row.seconds) if row.seconds is not None else "-",
        "band": f"+{row.seconds_band:.0%} -{row.seconds_band_below:.0%}" if timed else "",
    }


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f}"


def _conclusion(scenario: Scenario, rows: tuple[OnGpu, ...]) -> str:
    """Return the lines under the table: how many run it, and the smallest that does."""
    count = len({row.run_on for row in rows})
    runs = "1 run" if count == 1 else f"{count} runs"
    fitting = [row for row in rows if row.fits]
    smallest = f"{fitting[0].gpu} the smallest; " if fitting else ""
    what = f"{scenario.model} in mode {scenario.mode.name}"
    return f"{what}\nfits {len(fitting)} of {len(rows)} GPUs; {smallest}taken from {runs}"
