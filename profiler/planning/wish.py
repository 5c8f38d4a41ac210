"""Requests for a plan: its limits, its objective, and the placements that it may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.checking.given import named, words_of
from profiler.errors import InputError
from profiler.placements.placement import LEVERS
from profiler.planning.tables import OBJECTIVES
from profiler.planning.vocabulary import check_levers
from profiler.units import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiler.placements.scheme import Scheme


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A request for a plan.

    Attributes:
        budget_bytes: GPU memory that the plan may take, context included.
        ram_bytes: Host memory that it may take; None for unlimited.
        objective: What to minimise: "seconds" or "bytes" of a call once calls repeat, "first-image" for the seconds
            until the first image, set-up included; None for seconds, or for bytes if the link's rates are unknown.
        sticky: Whether the plan may replace diffusers' end of a call. If not, excluded components are moved to the CPU
            and back at the end of each call, and no lever can be used.
        levers: Placements that may be used besides sequence and exclusions, of `vocabulary.LEVERS`.
        time_limit_seconds: Time after which the best plan found so far is returned, with what is proved about it.
        slack_bytes: Allowance for fragmentation; None for the value of the profile's GPU.
        recorded_streams: Whether group offload may record its stream.
        compared_with: The placement that the plan is compared with; None for the pipeline's own model offload.
    """

    budget_bytes: int
    ram_bytes: int | None = None
    objective: str | None = None
    sticky: bool = True
    levers: tuple[str, ...] = LEVERS
    time_limit_seconds: float | None = None
    slack_bytes: int | None = None
    recorded_streams: bool = True
    compared_with: Scheme | None = None

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        if self.objective not in (None, *OBJECTIVES):
            raise InputError(
                f"no objective is called {self.objective!r}: choose one of {', '.join(OBJECTIVES)}"
            )
        check_levers(self.levers)
        limit: Any = self.time_limit_seconds
        if limit is not None and not (isinstance(limit, int | float) and limit > 0):
            raise InputError(f"{named(limit)} is no time limit: give seconds, more than none")


def wish_of(
    budget_bytes: str | int,
    *,
    ram_bytes: str | int | None = None,
    levers: str | Sequence[str] | None = None,
    slack_bytes: str | int | None = None,
    **others: Any,
) -> Wish:
    """Return a request from values as users write them: sizes as text or bytes, levers as words or as one text.

    Args:
        budget_bytes: As in `Wish`.
        ram_bytes: As in `Wish`.
        levers: As in `Wish`; "none" for none, None for all but the disk.
        slack_bytes: As in `Wish`.
        others: The other fields of `Wish`.

    Raises:
        InputError: if one of them is not a size, or has no meaning.
    """
    return Wish(
        budget_bytes=parse_bytes(budget_bytes),
        ram_bytes=None if ram_bytes is None else parse_bytes(ram_bytes),
        levers=LEVERS if levers is None else words_of(levers, "levers"),
        slack_bytes=parse_bytes(slack_bytes) if isinstance(slack_bytes, str) else slack_bytes,
        **others,
    )
