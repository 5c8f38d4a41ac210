"""A profile as one Parquet file: events are the rows, everything else is JSON in the file's metadata.

pandas, DuckDB and polars open it directly and see the events. Fields added later with a default keep the schema
version: an older file takes the default, an unknown field is left out. A change of meaning raises `SCHEMA_VERSION`.
What only the planner reads, and is long, is compressed in the header.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from profiler.atomic import replacing
from profiler.errors import InputError
from profiler.profile import (
    SCHEMA_VERSION,
    Assumption,
    BillItem,
    Block,
    CallSignature,
    CardState,
    Component,
    Condition,
    Event,
    Failure,
    Gpu,
    Inside,
    Part,
    Profile,
    TensorSize,
    Totals,
    Visit,
)
from profiler.settings import Setting
from profiler.trial import Trial, WholeCall

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import pyarrow as pa

_HEADER_KEY = b"vram_profiler"
_NOT_IN_HEADER = ("events", "memory_history")  # the rows, and what has a file of its own
_APART = ("parts", "insides")  # long, and of use to a planner only: compressed
_T = TypeVar("_T")


def save(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write `profile` to `path`, whole or not at all.

    Raises:
        InputError: if `path` cannot be written, or `profile.call` holds something that is not plain data.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(zip(*profile.events, strict=True)) or [() for _ in Event._fields]
    schema = _event_schema().with_metadata({_HEADER_KEY: _header_text(profile).encode()})
    arrays = [
        pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)
    ]
    with replacing(path) as temporary:
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=schema),
            temporary,
            compression="zstd",
            write_page_checksum=True,
        )


def load(path: str | os.PathLike[str]) -> Profile:
    """Read the profile that `save` wrote to `path`.

    Raises:
        InputError: if there is no such file, it is cut short or damaged, no profile, or of a newer version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise InputError(f"no profile at {path}: there is no such file")
    try:
        table = pq.read_table(Path(path), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is no profile: not a Parquet file, or cut short or damaged"
        ) from error
    header = _header(table.schema.metadata or {}, path)
    try:
        return _profile(header, table)
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is a damaged profile: {error}; record it again") from error


def _event_schema() -> pa.Schema:
    import pyarrow as pa

    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    return pa.schema(
        [
            pa.field(name, types[kind], nullable=False)
            for name, kind in get_type_hints(Event).items()
        ]
    )


def _header_text(profile: Profile) -> str:
    fields = {
        f.name: getattr(profile, f.name)
        for f in dataclasses.fields(profile)
        if f.name not in _NOT_IN_HEADER
    }
    header = {
        "schema_version": SCHEMA_VERSION,
        **{name: _packed_or_plain(name, value) for name, value in fields.items()},
    }
    try:
        return json.dumps(header, separators=(",", ":"), ensure_ascii=True)
    except TypeError as error:
        raise InputError(
            f"cannot save this profile: its call holds more than plain data ({error})"
        ) from error


def _packed_or_plain(name: str, value: Any) -> Any:
    plain = _plain(value)
    if name not in _APART:
        return plain
    return b64encode(zlib.compress(json.dumps(plain, separators=(",", ":")).encode())).decode()


def _unpacked(text: str) -> Any:
    return json.loads(zlib.decompress(b64decode(text)))


def _plain(value: Any) -> Any:
    """Return records as dictionaries; a named tuple (`TensorSize`, one for each weight) stays a row."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _packed_or_plain(field.name, getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _header(metadata: Mapping[bytes, bytes], path: str | os.PathLike[str]) -> dict[str, Any]:
    if _HEADER_KEY not in metadata:
        raise InputError(
            f"{path} is a Parquet file, but no profile: it was not written by vram-profiler"
        )
    try:
        header: dict[str, Any] = json.loads(metadata[_HEADER_KEY])
        version = int(header["schema_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is a damaged profile: its header cannot be read; record it again"
        ) from error
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} was written by a newer vram-profiler (schema {version}, this one reads up to {SCHEMA_VERSION}): "
            "upgrade with pip install -U vram-profiler"
        )
    return header


def _profile(header: dict[str, Any], table: pa.Table) -> Profile:
    plain = {
        **header,
        "gpu": _record(Gpu, header["gpu"]),
        "totals": _record(Totals, header["totals"]),
        "components": tuple(_component(fields) for fields in header["components"]),
        "bill": tuple(_record(BillItem, fields) for fields in header["bill"]),
        "assumptions": tuple(_record(Assumption, fields) for fields in header["assumptions"]),
        "conditions": tuple(_record(Condition, fields) for fields in header.get("conditions", ())),
        "settings": tuple(_record(Setting, one) for one in header.get("settings", ())),
        "signatures": tuple(_record(CallSignature, one) for one in header.get("signatures", ())),
        "trials": tuple(map(_trial, header.get("trials", ()))),
        "failure": _failure(header.get("failure")),
        "card_state": _card_state(header.get("card_state")),
        "events": _events(table),
        "insides": tuple(map(_inside, _unpacked(header["insides"]) if "insides" in header else ())),
    }
    for name in ("call_defaults", "sequence", "excluded", "denoisers"):
        plain[name] = tuple(header[name])
    return _record(Profile, plain)


def _component(fields: dict[str, Any]) -> Component:
    tensors = tuple(TensorSize(*row) for row in fields["tensors"])
    blocks = tuple(_record(Block, block) for block in fields["blocks"])
    plain = {**fields, "tensors": tensors, "blocks": blocks}
    if "parts" in fields:
        plain["parts"] = tuple(_part(row) for row in _unpacked(fields["parts"]))
        plain["block_modules"] = tuple(fields["block_modules"])
    return _record(Component, plain)


def _part(row: list[Any]) -> Part:
    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row]
    return Part(*values)


def _inside(row: list[Any]) -> Inside:
    visits, *figures = row
    return Inside(tuple(Visit(*visit) for visit in visits), *figures)


def _failure(fields: dict[str, Any] | None) -> Failure | None:
    if fields is None:
        return None
    holders = tuple(_record(BillItem, item) for item in fields["holders"])
    whole = fields.get("whole")
    return _record(
        Failure,
        {
            **fields,
            "holders": holders,
            "whole": None if whole is None else _record(WholeCall, whole),
        },
    )


def _trial(fields: dict[str, Any]) -> Trial:
    return _record(Trial, {**fields, "kept": tuple(fields["kept"])})


def _card_state(fields: dict[str, Any] | None) -> CardState | None:
    if fields is None:
        return None
    return _record(CardState, {**fields, "held_back_by": tuple(fields["held_back_by"])})


def _record(kind: type[_T], fields: dict[str, Any]) -> _T:
    """Return the record of `kind`, without the fields that a later minor version may have added."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in fields.items() if name in known})


def _events(table: pa.Table) -> tuple[Event, ...]:
    columns = [_column(table, name) for name in Event._fields]
    return tuple(map(Event._make, zip(*columns, strict=True)))


def _column(table: pa.Table, name: str) -> list[Any]:
    """Return a column of events, the default for one that the file is too old to have."""
    if name in Event._field_defaults and name not in table.column_names:
        return [Event._field_defaults[name]] * table.num_rows
    return table.column(name).to_pylist()  # type: ignore[no-any-return]
