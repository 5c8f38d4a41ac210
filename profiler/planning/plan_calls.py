"""The calls that a plan is for, as code."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from profiler.planning.plan import Plan


def called_as(plan: Plan) -> Iterator[str]:
    """Yield each call that the plan is for as code, with long values shortened."""
    if not plan.signatures:
        if plan.call:
            yield _call("pipe", plan.call)
        return
    for one in plan.signatures:
        called = "pipe" if one.pipeline_class == plan.pipeline_class else one.pipeline_class
        yield f"{_call(called, one.call)}, {one.weight} of a round"


def _call(called: str, call: Mapping[str, Any]) -> str:
    """Return a call as text; long values, mostly prompts, are shortened."""
    given = (f"{name}={textwrap.shorten(repr(value), 40)}" for name, value in call.items())
    return f"{called}({', '.join(given)})"
