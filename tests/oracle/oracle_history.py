"""Shows where the memory histories of both sides part, and which line asked there.

Usage: python tests/oracle/oracle_history.py "rtx-4090 sd15 model" [--torch 2.14.1] [--count 15]

Both histories are read as sequences of actions and sizes; blocks freed one after the other are sorted, since their
order makes no difference. Each way to part is told once, with how often it comes and what stands around it: `+` a
block, `-` one freed, `S` and `F` a segment taken and given back, `M` and `U` memory mapped and unmapped, `!` out of
memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

SIGNS = {
    "alloc": "+",
    "free_completed": "-",
    "segment_alloc": "S",
    "segment_free": "F",
    "segment_map": "M",
    "segment_unmap": "U",
    "oom": "!",
}
WINDOW = 160  # entries that are aligned at a time: difflib's cost grows with their square
TOGETHER = 6  # equal entries in a row that end a parting


Entry = tuple[str, list[str]]
"""What happened, and the lines that asked."""


class Parting(NamedTuple):
    """A stretch in which both histories differ."""

    start: int  # in the oracle's history
    oracle: tuple[str, ...]
    predicted: tuple[str, ...]


def partings(oracle: Sequence[str], predicted: Sequence[str]) -> Iterator[Parting]:
    """Yield the stretches in which two sequences of entries differ.

    Example:
        >>> [tuple(one) for one in partings(["+512", "+8"], ["+512", "+16"])]
        [(1, ('+8',), ('+16',))]
    """
    here = there = 0
    while here < len(oracle) or there < len(predicted):
        if here < len(oracle) and oracle[here : here + 1] == predicted[there : there + 1]:
            here, there = here + 1, there + 1
            continue
        one, other = oracle[here : here + WINDOW], predicted[there : there + WINDOW]
        ahead, beyond = _together_again(one, other)
        yield Parting(here, tuple(one[:ahead]), tuple(other[:beyond]))
        here, there = here + ahead, there + beyond


def _together_again(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """Return how far both are from where they go together again."""
    for tag, start, end, beyond, _ in SequenceMatcher(
        None, one, other, autojunk=False
    ).get_opcodes():
        last = end == len(one)
        if tag == "equal" and (end - start >= TOGETHER or last):
            return start, beyond
    return len(one), len(other)


def settled(entries: Sequence[Entry]) -> list[Entry]:
    """Return a history in which blocks that are freed one after the other are sorted.

    Example:
        >>> [entry for entry, _ in settled([("+8", []), ("-8", []), ("-16", [])])]
        ['+8', '-16', '-8']
    """
    runs = groupby(entries, key=lambda entry: entry[0].startswith("-"))
    return [entry for freed, run in runs for entry in (sorted(run) if freed else run)]


def record(case: str, folder: Path, torch: str = "") -> dict[str, list[Entry]]:
    """Return the histories of both sides: what happened, and the lines that asked."""
    from oracle import environment, set_up_sides

    found = {}
    for side, interpreter in set_up_sides(torch).interpreters.items():
        script = Path(__file__).with_name("oracle_side.py")
        own = folder / side
        own.mkdir()
        command = [interpreter, str(script), side, str(own), case, "--history"]
        subprocess.run(command, check=True, env=environment(), stderr=subprocess.DEVNULL)
        entries = json.loads(next(own.glob("*.history")).read_text())
        found[side] = settled(
            [
                (f"{SIGNS[action]}{size:,}", lines)
                for action, size, lines in entries
                if action in SIGNS
            ]
        )
    return found


def main() -> None:
    """Record both histories and print where they part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", help="the name of a case of the matrix")
    parser.add_argument("--torch", default="", help="a version beside the tested one, as 2.14.1")
    parser.add_argument("--count", type=int, default=15, help="ways to part that are printed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        histories = record(options.case, Path(folder), options.torch)
    oracle, predicted = ([entry for entry, _ in histories[side]] for side in histories)
    alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for one in partings(oracle, predicted):
        alike.setdefault((one.oracle, one.predicted), []).append(one.start)
    print(f"{len(oracle)} entries, {len(predicted)} predicted, {len(alike)} ways to part")
    for (own, other), starts in sorted(alike.items(), key=lambda item: -len(item[1]))[
        : options.count
    ]:
        at = starts[0]
        asked = " < ".join(histories["oracle"][min(at, len(oracle) - 1)][1])
        print(f"\n{len(starts)} times, first at {at}: {asked}")
        print("  before:   ", " ".join(oracle[max(0, at - 3) : at]))
        print("  oracle:   ", " ".join(own)[:600])
        print("  predicted:", " ".join(other)[:600])
        print("  after:    ", " ".join(oracle[at + len(own) : at + len(own) + 3]))


if __name__ == "__main__":
    main()
