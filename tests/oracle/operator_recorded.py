"""What operators did on PyTorch's CUDA build, as it is kept in the repository: every outcome once.

In names and results a case's own dtype is written `@`, so most cases have the same outcome in each dtype.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from operator_cases import DTYPES, short
from operator_compare import known_events
from operator_recording import Outcome

FILE = Path(__file__).resolve().parents[1] / "virtual" / "recorded" / "operators.json"
NONE = -1  # the number of an outcome where a case does not come in a dtype
_DTYPES = tuple(map(short, DTYPES))


class Recorded(NamedTuple):
    """The outcomes of one version of torch.

    Attributes:
        torch: the version, without its build.
        outcomes: by GPU and case.
    """

    torch: str
    outcomes: dict[str, dict[str, Outcome]]

    def distinct(self, gpu: str) -> dict[str, Outcome]:
        """Return the outcomes that no other dtype and no GPU before has."""
        earlier = list(self.outcomes.values())[: list(self.outcomes).index(gpu)]
        known = [{_neutral(name, one) for name, one in found.items()} for found in earlier]
        seen = set().union(*known)
        left = {}
        for name, outcome in self.outcomes[gpu].items():
            neutral = _neutral(name, outcome)
            if neutral not in seen:
                left[name] = outcome
            seen.add(neutral)
        return left


def version() -> str:
    """Return the version of the torch that is imported, without its build."""
    return torch.__version__.partition("+")[0]


def write(outcomes: Mapping[str, Mapping[str, Outcome]]) -> None:
    """Write the outcomes of each GPU."""
    numbers: dict[str, int] = {}
    of_names: dict[str, list[list[int]]] = {}
    for position, found in enumerate(outcomes.values()):
        for case, outcome in found.items():
            name, text = _neutral(case, _known(outcome))
            own = of_names.setdefault(name, [[NONE] * len(_DTYPES) for _ in outcomes])
            own[position][_position(case)] = numbers.setdefault(text, len(numbers))
    head = json.dumps({"torch": version(), "gpus": list(outcomes)}).removesuffix("}")
    cases = (f"{json.dumps(name)}: {_compact(of)}" for name, of in of_names.items())
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(
        f'{head},\n"cases": {{\n{_lines(cases)}\n}},\n"outcomes": [\n{_lines(map(json.dumps, numbers))}\n]\n}}\n',
        encoding="utf-8",
    )


def read() -> Recorded:
    """Return what is kept."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Outcome]] = {gpu: {} for gpu in content["gpus"]}
    for name, of_gpus in content["cases"].items():
        for gpu, numbers in zip(content["gpus"], of_gpus, strict=True):
            for dtype, number in zip(_DTYPES, numbers, strict=True):
                if number != NONE:
                    text = content["outcomes"][number].replace("@", dtype)
                    found[gpu][name.replace("@", dtype)] = Outcome(*text.split(" | ", 1))
    return Recorded(content["torch"], found)


def _known(outcome: Outcome) -> Outcome:
    """Return an outcome without the scratch memory of CUB."""
    return outcome._replace(events=" ".join(known_events(outcome.events)))


def _position(case: str) -> int:
    """Return the place of a case's dtype, the last one in its name; 0 if there is none."""
    named = [_DTYPES.index(word) for word in case.split() if word in _DTYPES]
    return named[-1] if named else 0


def _neutral(case: str, outcome: Outcome) -> tuple[str, str]:
    """Return a case's name and its outcome with `@` for its dtype."""
    dtype = _DTYPES[_position(case)]
    text = " | ".join(outcome)
    return _replaced(case, dtype), _replaced(text, dtype)


def _replaced(text: str, dtype: str) -> str:
    return " ".join("@" if word == dtype else word for word in text.split(" "))


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _lines(texts: Iterable[str]) -> str:
    return ",\n".join(texts)
