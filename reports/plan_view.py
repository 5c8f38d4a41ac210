"""A plan and the result of its verification, as the words and rows that every form of report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from profiler.errors import InputError
from profiler.units import format_bytes, format_range, format_seconds
from reports.placement_words import inside_words, worded

if TYPE_CHECKING:
    from profiler.planning.plan import Alternative, Plan, Predicted
    from profiler.record.profile import Profile


SECONDS, COPIED = "seconds per call", "weights copied per call"


class VerifiedPlan(Protocol):
    """The result of `profiler.verify`, as far as a report reads it."""

    @property
    def held(self) -> bool:
        """True if the run kept the promise."""

    @property
    def promised(self) -> Predicted:
        """The figures that the plan promised for a call."""

    @property
    def found(self) -> Predicted:
        """The figures of the run."""

    @property
    def differences(self) -> tuple[str, ...]:
        """The differences of the run from the promise."""

    @property
    def drift(self) -> tuple[str, ...]:
        """The differences of the pipeline from the state in which the plan left it."""

    @property
    def source(self) -> str:
        """The source of the run: "measured" or "predicted"."""

    @property
    def profile(self) -> Profile:
        """The profile of the run."""


class PlanRow(NamedTuple):
    """One plan beside others. Transfers and seconds are those of one call, once calls repeat."""

    label: str
    chosen: bool
    peak_bytes: int
    device_bytes: int
    h2d_bytes: int
    d2h_bytes: int
    seconds: str
    resident: str
    sequence: str
    cost: float  # in the unit of `PlanView.cost_name`


class Term(NamedTuple):
    """One term of the sum that a budget has to cover."""

    label: str
    bytes: int


class PlanView(NamedTuple):
    """The parts of a plan that a report shows."""

    headline: str
    gain: str
    rows: tuple[PlanRow, ...]
    terms: tuple[Term, ...]  # they add up to `needed_bytes`
    needed_bytes: int
    budget_bytes: int
    left_bytes: int
    proof: str
    smallest: str
    placements: tuple[tuple[str, str], ...]  # component, phrase for its placement
    cost_name: str  # "seconds per call", or "weights copied per call" if seconds are unknown
    front: tuple[tuple[int, float], ...]  # (device bytes, cost), in the order of the bytes
    code: str
    verification: VerificationView | None


class VerificationView(NamedTuple):
    """The comparison of a plan's promise with its run."""

    held: bool
    headline: str
    rows: tuple[tuple[str, int, int], ...]  # figure, promised bytes, found bytes
    complaints: tuple[
        str, ...
    ]  # differences of the run from the promise, or of the pipeline from the plan
    profile: Profile  # the run


def check_same(plan: Plan, profile: Profile) -> None:
    """Raise InputError if the plan and the profile are of different pipelines.

    A profile of the same class with the same components counts as the same pipeline: a model may be named by another
    path.
    """
    of_plan = (plan.pipeline_class, frozenset(plan.placements))
    of_profile = (profile.pipeline_class, frozenset(part.name for part in profile.components))
    if of_plan != of_profile:
        ours, theirs = (
            " of ".join(filter(None, (one.pipeline_class, one.model))) for one in (plan, profile)
        )
        raise InputError(
            f"the plan is for {ours} and the profile of {theirs}: show one beside its own"
        )


def plan_view(plan: Plan, verification: VerifiedPlan | None = None) -> PlanView:
    """Return the view of `plan`."""
    margin = plan.margin
    return PlanView(
        headline=_headline(plan),
        gain=_gain(plan),
        rows=tuple(_rows(plan)),
        terms=(
            Term("CUDA context", margin.context_bytes),
            Term("predicted peak", margin.peak_allocated_bytes),
            Term("slack of the allocator", margin.slack_bytes),
            Term("error band", margin.error_band_bytes),
            *([Term("on the host", margin.host_bytes)] if margin.host_bytes else []),
        ),
        needed_bytes=margin.device_bytes,
        budget_bytes=margin.budget_bytes,
        left_bytes=margin.left_bytes,
        proof=_proof(plan),
        smallest=_smallest(plan),
        placements=tuple((name, worded(plan, name)) for name in plan.placements),
        cost_name=SECONDS if _timed(plan) else COPIED,
        front=tuple((one.predicted.device_bytes, _cost(plan, one.predicted)) for one in plan.front),
        code=plan.to_code(),
        verification=_verification(verification) if verification is not None else None,
    )


def _headline(plan: Plan) -> str:
    resident = " and ".join(
        filter(None, (", ".join(plan.excluded[:-1]), plan.excluded[-1] if plan.excluded else ""))
    )
    budget = format_bytes(plan.budget_bytes)
    streamed = [name for name, record in plan.inside.items() if record["kind"] == "streamed"]
    blocks = f"; {', '.join(streamed)} in blocks" if streamed else ""
    if not plan.excluded:
        return f"Within {budget}: offload everything, in the order in which it is used{blocks}"
    kept = f"keep {resident} on the GPU{' for good' if plan.sticky else ''}"
    rest = ", offload the rest" if len(plan.excluded) < len(plan.placements) else ""
    return f"Within {budget}: {kept}{rest}{blocks}"


def _gain(plan: Plan) -> str:
    if _timed(plan):
        return _faster(plan)
    before, after = _copied(plan.stock.predicted), _copied(plan.predicted)
    if not before:
        return ""
    if before == after:
        return f"It copies {format_bytes(after)} of weights per call, as much as the pipeline does as it is."
    change = abs(before - after) / before
    word = "less" if after < before else "more"
    return (
        f"It copies {format_bytes(after)} of weights per call, the pipeline as it is {format_bytes(before)}: "
        f"{100 * change:.0f} % {word}."
    )


def _faster(plan: Plan) -> str:
    before, after = plan.stock.predicted.seconds or 0.0, plan.predicted.seconds or 0.0
    stock, budget = plan.stock.predicted.device_bytes, plan.budget_bytes
    beyond = f", which would need {format_bytes(stock)}" if stock > budget else ""
    one = plan.predicted
    likely = format_range(after, one.seconds_band, one.seconds_band_below)
    sure = f" ({likely} in nine calls of ten)" if likely else ""
    within = after < before < after * (1 + one.seconds_band)
    unsure = (
        " The difference lies within the band: measure before you rely on it." if within else ""
    )
    return (
        f"A call takes {format_seconds(after)}{sure}, under the pipeline as it is "
        f"{format_seconds(before)}{beyond}.{unsure}"
    )


def cost_words(view: PlanView, cost: float) -> str:
    """Return a cost with its unit."""
    return format_seconds(cost) if view.cost_name == SECONDS else format_bytes(round(cost))


def _timed(plan: Plan) -> bool:
    known = (plan.predicted.seconds, plan.stock.predicted.seconds)
    return plan.proof.objective != "bytes" and None not in known


def _cost(plan: Plan, one: Predicted) -> float:
    return one.seconds if _timed(plan) and one.seconds is not None else float(_copied(one))


def _copied(one: Predicted) -> int:
    return one.h2d_weight_bytes + one.d2h_weight_bytes


def _rows(plan: Plan) -> list[PlanRow]:
    rows = [
        _row(plan, "as it is", plan.stock),
        _row(plan, "this plan", plan, chosen=True),
    ]
    if plan.runner_up is not None:
        rows.append(_row(plan, "runner-up", plan.runner_up))
    rows.append(_row(plan, "smallest that runs", plan.smallest.plan))
    return rows


def _row(plan: Plan, label: str, one: Plan | Alternative, *, chosen: bool = False) -> PlanRow:
    predicted = one.predicted
    return PlanRow(
        label=label,
        chosen=chosen,
        peak_bytes=predicted.peak_allocated_bytes,
        device_bytes=predicted.device_bytes,
        h2d_bytes=predicted.h2d_weight_bytes,
        d2h_bytes=predicted.d2h_weight_bytes,
        seconds="" if predicted.seconds is None else format_seconds(predicted.seconds),
        resident=", ".join(one.excluded) + (" (sticky)" if one.sticky and one.excluded else ""),
        sequence="; ".join([*filter(None, [" → ".join(one.sequence)]), *inside_words(one)]),
        cost=_cost(plan, predicted),
    )


def _proof(plan: Plan) -> str:
    proof = plan.proof
    opened = f"{proof.nodes:,} partial plans opened, {proof.candidates:,} plans in all"
    if proof.gap:
        return f"Not proved best: another plan may be better by {proof.gap:,} ({opened})."
    if plan.tied_seconds:
        return (
            f"Proved: the fastest plan, the runner-up, takes only {format_seconds(plan.tied_seconds)} less, and of all "
            f"plans that are as close to it, this one changes the fewest placements ({opened}, gap 0)."
        )
    return f"Proved best for {proof.objective}: no other plan does better ({opened}, gap 0)."


def _smallest(plan: Plan) -> str:
    smallest = plan.smallest
    where = f"{smallest.component}, {smallest.moment}" if smallest.component else smallest.moment
    return (
        f"The smallest budget that works is {format_bytes(smallest.budget_bytes)}. It is decided by {where}: "
        f"{format_bytes(smallest.weight_bytes)} of weights and {format_bytes(smallest.other_bytes)} besides."
    )


def _verification(verification: VerifiedPlan) -> VerificationView:
    promised, found = verification.promised, verification.found
    how = "on a real GPU" if verification.source == "measured" else "on the virtual GPU"
    word = "held" if verification.held else "did not hold"
    return VerificationView(
        held=verification.held,
        headline=f"The plan was applied and run {how}, with the budget as its limit: it {word}.",
        rows=(
            ("peak allocated", promised.peak_allocated_bytes, found.peak_allocated_bytes),
            ("weights up per call", promised.h2d_weight_bytes, found.h2d_weight_bytes),
            ("weights down per call", promised.d2h_weight_bytes, found.d2h_weight_bytes),
        ),
        complaints=(*verification.drift, *verification.differences),
        profile=verification.profile,
    )
