"""Which cases of a long matrix run each time; the others are marked `nightly` and run under `--nightly`."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest


def daily(chosen: Collection[object], cases: Iterable[object]) -> list[object]:
    """Return all cases as parameters, those that were not chosen marked `nightly`."""
    cases = list(cases)
    assert set(chosen) <= set(cases), "chosen cases that do not exist"
    return [
        case if case in chosen else pytest.param(case, marks=pytest.mark.nightly) for case in cases
    ]
