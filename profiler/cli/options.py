"""Options of a command as records: typer reads options from a signature, which is built from the records' fields."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose options are the fields of the records that `command` takes.

    Each parameter of `command` is annotated by a dataclass, whose fields are annotated as typer's options are.
    """
    records: dict[str, Any] = get_type_hints(command)
    records.pop("return")
    parameters = [one for record in records.values() for one in _parameters(record)]

    @functools.wraps(command)
    def expanded(**options: Any) -> None:
        made = {
            name: record(**{one.name: options[one.name] for one in dataclasses.fields(record)})
            for name, record in records.items()
        }
        command(**made)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded


def _parameters(record: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(record, include_extras=True)
    for one in dataclasses.fields(record):
        missing = one.default is dataclasses.MISSING
        yield inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if missing else one.default,
            annotation=hints[one.name],
        )
