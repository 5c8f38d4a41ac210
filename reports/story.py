"""The words of a report: the answer, the peak and its cause, the advice, and the peak breakdown as rows.

Every form of report (page, picture, terminal) takes its sentences from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.checking.plain_text import one_line
from profiler.findings import findings, findings_beside_plan
from profiler.findings.failures import whole_words
from profiler.record import moments
from profiler.record import readings as reading
from profiler.record import verdict as verdicts
from profiler.units import MIB, format_band, format_bytes, format_range, format_seconds

if TYPE_CHECKING:
    from profiler.findings import Finding
    from profiler.planning.plan import Plan
    from profiler.record.events import Moment
    from profiler.record.profile import PeakItem, Profile

MODE_NAMES = {
    "resident": "everything on the GPU",
    "model": "model offload",
    "sequential": "sequential offload",
    "group-block": "group offload by blocks",
    "group-leaf": "group offload by leaves",
    "mixed": "mixed placements",
}


ON_GPU = "On the GPU"
ON_GPU_NOTE = "context + reserved, as nvidia-smi"
NEEDED = "needs"
NEEDED_NOTE = (
    "What a plan needs is promised: context + peak allocated + slack + error band, which the budget must cover. "
    "On the GPU is what one run had: context + all that PyTorch had reserved."
)
"""The labels of two figures that are easily confused, and the explanation of their difference."""


class Answer(NamedTuple):
    """The answer to a reader's first questions."""

    verdict: str  # one of the answers of `profiler.record.verdict`
    headline: str
    basis: str  # predicted or measured, the GPU, and the error band
    peak: str  # the place of the peak, and the component that was active
    advice: str  # the first finding; "" if there is none
    fix: str  # the advice as a line of code


class BreakdownMoment(NamedTuple):
    """The moment of the peak breakdown."""

    title: str
    total: str  # the name of the sum
    bytes: int  # allocated at that moment
    items: tuple[PeakItem, ...]


class BreakdownRow(NamedTuple):
    """One row of the peak breakdown; the rows add up exactly to the allocated bytes."""

    holder: str
    what: str
    bytes: int
    share: float  # of the sum


class Figure(NamedTuple):
    """One figure with an explanation."""

    label: str
    value: str
    note: str


def reported_findings(profile: Profile, plan: Plan | None = None) -> tuple[Finding, ...]:
    """Return the findings to show, beside the plan if there is one, which limits the fixes that they may recommend."""
    return findings(profile) if plan is None else findings_beside_plan(profile)


def how_big(profile: Profile) -> str:
    """Return the memory that a run that ran out of it would have taken, and the GPU for it; "" if that is unknown."""
    whole = profile.failure.whole if profile.failure is not None else None
    return "" if whole is None else whole_words(whole)


def answer(profile: Profile, plan: Plan | None = None) -> Answer:
    """Return the answer for `profile`, beside a plan if there is one."""
    found = reported_findings(profile, plan)
    first = found[0] if found else None
    return Answer(
        verdict=verdicts.verdict(profile).answer,
        headline=_headline(profile),
        basis=_basis(profile),
        peak=_peak(profile),
        advice=first.title if first else "",
        fix=first.fix if first else "",
    )


def title(profile: Profile) -> str:
    """Return the title of the run: `sd15 (StableDiffusionPipeline), model offload, float16, vae works in tiles`."""
    own = profile.pipeline_class
    what = f"{profile.model} ({own})" if profile.model else own
    mode = MODE_NAMES.get(profile.mode, profile.mode)
    return one_line(", ".join([what, mode, *reading.run_phrases(profile)]))


def figures(profile: Profile) -> list[Figure]:
    """Return the figures shown below the answer."""
    totals, band = profile.totals, verdicts.verdict(profile).band_bytes
    calls = {event.call for event in profile.events if event.call >= 0}
    span = f"in {len(calls)} calls" if len(calls) > 1 else "per call" if calls else "in all"
    uncertainty = f"at most {format_bytes(band)} more" if band else "as measured"
    shown = [
        Figure("Peak allocated", format_bytes(totals.peak_allocated_bytes), uncertainty),
        Figure(ON_GPU, format_bytes(totals.device_bytes), ON_GPU_NOTE),
        *_shared(profile),
        Figure(
            "Moved to the GPU",
            format_bytes(totals.h2d_bytes),
            f"{format_bytes(totals.d2h_bytes)} back, {span}",
        ),
    ]
    if (
        calls or totals.seconds
    ):  # a run that ended while the pipeline was placed has no seconds of a call
        shown.append(Figure("Time", format_seconds(totals.seconds), _time_note(profile)))
    if totals.host_peak_bytes:
        plain = "of the process" if profile.source == "measured" else "for tensors"
        note = pinned_words(profile) or plain
        shown.append(Figure("Host RAM", format_bytes(totals.host_peak_bytes), note))
    loading_bytes = totals.loading_host_peak_bytes
    if loading_bytes is not None:
        shown.append(Figure("Loading", format_bytes(loading_bytes), "of host RAM"))
    return shown


def _shared(profile: Profile) -> list[Figure]:
    """Return what host and GPU held at once, if they share one memory."""
    shared_bytes = profile.totals.shared_peak_bytes
    if shared_bytes is None:
        return []
    note = (
        f"host and GPU at once, of the {format_bytes(profile.gpu.capacity_bytes)} that they share"
    )
    return [Figure("Together", format_bytes(shared_bytes), note)]


def _time_note(profile: Profile) -> str:
    """Return the note on the time: its band, and the part spent waiting for copies if that is known."""
    totals = profile.totals
    likely = format_range(totals.seconds, profile.seconds_band, profile.seconds_band_below)
    basis = f"{likely} in nine calls of ten" if likely else profile.source
    if totals.exposed_transfer_seconds is None:
        return basis
    exposed_seconds = totals.exposed_transfer_seconds
    waiting = format_seconds(exposed_seconds) if exposed_seconds > 0 else "none"
    return f"{basis}, {waiting} of it waiting for copies"


def breakdown_title(profile: Profile) -> BreakdownMoment:
    """Return the moment of the peak breakdown: the peak, or, if the run ran out of memory, the moment of that."""
    failure = profile.failure
    if failure is not None and failure.holders and failure.allocated_bytes is not None:
        title, total = "Peak breakdown, when memory ran out", "allocated then"
        return BreakdownMoment(title, total, failure.allocated_bytes, failure.holders)
    peak_bytes = profile.totals.peak_allocated_bytes
    return BreakdownMoment("Peak breakdown", "peak allocated", peak_bytes, profile.bill)


def peak_breakdown(profile: Profile) -> list[BreakdownRow]:
    """Return the peak breakdown, largest first; a remainder is shown as unattributed, never dropped."""
    whole = breakdown_title(profile).bytes
    items = [(item.holder, item.what, item.bytes) for item in breakdown_title(profile).items]
    missing = whole - sum(size for _, _, size in items)
    if missing:
        items = [item for item in items if item[1] != "unattributed"]
        items.append(("", "unattributed", whole - sum(size for _, _, size in items)))
    rows = [
        BreakdownRow(holder, what, size, size / whole if whole else 0.0)
        for holder, what, size in items
    ]
    return sorted(rows, key=lambda row: (row.what == "unattributed", -row.bytes))


def call_texts(profile: Profile) -> list[str]:
    """Return each call as code, including the arguments that the profiler chose."""
    if not profile.signatures:
        return [_call("pipe", profile.call)]
    own = profile.signatures[0].pipeline_class
    return [
        f"{one.weight} x {_call('pipe' if one.pipeline_class == own else one.pipeline_class, one.call)}"
        for one in profile.signatures
    ]


def _call(called: str, given: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={_short(value)}" for name, value in given.items())
    return f"{called}({arguments})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _headline(profile: Profile) -> str:
    verdict = verdicts.verdict(profile)
    gpu = f"{format_bytes(profile.gpu.capacity_bytes)} {short_gpu(profile)}"
    if verdict.answer == verdicts.FITS:
        return f"Fits the {gpu} with {format_bytes(verdict.spare_bytes)} to spare"
    if verdict.answer == verdicts.TIGHT:
        return f"Just fits the {gpu}, but not with the error band on top"
    if verdict.answer == verdicts.UNKNOWN:
        return "The run ended before it was complete"
    if verdicts.ran_out_of_memory(profile):
        return f"Does not fit the {gpu}: it ran out of memory"
    return f"Does not fit the {gpu}: {format_bytes(-verdict.spare_bytes)} too much"


def pinned_words(profile: Profile) -> str:
    """Return how much host memory is pinned at most; "" for the few bytes that values are read through."""
    pinned_bytes = profile.totals.host_pinned_bytes
    return f"{format_bytes(pinned_bytes)} pinned" if pinned_bytes >= MIB else ""


def short_gpu(profile: Profile) -> str:
    """Return the GPU's name without the manufacturer."""
    return one_line(profile.gpu.name).removeprefix("NVIDIA ").removeprefix("GeForce ")


def _basis(profile: Profile) -> str:
    if profile.source == "measured":
        return f"Measured on {one_line(profile.gpu.name)}."
    band = format_band(profile.error_band, profile.error_band_below)
    sure = f", error band {band}" if profile.error_band else ""
    default = ", the default GPU since none was named" if profile.gpu.is_default else ""
    return f"Predicted for {one_line(profile.gpu.name)}{default}, no GPU was used{sure}."


def _peak(profile: Profile) -> str:
    moment = moments.peak_moment(profile)
    if moment is None:
        return "Nothing was recorded."
    text = f"The peak of {format_bytes(moment.peak_bytes)} allocated comes {_when(moment)}"
    if not profile.complete:
        text = f"Up to where it ended the peak was {format_bytes(moment.peak_bytes)} allocated, {_when(moment)}"
    doing = _doing(moment)
    return f"{text}, {doing}." if doing else f"{text}."


def _when(moment: Moment) -> str:
    if moment.step >= 0:
        return f"in denoise step {moment.step + 1}"
    return {"place": "while the pipeline is placed"}.get(
        moment.phase, f"in the {moment.phase} phase"
    )


def _doing(moment: Moment) -> str:
    verbs = {
        "onload": "is moved to the GPU",
        "offload": "is moved off the GPU",
        "cast": "is cast",
        "copy": "is copied",
        "forward": "runs",
        "decode": "decodes",
        "encode": "encodes",
    }
    if not moment.component or not moment.doing:
        return ""
    return f"while {moment.component} {verbs.get(moment.doing, f'runs {moment.doing}')}"
