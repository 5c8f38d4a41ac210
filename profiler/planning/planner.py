"""Exact search for the best offload plan under a budget, over every sequence and exclusion set, from one profile.

The promise is device bytes = context + peak allocated + slack + error band <= budget. Among the plans that keep it,
the one with the least weight copies per call wins (in bytes, or in seconds at the link's speed), then the one with
the lowest peak, then the one that changes the placement of the fewest components. Plans whose seconds differ by less
than `TIE` are tied: of these, the one that changes the fewest wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.checking.given import check_given
from profiler.errors import FindingError, InputError
from profiler.placements.placement import LEVERS
from profiler.placements.scheme import Scheme, known_part
from profiler.planning import does_not_fit
from profiler.planning.session import Session
from profiler.planning.wish import Wish, wish_of
from profiler.record.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from profiler.planning.plan import (
        Plan,
        Predicted,
    )


def plan_offload(  # noqa: PLR0913  # each part of the request has its own name
    profile: Profile,
    budget_bytes: str | int,
    *,
    ram_bytes: str | int | None = None,
    objective: str | None = None,
    sticky: bool = True,
    levers: str | Sequence[str] = LEVERS,
    time_limit_seconds: float | None = None,
    slack_bytes: str | int | None = None,
) -> Plan:
    """Return the best plan for `profile` that stays within `budget_bytes`.

    Args:
        profile: One run of the pipeline, resident or under any plan of model offload.
        budget_bytes: GPU memory that the plan may take, context included: "8GiB", or bytes.
        ram_bytes: Host memory that it may take, in the same form; None for unlimited.
        objective: What to minimise: "seconds" or "bytes" of a call once calls repeat, "first-image" for the seconds
            until the first image, set-up included; None for seconds, or for bytes if the link's rates are unknown.
        sticky: Whether the plan may replace diffusers' end of a call. If not, excluded components are moved to the CPU
            and back at the end of each call, and no lever can be used.
        levers: Placements that may be used besides sequence and exclusions, of "swap", "stream", "group",
            "sequential" and "disk": a tuple, comma-separated text, or "none".
        time_limit_seconds: Time after which the best plan found so far is returned, with what is proved about it.
        slack_bytes: Allowance for fragmentation; None for the value of the profile's GPU.

    Raises:
        InputError: if `profile` is not a profile, an argument has no meaning, the profile cannot be planned from, or
            the GPU's copy rates, needed for seconds, are unknown.
        DoesNotFitError: if no plan fits.

    Example:
        >>> plan_offload(profile, "8GiB", ram_bytes="32GiB", levers="swap,stream")
    """
    instead = "make one with profile_pipeline(pipe), or load one with Profile.load(path)"
    check_given(profile, Profile, to="plan_offload()", instead=instead)
    wish = wish_of(
        budget_bytes,
        ram_bytes=ram_bytes,
        objective=objective,
        sticky=sticky,
        levers=levers,
        time_limit_seconds=time_limit_seconds,
        slack_bytes=slack_bytes,
    )
    return plan_as(profile, wish)


def plan_as(profile: Profile, wish: Wish) -> Plan:
    """Return the best plan for `profile` that meets the request.

    Raises:
        InputError, DoesNotFitError: as `plan_offload`.
    """
    session = Session(profile, wish)
    if session.shares_memory and wish.ram_bytes is not None:
        raise InputError(
            f"host and GPU of {profile.gpu.name} share one memory: leave the bound of host memory out, and give "
            "what both may take as the budget"
        )
    outcome = session.solver.search(
        limit=session.peak_limit(wish.budget_bytes),
        use_limits=session.use_limits,
        time_limit_seconds=wish.time_limit_seconds,
    )
    if not outcome.found and not outcome.complete:
        raise FindingError(
            f"no plan was found within {wish.time_limit_seconds} seconds, which does not prove that there is none: "
            "give the search more time"
        )
    smallest = session.smallest()
    if outcome.found and outcome.complete:
        outcome = session.settled(outcome)
    if not outcome.found:
        missing = smallest.budget_bytes - wish.budget_bytes
        raise does_not_fit.DoesNotFitError(
            does_not_fit.message(profile, smallest, wish), smallest, missing
        )
    return session.plan(outcome, smallest)


def plan_for(profile: Profile, scheme: Scheme) -> Predicted:
    """Return the promised figures of `scheme` for `profile`."""
    return Session(profile, Wish(budget_bytes=0, objective="bytes")).predicted(scheme)


def weigh(profile: Profile, schemes: Iterable[Scheme]) -> tuple[Predicted | None, ...]:
    """Return the promised figures of each scheme; None if diffusers, or a part without its weights, would fail."""
    session = Session(profile, Wish(budget_bytes=0))
    known = (known_part(one, session.workload.names) for one in schemes)
    return tuple(session.predicted(one) if session.runs(one) else None for one in known)
