"""What the search engine is asked, and what it answers.

A *choice* takes one option for each decision. Costs, penalties, uses and loads add up over the decisions; the highest
of the summed loads is the *peak*. A rule says which keys go together.

Which choices count: of options with equal keys, one is *dominated* where another is no worse in cost, penalty, each
use and the load at each moment (of equals, the first stays). Choices with a dominated option are left out, so the
second best is a choice of its own and not the best one made worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Amounts = tuple[int, ...]


class Option(NamedTuple):
    """One way to decide."""

    key: str  # all that the rule looks at
    cost: int
    load: Amounts  # at each moment
    penalty: int = 0
    uses: Amounts = ()  # of each scalar resource; shorter than the limits: of the others none
    label: Any = None  # the caller's own


def anything_goes(state: Hashable, key: str) -> Hashable:  # noqa: ARG001
    """The rule that allows every choice."""
    return state


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Decisions in the order in which they are made; the ones with most at stake are best made first.

    The rule is an automaton: from `start`, `step` gives the state after one more key, or None where the keys so far
    cannot become an allowed choice. States are compared: the fewer there are, the faster the search.
    """

    decisions: tuple[tuple[Option, ...], ...]
    base: Amounts  # load that no decision changes
    step: Callable[[Any, str], Any] = anything_goes
    start: Hashable = ()
    penalty: int = 0  # of every choice of this problem
    base_uses: Amounts = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """One complete choice."""

    problem: int  # index of the problem it solves
    keys: tuple[str, ...]
    labels: tuple[Any, ...]
    cost: int
    peak: int
    penalty: int
    uses: Amounts = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best choices, best first, and the proof.

    Nothing found and `complete`: no choice keeps the limits. Nothing found and not `complete`: the time ran out.
    """

    found: tuple[Found, ...]
    complete: bool  # False where the time ran out, so that a better choice may exist
    nodes: int  # partial choices that were opened
    bound: (
        int | None
    )  # no choice has less of what ranks first, the cost or else; None where no choice exists
    gap: int  # that of the best minus the bound; 0 where nothing was found


@dataclass(frozen=True, kw_only=True)
class Front:
    """Choices that no other beats in both peak and cost, lowest peak first."""

    points: tuple[Found, ...]
    whole: bool  # False where there are more, or may be
    complete: bool  # False where the time ran out: the points shown are still exact
