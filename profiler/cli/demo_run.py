"""The demo: profile, plan, apply, verify and report one model.

SDXL at 1024 x 1024 in half precision on a virtual 8 GB GPU, without a real GPU and without weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.atomic import check_writable
from profiler.errors import InputError
from profiler.libraries.modes import Mode
from profiler.sizing.checked_fixes import with_checked_fixes
from profiler.sizing.runs import Report
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import plan_model, profile_model, verify_plan
from profiler.units import format_bytes, format_seconds
from reports.placement_words import inside_words
from reports.plan_text import gap_words

if TYPE_CHECKING:
    from pathlib import Path

    from profiler.applying import Verification
    from profiler.planning import Plan
    from profiler.record.profile import Profile

DEMO = Scenario(
    model="sdxl-base",
    gpu="rtx-4060",
    dtype="float16",
    mode=Mode(name="model"),
    height=1024,
    width=1024,
)
FILES = ("report.html", "report.png", "profile.parquet", "plan.json")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Results of the demo, and the files it wrote."""

    profile: Profile
    plan: Plan
    verification: Verification
    files: tuple[Path, ...]

    def story(self) -> str:
        """Return the results in a few lines."""
        return "\n".join(
            [
                *self._profiled(),
                *self._planned(),
                "3. Applied, enable_model_cpu_offload first of all, run again, compared:",
                f"   {self.verification}",
                "4. Wrote",
                *(f"   {path}" for path in self.files),
            ]
        )

    def _profiled(self) -> list[str]:
        gpu, totals = self.profile.gpu, self.profile.totals
        return [
            f"1. {self.profile.model}, 1024 x 1024, float16, stock model offload, on a virtual {gpu.name}",
            f"   peak {format_bytes(totals.peak_allocated_bytes)} allocated; "
            + f"{format_bytes(totals.device_bytes)} of {format_bytes(gpu.capacity_bytes)} "
            + "as nvidia-smi would show it",
            f"   weights copied: {format_bytes(totals.h2d_weight_bytes)} up, "
            + f"{format_bytes(totals.d2h_weight_bytes)} down",
        ]

    def _planned(self) -> list[str]:
        plan, predicted = self.plan, self.plan.predicted
        return [
            f"2. The best of {plan.proof.candidates:,} plans within {format_bytes(plan.budget_bytes)} "
            + f"({plan.proof.nodes:,} opened, {gap_words(plan)})",
            f"   stays on the GPU: {', '.join(plan.excluded) or 'nothing'}; "
            + f"in turn: {' -> '.join(plan.sequence) or 'nothing'}",
            *(f"   {phrase}" for phrase in inside_words(plan)),
            f"   {format_seconds(predicted.seconds or 0.0)} a call instead of "
            + f"{format_seconds(plan.stock.predicted.seconds or 0.0)}; "
            + f"needs {format_bytes(predicted.device_bytes)}",
        ]

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain JSON data: the profile's, with the plan and its verification."""
        return {
            **self.profile.summary(),
            "plan": self.plan.summary()["plan"],
            "verification": self.verification.summary(),
            "files": [str(path) for path in self.files],
        }


def run_demo(folder: Path, *, report: Report | None = None) -> Demo:
    """Run the demo, and write its files into `folder`, which is created if it does not exist.

    Raises:
        InputError: if a file cannot be written.
    """
    files = _places(folder)
    profile = with_checked_fixes(profile_model(DEMO, report=report), DEMO, report=report)
    plan = plan_model(profile, profile.gpu.capacity_bytes, report=report)
    demo = Demo(
        profile=profile,
        plan=plan,
        verification=verify_plan(plan, report=report),
        files=tuple(files),
    )
    _write(demo, *files)
    return demo


def _places(folder: Path) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {folder}: {error.strerror}; name another"
        ) from error
    files = [folder / name for name in FILES]
    for path in files:
        check_writable(path)
    return files


def _write(demo: Demo, html: Path, png: Path, parquet: Path, plan: Path) -> None:
    import reports

    reports.write_html(html, [demo.profile], plan=demo.plan, verification=demo.verification)
    reports.write_png(png, demo.profile, plan=demo.plan)
    demo.profile.save(parquet)
    demo.plan.save(plan)
