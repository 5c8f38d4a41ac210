"""The rules for the GPU memory that the kernels of an operator take, for every operator that the catalogue runs.

The table is `data/operators.toml`. `tests/virtual/test_operator_rules.py` runs the catalogue and fails for an
operator that is not listed there, so that none is silently assumed to be free. One that is not listed (a custom kernel,
an operator of a new model) gets the default: nothing, at most its inputs and outputs once more, and an assumption that
names it.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any, NamedTuple


class OperatorRule(NamedTuple):
    """The memory that a family of operators takes besides inputs and outputs.

    Attributes:
        memory: a description.
        source: the source of the rule.
        share_at_most: an upper bound, as a fraction of the bytes of inputs and outputs; the lower bound is 0.
    """

    memory: str
    source: str
    share_at_most: float = 0.0


DEFAULT = OperatorRule("unknown", "none", 1.0)


@cache
def _rules() -> dict[str, OperatorRule]:
    """Return every listed operator's rule, by the operator's name."""
    text = (resources.files("profiler") / "data" / "operators.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)["rule"]
    rules: dict[str, OperatorRule] = {}
    for table in tables:
        operators = table.pop("operators")
        rules |= dict.fromkeys(operators, OperatorRule(**table))
    return rules


def name_of(func: Any) -> str:
    """Return an operator's name without its overload: `aten.add.Tensor` is `add`, others keep their namespace."""
    return str(func._overloadpacket).removeprefix("aten.")


def rule_of(func: Any) -> OperatorRule | None:
    """Return the rule for an operator, or None if none is known."""
    return _rules().get(name_of(func))
