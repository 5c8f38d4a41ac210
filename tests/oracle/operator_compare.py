"""How alike two outcomes of an operator are, and what is left out because neither side can know it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from operator_recording import Outcome

KINDS = ("equal", "order", "small", "matter")
MATTERS_BYTES = 16 << 10
# CUB asks for one byte less than a multiple of 256: it rounds each of its parts up and adds 255 to align the first.
# Source: `alias_temporaries` in cub/util_temporary_storage.cuh. How much follows from registers of its kernels.
_OF_CUB = 255
_ERROR = re.compile(r"\w+Error: ")  # what was allocated before an operator is refused is free again


class Compared(NamedTuple):
    """One case that is not equal, or whose scratch memory of CUB was left out."""

    name: str
    kind: str
    oracle: Outcome
    predicted: Outcome


def compare(oracle: Mapping[str, Outcome], predicted: Mapping[str, Outcome]) -> list[Compared]:
    """Return every case of both sides with the kind of its difference."""
    return [
        Compared(name, kind_of(outcome, predicted[name]), outcome, predicted[name])
        for name, outcome in oracle.items()
    ]


def kind_of(oracle: Outcome, predicted: Outcome) -> str:
    """Return "equal"; "order" for the same blocks at other times; "small" below 16 KiB of other blocks; "matter".

    Example:
        >>> kind_of(Outcome("+8 +512", ""), Outcome("+512 +8", ""))
        'order'
    """
    if oracle.result != predicted.result:
        return "matter"
    one, other = known_events(oracle.events), known_events(predicted.events)
    if one == other or _ERROR.match(oracle.result):
        return "equal"
    if Counter(one) == Counter(other):
        return "order"
    apart = [_bytes(more - less) for more, less in _both_ways(Counter(one), Counter(other))]
    return "small" if max(apart) < MATTERS_BYTES else "matter"


def known_events(events: str) -> list[str]:
    """Return the events without the scratch memory of CUB, which is one byte where it needs none."""
    given = events.split()
    found: list[str] = []
    while given:
        event = given.pop(0)
        if event == "+1" and given[:1] == ["-1"]:
            given.pop(0)
        elif int(event[1:]) % 256 != _OF_CUB:
            found.append(event)
    return found


def _both_ways(one: Counter[str], other: Counter[str]) -> list[tuple[Counter[str], Counter[str]]]:
    return [(one, other), (other, one)]


def _bytes(events: Counter[str]) -> int:
    """Return the bytes of the blocks that were asked for or freed, whichever is more."""
    sums = {"+": 0, "-": 0}
    for event, count in events.items():
        sums[event[0]] += int(event[1:]) * count
    return max(sums.values())
