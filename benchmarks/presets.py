"""Compares diffusers' presets with our plan on GPUs of 8 to 24 GB, and writes docs/presets.md.

Usage: python benchmarks/presets.py [--only PART_OF_A_NAME] [--resume]

Each model makes its default call on a virtual GPU. A pipeline's presets are replayed from one run of it, diffusers'
ComponentsManager runs with the GPU's memory as its limit, and our plan is confirmed by a run under it. The rows go to
benchmarks/results/presets.json after each GPU; `--resume` keeps those that are there.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ComponentsManager

from profiler.atomic import write_text
from profiler.errors import FindingError
from profiler.gpus.hardware import gpu_spec
from profiler.libraries.modes import Mode
from profiler.pipelines import load_pipeline
from profiler.pipelines.quiet import quiet
from profiler.placements.evictions import PINNED
from profiler.placements.grouped import Grouped
from profiler.placements.scheme import Scheme
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed
from profiler.planning import weigh
from profiler.planning.plan import TIE
from profiler.planning.search.solver import search
from profiler.planning.session import Session
from profiler.planning.wish import wish_of
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import plan_model, profile_without_limit
from profiler.tracing import profile_pipeline
from profiler.units import GIB
from profiler.virtual import VirtualGPU
from reports.placement_words import worded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from profiler.planning.costs.table import Choice
    from profiler.planning.plan import Predicted
    from profiler.record.profile import Profile

MODELS = ("sdxl-base", "flux1-dev", "qwen-image", "cogvideox-5b", "wan2.1-t2v-14b")
CARDS = ("rtx-4060", "rtx-4070", "rtx-4080", "rtx-4090")
RAM_GIB = (32, 64)
GROUPS = {
    "group, block by block": Grouped(1),
    "group, by leaf": Grouped(),
    "group, by leaf, stream": Grouped(stream=True),
    "group, by leaf, recorded stream": Grouped(stream=True, record_stream=True),
    "group, by leaf, stream, low_cpu_mem": Grouped(stream=True, low_cpu_mem=True),
}
MANAGER = "ComponentsManager"
OURS = "our plan"
TILED = "our plan, the VAE in tiles"
ALLOWED = ("vae-tiling", "vae-slicing")
"""What may change the picture where nothing fits otherwise."""
RULES: dict[str, Callable[[Choice], bool]] = {
    "ours, all blocks or none of a component travel": lambda choice: (
        isinstance(choice.inside, Streamed) and choice.inside.resident_blocks > 0
    ),
    "ours, no blocks travel": lambda choice: isinstance(choice.inside, Streamed),
    "ours, what leaves as a whole is not pinned": lambda choice: choice.swap == PINNED,
}
"""What is taken away from our plans, to see what it is worth: the choices that they may not use."""
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "presets.json"
PAGE = ROOT / "docs" / "presets.md"
INTRODUCTION = """\
# Presets beside our plan

Printed by `make compare-presets`: the default call of each model on virtual GPUs, with 32 and 64 GiB of host memory.
All of it is predicted, for a call once calls repeat. A cell says what the driver would show in GiB (context, peak and
allocator's slack, and the error band), the host memory that weights take, and the seconds of the call. `no` stands
where that exceeds the GPU or the host memory, or a run on the GPU fails for pieces of memory, and `fails` where stock
diffusers 0.42.1 does not get through: SDXL's VAE is cast in every call, which a stream's host copies do not follow
([every mode](zoo.md)).

ComponentsManager ran with the GPU's memory as its limit; its figure is reserved memory with the context. Our plan ran
so, too, before it was promised. Where there is none that leaves the picture as it is, another one may decode in tiles
(`vram plan --allow vae-tiling,vae-slicing`); no preset beside it does, so it stands apart.

The rows `ours, …` say what three of our placements are worth: the fastest plan without them, by its sum alone. Where
blocks travel, the others stay, spread evenly, so that one block's copy has another block's computing to hide behind.
"""


MODES = {
    "model offload": Mode(name="model"),
    "sequential offload": Mode(name="sequential"),
    "group, block by block": Mode(name="group-block", blocks=1),
    "group, by leaf": Mode(name="group-leaf"),
    "group, by leaf, stream": Mode(name="group-leaf", stream=True),
    "group, by leaf, recorded stream": Mode(name="group-leaf", stream=True, record_stream=True),
    # What is pinned when changes nothing on the GPU.
    "group, by leaf, stream, low_cpu_mem": Mode(name="group-leaf", stream=True),
}
"""The presets that a run can confirm."""


def presets(profile: Profile) -> dict[str, Scheme]:
    """Return diffusers' ways to place the pipeline of `profile`, as schemes."""
    names = [part.name for part in profile.components]
    return {
        "model offload": Scheme(profile.sequence),
        "sequential offload": Scheme(inside=dict.fromkeys(names, Sequential())),
        **{label: Scheme(inside=dict.fromkeys(names, way)) for label, way in GROUPS.items()},
    }


def hand_to_manager(pipe: Any, **options: Any) -> None:
    """Let diffusers' ComponentsManager place the components of a pipeline, with options of its own."""
    manager = ComponentsManager()
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            manager.add(name, part)
    manager.enable_auto_cpu_offload("cuda", **options)


def managed(model: str, gpu: str) -> dict[str, Any] | None:
    """Return what a run under diffusers' ComponentsManager takes; None where it runs out of memory."""
    with VirtualGPU(gpu), quiet():
        pipe = load_pipeline(model)
        hand_to_manager(pipe)
        pipe.set_progress_bar_config(disable=True)
        profile = profile_pipeline(pipe)
    if not profile.complete:
        return None
    totals = profile.totals
    weights = sum(part.bytes for part in profile.components)
    return {
        "device_bytes": totals.device_bytes,
        "host_bytes": weights,
        "seconds": totals.seconds,
    }


def runs(model: str, gpu: str, mode: Mode) -> bool:
    """Whether a preset gets through two steps with the GPU's memory as its limit."""
    with VirtualGPU(gpu), quiet():
        pipe = load_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        return profile_pipeline(pipe, mode=mode, num_inference_steps=2).complete


def strike(row: dict[str, Any]) -> None:
    """Mark presets that fit by their bytes alone: those that would beat our plan are run."""
    ours = row["ours"].get("seconds", float("inf"))
    for label, one in row["presets"].items():
        if label in MODES and fits(row, one) and one["seconds"] < ours:
            one["runs"] = runs(row["model"], row["gpu"], MODES[label])


def figures(predicted: Predicted) -> dict[str, Any]:
    """Return the figures of one cell."""
    return {
        "device_bytes": predicted.device_bytes,
        "host_bytes": predicted.host_pageable_bytes + predicted.host_pinned_bytes,
        "seconds": predicted.seconds,
    }


def planned(
    source: Scenario | Profile, budget_bytes: int, ram_bytes: int, allow: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the figures of our plan, or why there is none."""
    start = time.perf_counter()
    try:
        plan = plan_model(source, budget_bytes, ram_bytes=ram_bytes, allow=allow)
    except FindingError as error:
        return {"error": str(error)}
    return {
        **figures(plan.predicted),
        "nodes": plan.proof.nodes,
        "gap": plan.proof.gap,
        "planning_seconds": time.perf_counter() - start,
        "placements": {name: worded(plan, name) for name in plan.placements},
        "modifiers": plan.modifiers,
    }


def rows(model: str, gpu: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each size of host memory."""
    scenario = Scenario(model=model, gpu=gpu)
    profile = profile_without_limit(scenario)
    wanted = presets(profile)
    weighed = dict(zip(wanted, weigh(profile, wanted.values()), strict=True))
    found = {label: None if one is None else figures(one) for label, one in weighed.items()}
    auto = managed(model, gpu)
    budget_bytes = gpu_spec(gpu).capacity_bytes
    for ram in RAM_GIB:
        ours = planned(profile, budget_bytes, ram * GIB)
        row = {
            "model": model,
            "gpu": gpu,
            "capacity_bytes": budget_bytes,
            "ram_bytes": ram * GIB,
            "presets": {**copy.deepcopy(found), MANAGER: auto},
            "ours": ours,
            "without": without(profile, budget_bytes, ram * GIB),
        }
        loads = (profile.totals.loading_host_peak_bytes or 0) <= ram * GIB
        if "error" in ours and loads:
            row["tiled"] = planned(scenario, budget_bytes, ram * GIB, ALLOWED)
        strike(row)
        yield row


def without(profile: Profile, budget_bytes: int, ram_bytes: int) -> dict[str, dict[str, Any]]:
    """Return the figures of the fastest plan without each of the `RULES`; nothing where none fits."""
    session = Session(profile, wish_of(budget_bytes, ram_bytes=ram_bytes))
    made = {}
    for label, is_barred in RULES.items():
        problems = [
            replace(
                problem,
                decisions=tuple(
                    tuple(option for option in options if not is_barred(option.label))
                    for options in problem.decisions
                ),
            )
            for problem in session.choices.problems
        ]
        limits = {"limit": session.peak_limit(budget_bytes), "use_limits": session.use_limits}
        outcome = search(problems, wanted=1, **limits)
        for found in outcome.found:
            made[label] = figures(session.predicted(session.choices.scheme(found)))
    return made


def fits(row: dict[str, Any], one: dict[str, Any] | None) -> bool:
    """Whether a preset keeps within the GPU and the host memory of its row."""
    return (
        one is not None
        and one.get("runs", True)
        and one["device_bytes"] <= row["capacity_bytes"]
        and one["host_bytes"] <= row["ram_bytes"]
    )


def best(row: dict[str, Any]) -> float | None:
    """Return the seconds of the fastest preset that fits; None where none does."""
    return min((one["seconds"] for one in row["presets"].values() if fits(row, one)), default=None)


def cell(row: dict[str, Any], one: dict[str, Any] | None) -> str:
    """Return what a table shows of a preset."""
    if one is None:
        return "fails"
    if not fits(row, one):
        return f"no ({one['device_bytes'] / GIB:.1f}; {one['host_bytes'] / GIB:.0f})"
    return f"{one['device_bytes'] / GIB:.1f}; {one['host_bytes'] / GIB:.0f}; **{one['seconds']:.1f} s**"


def of_plan(row: dict[str, Any], one: dict[str, Any]) -> str:
    """Return what a table shows of a plan."""
    return "none" if "error" in one else cell(row, one)


def page(found: list[dict[str, Any]]) -> str:
    """Return docs/presets.md."""
    text = [INTRODUCTION]
    for model in dict.fromkeys(row["model"] for row in found):
        own = [row for row in found if row["model"] == model]
        labels = [*own[0]["presets"], OURS, "ours to the best preset"]
        heads = [f"{gpu_spec(row['gpu']).name}, {row['ram_bytes'] // GIB} GiB RAM" for row in own]
        text.append(f"\n## {model}\n")
        text.append(f"| | {' | '.join(heads)} |")
        text.append(f"|---|{'---|' * len(own)}")
        for label in labels[:-2]:
            cells = [cell(row, row["presets"][label]) for row in own]
            text.append(f"| {label} | {' | '.join(cells)} |")
        text.append(f"| {OURS} | {' | '.join(of_plan(row, row['ours']) for row in own)} |")
        for label in RULES:
            parts = [row["without"].get(label) for row in own]
            cells = [
                "none" if one is None else cell(row, one)
                for row, one in zip(own, parts, strict=True)
            ]
            text.append(f"| {label} | {' | '.join(cells)} |")
        if any("seconds" in row.get("tiled", {}) for row in own):
            tiled = [of_plan(row, row["tiled"]) if "tiled" in row else "" for row in own]
            text.append(f"| {TILED} | {' | '.join(tiled)} |")
        text.append(f"| {labels[-1]} | {' | '.join(map(ratio, own))} |")
    return "\n".join(text) + "\n"


def ratio(row: dict[str, Any]) -> str:
    """Return our seconds over those of the fastest preset that fits."""
    least = best(row)
    if "error" in row["ours"]:
        return "none" if least is not None else "nothing fits"
    return "only ours fits" if least is None else f"{row['ours']['seconds'] / least:.2f}"


def main() -> None:
    """Fill the table; fail where a preset that fits beats our plan."""
    warnings.simplefilter("ignore")
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", default="", help="models whose name holds this")
    arguments.add_argument("--resume", action="store_true", help="keep the rows that are there")
    asked = arguments.parse_args()
    found = json.loads(RESULTS.read_text())["rows"] if asked.resume and RESULTS.exists() else []
    done = {(row["model"], row["gpu"]) for row in found}
    for model in (name for name in MODELS if asked.only in name):
        for gpu in CARDS:
            if (model, gpu) in done:
                continue
            for row in rows(model, gpu):
                found.append(row)
                print(model, gpu, row["ram_bytes"] // GIB, "GiB:", ratio(row), flush=True)
            gc.collect()
            found.sort(key=lambda row: (MODELS.index(row["model"]), CARDS.index(row["gpu"])))
            record = {"date": time.strftime("%Y-%m-%d"), "rows": found}
            write_text(RESULTS, json.dumps(record, indent=1) + "\n")
            write_text(PAGE, page(found))
    slower = [
        row
        for row in found
        if (least := best(row)) is not None
        and row["ours"].get("seconds", float("inf")) > least * (1 + TIE)
    ]
    if slower:
        sys.exit(f"{len(slower)} of {len(found)} rows have a preset that is faster, or no plan")


if __name__ == "__main__":
    main()
