"""A profile as one Parquet file: events are the rows, everything else is JSON in the file's metadata.

pandas, DuckDB and polars open it directly and see the events. Fields added later with a default keep the schema
version: an older file takes the default, an unknown field is ignored. A change of meaning increases `SCHEMA_VERSION`.
Long fields that only the planner reads are compressed in the header.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from profiler.atomic import replacing
from profiler.checking.given import file_of
from profiler.checking.typed_reading import read_fields, whole
from profiler.errors import InputError
from profiler.record.events import Event
from profiler.record.profile import SCHEMA_VERSION, Profile
from profiler.record.words import check_profile, without_strange_advice

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import pyarrow as pa

_HEADER_KEY = b"vram_profiler"
_NOT_IN_HEADER = ("events", "memory_history")  # the rows, and the field with its own file
_APART = ("parts", "insides")  # long, and read only by the planner: compressed


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
        InputError: if the file does not exist, is truncated or damaged, is not a profile, or has a newer version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file_of(path, to="Profile.load()").is_file():
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
    except (KeyError, TypeError, ValueError, RecursionError, zlib.error) as error:
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
        version = whole(header["schema_version"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
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
    components = [_with_parts(one) for one in header["components"]]
    insides = _unpacked(header["insides"]) if "insides" in header else []
    unpacked = {**header, "components": components, "insides": insides}
    fields = read_fields(Profile, unpacked, without=_NOT_IN_HEADER)
    profile = Profile(**fields, events=_events(table))
    check_profile(profile)
    return without_strange_advice(profile)


def _with_parts(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "parts": _unpacked(fields["parts"])} if "parts" in fields else fields


def _events(table: pa.Table) -> tuple[Event, ...]:
    columns = [_column(table, name) for name in Event._fields]
    return tuple(map(Event._make, zip(*columns, strict=True)))


def _column(table: pa.Table, name: str) -> list[Any]:
    """Return a column of events; its default if the file is older than the column.

    Raises:
        KeyError, ValueError: if the column is missing, has another type, or holds a value that is not a finite number.
    """
    if name in Event._field_defaults and name not in table.column_names:
        return [Event._field_defaults[name]] * table.num_rows
    column, kind = table.column(name), _event_schema().field(name).type
    values: list[Any] = column.to_pylist()
    if column.type != kind or column.null_count:
        raise ValueError(f"its column {name} does not hold {kind} throughout")
    if isinstance(values[0] if values else 0, float) and not all(map(math.isfinite, values)):
        raise ValueError(f"its column {name} holds what is no number")
    return values
