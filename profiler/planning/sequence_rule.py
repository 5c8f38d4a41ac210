"""The rule for keys that go together: the components that choose a successor must form one sequence.

An automaton over the components in the order of their decisions. Its state keeps only what can rule out later
decisions, so that prefixes with the same continuations share one state.
"""

from __future__ import annotations

from typing import NamedTuple

LAST, OUTSIDE, EXCLUDED = "(last)", "(outside)", "(excluded)"
KEPT, APART = "(kept)", "(apart)"
"""Excluded, but with hooks on streamed blocks; split, without a model-offload hook."""

_LEFT_OUT = (OUTSIDE, EXCLUDED, KEPT, APART)

_NONE = -1


class SequenceState(NamedTuple):
    """State of the automaton after some decisions; components are numbers, in the order of their decisions."""

    decided: int  # number of components decided
    free: int  # bits: may still be chosen as a successor; bit `count` stands for the sequence's end
    starts: tuple[int, ...]  # of each undecided component: start of the chain of links to it
    hooked: bool  # whether some component carries hooks
    excluded: bool  # whether some component is; stays False if that does not matter


class SequenceRule:
    """The rule for components `names`, in the order of their decisions.

    Args:
        names: The components.
        some_excluded: Whether at least one must be excluded.
    """

    def __init__(self, names: tuple[str, ...], *, some_excluded: bool) -> None:
        self._count = len(names)
        self._targets = {name: index for index, name in enumerate(names)} | {LAST: len(names)}
        self._some_excluded = some_excluded

    @property
    def start(self) -> SequenceState:
        """The state before the first decision."""
        every = (1 << (self._count + 1)) - 1
        return SequenceState(0, every, (_NONE,) * self._count, hooked=False, excluded=False)

    def step(self, state: SequenceState, key: str) -> SequenceState | None:
        """Return the state after the next component chose `key`; None if that cannot become one sequence."""
        left_out = key in _LEFT_OUT
        after = self._left_out(state, key) if left_out else self._linked(state, self._targets[key])
        if after is None or after.decided < self._count:
            return after
        allowed = after.hooked and (after.excluded or not self._some_excluded)
        return after if allowed else None

    def _linked(self, state: SequenceState, target: int) -> SequenceState | None:
        own = state.decided
        begin = state.starts[0] if state.starts[0] != _NONE else own
        if not state.free >> target & 1 or target == begin:
            return None  # it has a predecessor, is in no sequence, or the links would form a cycle
        starts = list(state.starts[1:])
        if own < target < self._count:
            starts[target - own - 1] = begin
        elif target in starts:
            starts[starts.index(target)] = begin
        free = state.free & ~(1 << target)
        return SequenceState(own + 1, free, tuple(starts), True, state.excluded)

    def _left_out(self, state: SequenceState, key: str) -> SequenceState | None:
        bit = 1 << state.decided
        if not state.free & bit:
            return None  # it was chosen as a successor
        return SequenceState(
            state.decided + 1,
            state.free & ~bit,
            state.starts[1:],
            state.hooked or key != EXCLUDED,
            self._some_excluded and (state.excluded or key == EXCLUDED),
        )
