"""Which keys go together, against the definition taken word by word."""

from __future__ import annotations

from itertools import product

import pytest

from profiler.planning.sequence_rule import EXCLUDED, LAST, OUTSIDE, SequenceRule


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("some_excluded", [False, True])
def test_exactly_the_choices_that_form_one_sequence_are_allowed(count, some_excluded):
    names = tuple("abcd"[:count])
    rule = SequenceRule(names, some_excluded=some_excluded)
    for keys in product((*names, LAST, OUTSIDE, EXCLUDED), repeat=count):
        state = rule.start
        for key in keys:
            state = None if state is None else rule.step(state, key)
        allowed = forms_a_sequence(dict(zip(names, keys, strict=True)), some_excluded)
        assert (state is not None) == allowed, keys


def forms_a_sequence(keys, some_excluded):
    """Whether following the successors from one component visits all that are in a sequence, up to the last one."""
    members = {name for name, key in keys.items() if key not in (OUTSIDE, EXCLUDED)}
    excluded = [name for name, key in keys.items() if key == EXCLUDED]
    if len(excluded) == len(keys) or (some_excluded and not excluded):
        return False
    return not members or any(visits(keys, first) == members for first in members)


def visits(keys, first):
    seen, name = set(), first
    while name in keys and name not in seen and keys[name] not in (OUTSIDE, EXCLUDED):
        seen.add(name)
        name = keys[name]
    return seen if name == LAST else None


def test_beginnings_with_the_same_future_are_the_same_state():
    rule = SequenceRule(("a", "b", "c", "d"), some_excluded=False)

    def after(*keys):
        state = rule.start
        for key in keys:
            state = rule.step(state, key)
        return state

    # a -> b -> c and b -> c alone differ in who still needs a predecessor; being outside or excluded does not matter.
    assert after("b", "c") != after(OUTSIDE, "c")
    assert after("c", OUTSIDE) == after("c", EXCLUDED)
