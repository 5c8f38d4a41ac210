"""Answers questions about convolutions on standard input, a line of JSON each; `live.py` runs it in its own process.

cuDNN is 500 MB of libraries that load more: a fault in them ends this process, not the user's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from profiler.cudnn.convolution import Convolution
from profiler.cudnn.graph_api import CudnnError, GraphApi
from profiler.cudnn.header import read_enumerators
from profiler.cudnn.heuristics import Heuristics


class Question(NamedTuple):
    """One question, as a line of JSON holds it."""

    convolution: str  # its text
    gpu: dict[str, Any]
    deterministic: bool
    tf32: bool


def answer(heuristics: Heuristics, question: Question) -> dict[str, Any]:
    """Return the workspaces in bytes, or the error."""
    try:
        found = heuristics.workspaces(
            Convolution.parse(question.convolution),
            question.gpu,
            deterministic=question.deterministic,
            tf32=question.tf32,
        )
    except (CudnnError, ValueError) as error:
        return {"error": str(error)}
    return {"workspaces": found}


def main() -> None:
    """Load the cuDNN whose library and header the arguments name, and answer until the input ends."""
    library, include, *needed = map(Path, sys.argv[1:])
    heuristics = Heuristics(GraphApi(library, needed, read_enumerators(include)))
    for line in sys.stdin:
        print(json.dumps(answer(heuristics, Question(*json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
