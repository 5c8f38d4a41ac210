"""The figures of both sides beside each other: which are equal to the byte, and the differences with their causes.

A result is what `oracle_side.py` writes for a case: its stages, each with the figures of one call, and how it ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MEASURES = ("allocated", "reserved", "segments", "pinned")
UNKNOWN = "not known yet"
# What is known of other differences, by a pattern of the case's name. Found with oracle_history.py.
CAUSES: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Difference:
    """One figure that is not the same on both sides."""

    case: str
    stage: str
    measure: str
    oracle: int
    predicted: int

    @property
    def cause(self) -> str:
        """Why they differ, as far as it is known."""
        return next((why for pattern, why in CAUSES if re.search(pattern, self.case)), UNKNOWN)

    def __str__(self) -> str:
        """Return the figure on both sides."""
        more = self.predicted - self.oracle
        percent = f", {more / self.oracle:+.3%}" if self.oracle else ""
        return (
            f"{self.case}, {self.stage}: {self.measure} {self.oracle:,}, predicted {self.predicted:,}"
            f" ({more:+,}{percent})"
        )


@dataclass
class Comparison:
    """Every call that both sides made."""

    cases: int = 0
    calls: int = 0
    failures: int = 0  # calls that failed on both sides at the same place, among those
    models: set[str] = field(default_factory=set)  # that ran to the end on both sides
    equal: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MEASURES, 0))
    equal_in_all: int = 0  # calls
    differences: list[Difference] = field(default_factory=list)
    ended_otherwise: list[str] = field(default_factory=list)
    figures: dict[str, list[list[int]]] = field(
        default_factory=dict
    )  # the oracle's, by case and call

    def as_json(self) -> dict[str, Any]:
        """Return what is kept in the repository."""
        by_cause: dict[str, list[str]] = {}
        for one in self.differences:
            by_cause.setdefault(one.cause, []).append(str(one))
        return {
            "cases": self.cases,
            "calls": self.calls,
            "failed_alike": self.failures,
            "models": len(self.models),
            "equal": self.equal,
            "equal_in_all": self.equal_in_all,
            "ended_otherwise": self.ended_otherwise,
            "differences": {
                cause: lines if cause == UNKNOWN else len(lines)
                for cause, lines in by_cause.items()
            },
            "measures": MEASURES,
            "figures": self.figures,
        }


def compare(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Comparison:
    """Return what is equal in the results of cases, the oracle's first."""
    found = Comparison()
    for oracle, predicted in pairs:
        _compare_case(found, oracle, predicted)
    return found


def _compare_case(
    found: Comparison, oracle: Mapping[str, Any], predicted: Mapping[str, Any]
) -> None:
    case = oracle["case"]
    found.cases += 1
    ends = [_ending(one) for one in (oracle, predicted)]
    if ends[0] != ends[1]:
        found.ended_otherwise.append(f"{case}: {ends[0]}; predicted: {ends[1]}")
    elif not oracle["error"]:
        found.models.add(case.split()[1])
    for one, other in zip(oracle["stages"], predicted["stages"], strict=False):
        if one["stage"] != other["stage"]:
            break
        if one["stage"].startswith("call"):
            _compare_call(found, case, one, other)


def _compare_call(
    found: Comparison, case: str, one: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    found.calls += 1
    found.failures += one["stage"].endswith("failed")
    found.figures.setdefault(case, []).append([one[name] for name in MEASURES])
    differing = [
        Difference(case, one["stage"], name, one[name], other[name])
        for name in MEASURES
        if one[name] != other[name]
    ]
    for name in MEASURES:
        found.equal[name] += one[name] == other[name]
    found.equal_in_all += not differing
    found.differences += differing


def _ending(result: Mapping[str, Any]) -> str:
    """Return where a case ended and by which kind of error; its words differ between the sides."""
    stage = result["stages"][-1]["stage"] if result["stages"] else "nothing ran"
    error = result["error"]
    # torch's class and that of the virtual GPU, and errors of devices, are worded each in its own way.
    kind = error.partition(":")[0] if result["stages"] else error
    return f"{stage}, {kind}" if kind else stage


def report(found: Comparison) -> str:
    """Return the comparison as text: the counts, and every difference by its cause."""
    lines = [
        f"{found.cases} cases, {len(found.models)} models that ran to the end, {found.calls} calls"
        + f" ({found.failures} of them failed alike)",
        *(f"  {name:10} equal to the byte in {count}" for name, count in found.equal.items()),
        f"  all four   equal in {found.equal_in_all}",
    ]
    causes = dict.fromkeys(one.cause for one in found.differences)
    for cause in causes:
        alike = [one for one in found.differences if one.cause == cause]
        lines += ["", f"{len(alike)} differences: {cause}"]
        lines += [f"  {one}" for one in alike]
    if found.ended_otherwise:
        lines += ["", "Ended otherwise:", *(f"  {one}" for one in found.ended_otherwise)]
    return "\n".join(lines)
