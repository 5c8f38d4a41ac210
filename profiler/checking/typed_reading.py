"""Reading of plain data from a file into records, each value with the very type that its field declares.

Output of `dataclasses.asdict` that went through JSON is read by the records' own annotations: lists become tuples
again, whole numbers stay whole, and numbers that are not finite are refused. An unknown field is ignored, since a later
version may have added it; a missing one takes its default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_Reader = Callable[[Any], Any]
_LARGEST = 1 << 63  # whole numbers are bytes, counts and nanoseconds


class _MisreadError(ValueError):
    """A value that does not have its declared type, with its place in the file."""

    def __init__(self, complaint: str, place: str = "") -> None:
        super().__init__(f"{place} {complaint}".strip())
        self.complaint, self.place = complaint, place

    def below(self, place: str) -> _MisreadError:
        joined = f"{place}{self.place}" if self.place.startswith("[") else f"{place}.{self.place}"
        return _MisreadError(self.complaint, joined.removesuffix("."))


def read(kind: Any, value: Any) -> Any:
    """Return `value` as a record of `kind`, a dataclass or a named tuple.

    Raises:
        ValueError: if it is not such a record; the message names the field and the value.
    """
    return _reader(kind)(value)


def read_fields(kind: Any, record: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass `kind` that `record` has, each with its type, except those in `without`.

    Raises:
        ValueError: as `read`, and if a field without a default is missing.
    """
    if not isinstance(record, Mapping):
        raise _MisreadError(f"is {_shown(record)}, not an object")
    fields = {}
    for name, (reader, required) in _fields(kind).items():
        if name in without:
            continue
        if name in record:
            fields[name] = _within(name, reader, record[name])
        elif required:
            raise _MisreadError("is missing", name)
    return fields


@cache
def _fields(kind: Any) -> dict[str, tuple[_Reader, bool]]:
    hints = get_type_hints(kind)
    return {
        one.name: (
            partial(_size, _reader(hints[one.name]))
            if one.name.endswith("_bytes")
            else _reader(hints[one.name]),
            one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING,
        )
        for one in dataclasses.fields(kind)
        if one.init
    }


def _within(place: str, reader: _Reader, value: Any) -> Any:
    try:
        return reader(value)
    except _MisreadError as error:
        raise error.below(place) from None


@cache
def _reader(kind: Any) -> _Reader:
    """Return the reader for values of this type."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if hasattr(kind, "__dataclass_fields__"):
        return partial(_record, kind)
    if hasattr(kind, "_fields"):
        return partial(_row, kind, tuple(map(_reader, get_type_hints(kind).values())))
    return _generic(get_origin(kind), get_args(kind))


def _generic(origin: Any, inner: tuple[Any, ...]) -> _Reader:
    """Return the reader for values of a type with inner types."""
    if origin is tuple and inner[1:] == (...,):
        return partial(_items, _reader(inner[0]))
    if origin is tuple:
        return partial(_row, lambda *values: values, tuple(map(_reader, inner)))
    if origin is dict:
        return partial(_mapping, _reader(inner[1]))
    assert origin in (Union, UnionType), origin
    (other,) = (_reader(one) for one in inner if one is not NoneType)
    return lambda value: None if value is None else other(value)


def _record(kind: Callable[..., Any], value: Any) -> Any:
    return kind(**read_fields(kind, value))


def _items(reader: _Reader, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _MisreadError(f"is {_shown(value)}, not a list")
    return _each((reader,) * len(value), value)


def _row(make: Callable[..., Any], readers: tuple[_Reader, ...], value: Any) -> Any:
    if not isinstance(value, list) or len(value) != len(readers):
        raise _MisreadError(f"is {_shown(value)}, not a list of {len(readers)}")
    return make(*_each(readers, value))


def _each(readers: tuple[_Reader, ...], values: list[Any]) -> tuple[Any, ...]:
    """Return the values as read; since lists are long, the place is worked out only if one is misread."""
    pairs = list(zip(readers, values, strict=True))
    try:
        return tuple([reader(value) for reader, value in pairs])
    except _MisreadError:
        return tuple(
            _within(f"[{place}]", reader, value) for place, (reader, value) in enumerate(pairs)
        )


def _mapping(reader: _Reader, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _MisreadError(f"is {_shown(value)}, not an object")
    return {name: _within(f"[{name!r}]", reader, one) for name, one in value.items()}


def whole(value: Any) -> int:
    """Return `value` as a whole number of 64 bits.

    Raises:
        ValueError: if it is not one.
    """
    if type(value) is not int or not -_LARGEST <= value < _LARGEST:
        raise _MisreadError(f"is {_shown(value)}, not a whole number of 64 bits")
    return value


def _size(reader: _Reader, value: Any) -> Any:
    """Return the value of a field of bytes, which is never negative."""
    size = reader(value)
    if size is not None and size < 0:
        raise _MisreadError(f"is {_shown(value)}, less than no bytes")
    return size


def _number(value: Any) -> float:
    if type(value) is int and -_LARGEST <= value < _LARGEST:
        return float(value)
    if type(value) is not float or not math.isfinite(value):
        raise _MisreadError(f"is {_shown(value)}, not a finite number")
    return value


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise _MisreadError(f"is {_shown(value)}, not true or false")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _MisreadError(f"is {_shown(value)}, not text")
    return value


def _anything(value: Any) -> Any:
    """Return plain data of any kind; refuse numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _MisreadError(f"is {value}, not a finite number")
    for one in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _anything(one)
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


_PLAIN: dict[Any, _Reader] = {
    int: whole,
    float: _number,
    bool: _truth,
    str: _text,
    Any: _anything,
}
