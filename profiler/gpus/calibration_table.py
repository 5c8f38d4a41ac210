"""The record of one calibrated GPU and its file format: plain TOML, one line per operator.

An operator is identified by its signature (`virtual/operators/signatures.py`): the operator, and dtype, shape and
layout of its arguments.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.atomic import write_text
from profiler.errors import InputError

if TYPE_CHECKING:
    import os

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class KernelCost:
    """The cost of one operator beyond its arguments and results."""

    workspace_bytes: int
    seconds: float
    backend: str = ""  # for attention: the one that torch chose on that GPU


@dataclass(frozen=True, kw_only=True)
class CopyCost:
    """The best of several copies of one size."""

    way: str  # "h2d" or "d2h"
    pinned: bool
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Constants of the cost model as measured runs on one machine gave them."""

    launch_seconds: float  # of the host, per launched kernel
    kernels: float  # factor on what kernels reach of the data sheet
    h2d_bytes_per_second: float  # from pageable memory
    d2h_bytes_per_second: float
    fitted_on: tuple[str, ...]  # a phrase for each run


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The table of one GPU."""

    gpu: str  # the driver's name for it
    compute_capability: tuple[int, int]
    total_memory_bytes: int
    date: str
    versions: dict[str, str] = field(default_factory=dict)  # torch, cuda, cudnn, driver
    dry: bool = False  # measured on a virtual GPU, to try the command
    context_bytes: dict[str, int] = field(
        default_factory=dict
    )  # what the driver shows as used, less reserved, by stage
    launch_seconds: float = 0.0
    copies: tuple[CopyCost, ...] = ()
    kernels: dict[str, KernelCost] = field(default_factory=dict)  # by signature
    failed: dict[str, str] = field(default_factory=dict)  # signature to error message
    fitted: Fitted | None = None  # by `vram calibrate --from`

    @property
    def architecture(self) -> str:
        """The name that compilers use: `sm_90`."""
        return "sm_{}{}".format(*self.compute_capability)

    @property
    def file_name(self) -> str:
        """The file name in a folder of tables: it begins with the architecture, by which tables are looked up."""
        return f"{self.architecture}-{re.sub(r'[^a-z0-9]+', '-', self.gpu.lower()).strip('-')}.toml"

    def bytes_per_second(self, way: str, *, pinned: bool) -> float | None:
        """Return the best rate of the copies of one kind, or None if there are none."""
        rates = [
            copy.bytes / copy.seconds
            for copy in self.copies
            if (copy.way, copy.pinned) == (way, pinned) and copy.seconds > 0
        ]
        return max(rates, default=None)

    def __str__(self) -> str:
        stack = ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)
        return f"{self.gpu}, {self.date}" + (f" ({stack})" if stack else "")


def load(path: str | os.PathLike[str]) -> Calibration:
    """Return the table that `save` wrote to `path`.

    Raises:
            InputError: if `path` holds no table, or one of a newer version.
    """
    try:
        facts = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        version = facts["schema_version"]
        if version == SCHEMA_VERSION:
            return _read(facts)
    except (
        OSError,
        UnicodeDecodeError,
        tomllib.TOMLDecodeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"{path} is no calibration table ({str(error) or type(error).__name__}): "
            "`vram calibrate` writes them; take it away, or measure again"
        ) from error
    raise InputError(
        f"{path} is a calibration table of version {version}, this vram reads {SCHEMA_VERSION}"
    )


def save(table: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a table to `path`, completely or not at all.

    Raises:
        InputError: if `path` cannot be written.
    """
    write_text(path, _text(table))


def _read(facts: dict[str, Any]) -> Calibration:
    gpu = facts["card"]
    major, minor = gpu["compute_capability"]
    return Calibration(
        gpu=gpu["name"],
        compute_capability=(int(major), int(minor)),
        total_memory_bytes=gpu["total_memory_bytes"],
        date=facts["date"],
        dry=facts["dry"],
        versions=dict(facts["versions"]),
        context_bytes=dict(facts["context_bytes"]),
        launch_seconds=facts["launch_seconds"],
        copies=tuple(CopyCost(**copy) for copy in facts.get("copies", ())),
        kernels={
            signature: KernelCost(**cost) for signature, cost in facts.get("kernels", {}).items()
        },
        failed=dict(facts.get("failed", {})),
        fitted=_fitted(facts.get("fitted")),
    )


def _fitted(facts: dict[str, Any] | None) -> Fitted | None:
    if facts is None:
        return None
    numbers = {name: float(value) for name, value in facts.items() if name != "fitted_on"}
    if not all(0 < value < 1e15 for value in numbers.values()):
        raise ValueError("a constant of [fitted] is no positive number")
    return Fitted(fitted_on=tuple(map(str, facts["fitted_on"])), **numbers)


def _text(table: Calibration) -> str:
    head = {
        "schema_version": SCHEMA_VERSION,
        "date": table.date,
        "dry": table.dry,
        "launch_seconds": table.launch_seconds,
    }
    gpu = {
        "name": table.gpu,
        "compute_capability": list(table.compute_capability),
        "total_memory_bytes": table.total_memory_bytes,
    }
    lines = ["# What was measured on one GPU, by `vram calibrate`.", *_pairs(head)]
    for name, values in (
        ("card", gpu),
        ("versions", table.versions),
        ("context_bytes", table.context_bytes),
    ):
        lines += ["", f"[{name}]", *_pairs(values)]
    if table.fitted is not None:
        facts = vars(table.fitted) | {"fitted_on": list(table.fitted.fitted_on)}
        lines += ["", "[fitted]", *_pairs(facts)]
    for copy in table.copies:
        lines += ["", "[[copies]]", *_pairs(vars(copy))]
    kernels = {signature: _known(vars(cost)) for signature, cost in sorted(table.kernels.items())}
    lines += ["", "[kernels]", *_pairs(kernels), "", "[failed]", *_pairs(table.failed)]
    return "\n".join(lines) + "\n"


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != ""}


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{_quoted(name)} = {_value(value)}" for name, value in values.items()]


def _value(value: Any) -> str:
    """Return a value in TOML notation."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(_pairs(value)) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _string(text: str) -> str:
    """Return a basic TOML string; control characters, which it must not contain, become spaces."""
    plain = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
