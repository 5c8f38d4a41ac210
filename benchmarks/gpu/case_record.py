"""What the scripts here keep: one JSON file a GPU and script, an entry a case, and a summary.

Nothing here needs a GPU or torch: the recorded results are read again by the tests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.atomic import write_text
from profiler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """What a script keeps: how the file calls itself, and what is said of all its cases."""

    name: str  # as "vram-profiler validation"
    told: str  # as "a validation"
    schema_version: int
    file: str  # in the GPU's folder of results
    summary_of: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def load(self, path: Path) -> dict[str, Any]:
        """Return the record at `path`.

        Raises:
            InputError: if it is none.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            known = record["kind"] == self.name and record["schema_version"] == self.schema_version
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no record of {self.told} ({error})") from error
        if not known:
            raise InputError(f"{path} is no record of {self.told} of version {self.schema_version}")
        return dict(record)

    def save(self, record: dict[str, Any], path: Path) -> None:
        """Write the record, whole or not at all, with its summary renewed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        record["summary"] = self.summary_of(list(record["cases"].values()))
        write_text(path, json.dumps(record, indent=1) + "\n")


def error_of(predicted: float | None, measured: float | None) -> float | None:
    """Return the error as a fraction; None where one side is not known, 0 where both are nothing."""
    if predicted is None or measured is None:
        return None
    if not measured:
        return None if predicted else 0.0
    return predicted / measured - 1
