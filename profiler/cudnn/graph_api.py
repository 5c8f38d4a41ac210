"""cuDNN's graph API through ctypes: descriptors with attributes, as NVIDIA documents it (`cudnnBackend...`).

Runs in a process of its own (`server.py`), and imports nothing but Python's own library.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_C_TYPES: dict[str, Any] = {
    "INT64": ctypes.c_int64,
    "BACKEND_DESCRIPTOR": ctypes.c_void_p,
    "FLOAT": ctypes.c_float,
}  # all others are enumerations


class CudnnError(Exception):
    """An answer of cuDNN's that is no success: what was asked, and its own words."""


class GraphApi:
    """A loaded cuDNN, and the descriptors that were made and not freed.

    Args:
        library: the library that has the graph API.
        needed: libraries that it opens by name, which are loaded first.
        enumerators: those of its header.

    Raises:
        OSError: if it cannot be loaded.
    """

    def __init__(self, library: Path, needed: Iterable[Path], enumerators: dict[str, int]) -> None:
        for path in needed:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self._library.cudnnGetErrorString.restype = ctypes.c_char_p
        self.enumerators = enumerators
        self._made: list[ctypes.c_void_p] = []

    def make(self, kind: str, attributes: Iterable[tuple[str, str, Any]] = ()) -> ctypes.c_void_p:
        """Return a descriptor, finalized if it has attributes: (name, type, value or values).

        Raises:
            CudnnError: if cuDNN refuses an attribute, or all of them.
        """
        made = ctypes.c_void_p()
        number = self.enumerators[f"CUDNN_BACKEND_{kind}_DESCRIPTOR"]
        self._check(
            self._library.cudnnBackendCreateDescriptor(number, ctypes.byref(made)), f"make {kind}"
        )
        self._made.append(made)
        attributes = tuple(attributes)
        for name, type_, value in attributes:
            self._set(made, name, type_, value)
        if attributes:
            self._check(self._library.cudnnBackendFinalize(made), f"finalize {kind}")
        return made

    def numbers(self, descriptor: ctypes.c_void_p, name: str, type_: str, most: int) -> list[int]:
        """Return an attribute that holds up to `most` numbers.

        Raises:
            CudnnError: if there is none.
        """
        values = (_C_TYPES.get(type_, ctypes.c_int) * most)()
        count = self._get(descriptor, name, type_, most, values)
        return list(values)[:count]

    def parts(self, descriptor: ctypes.c_void_p, name: str, kind: str) -> list[ctypes.c_void_p]:
        """Return the descriptors that an attribute holds.

        Raises:
            CudnnError: if there is none.
        """
        count = self._get(descriptor, name, "BACKEND_DESCRIPTOR", 0, None)
        made = [self.make(kind) for _ in range(count)]
        if not made:
            return []
        values = (ctypes.c_void_p * count)(*[one.value for one in made])
        got = self._get(descriptor, name, "BACKEND_DESCRIPTOR", count, values)
        return made[:got]

    def free(self, *, keep: int = 0) -> None:
        """Free all descriptors but the first `keep`, the last one first."""
        while len(self._made) > keep:
            self._library.cudnnBackendDestroyDescriptor(self._made.pop())

    @property
    def made(self) -> int:
        """The number of descriptors that are not freed."""
        return len(self._made)

    def _set(self, descriptor: ctypes.c_void_p, name: str, type_: str, value: Any) -> None:
        if isinstance(value, bytes):
            values: Any = value
        else:
            listed = value if isinstance(value, tuple) else (value,)
            plain = [one.value if isinstance(one, ctypes.c_void_p) else one for one in listed]
            values = (_C_TYPES.get(type_, ctypes.c_int) * len(plain))(*plain)
        status = self._library.cudnnBackendSetAttribute(
            descriptor,
            self.enumerators[f"CUDNN_ATTR_{name}"],
            self.enumerators[f"CUDNN_TYPE_{type_}"],
            ctypes.c_int64(len(values)),
            values,
        )
        self._check(status, f"set {name}")

    def _get(
        self, descriptor: ctypes.c_void_p, name: str, type_: str, most: int, values: Any
    ) -> int:
        count = ctypes.c_int64()
        status = self._library.cudnnBackendGetAttribute(
            descriptor,
            self.enumerators[f"CUDNN_ATTR_{name}"],
            self.enumerators[f"CUDNN_TYPE_{type_}"],
            ctypes.c_int64(most),
            ctypes.byref(count),
            values,
        )
        self._check(status, f"get {name}")
        return count.value

    def _check(self, status: int, what: str) -> None:
        if status:
            words = self._library.cudnnGetErrorString(status).decode(errors="replace")
            raise CudnnError(f"{what}: {words}")
