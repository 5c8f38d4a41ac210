"""Atomic writing of files: whole or not at all.

Every writer of this toolkit uses `replacing`: the content is written under a temporary name in the same folder and
replaces the old file in one step, so an interruption or a full disk never leaves half a file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.checking.given import file_of
from profiler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an exception.

    Raises:
        InputError: if `path` is a folder or a device, or its folder is missing or cannot be written.
    """
    target = _checked_target(file_of(path, to="save()"))
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; try another path"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` if `path` could not be written; to check before long work, not after."""
    target = _checked_target(path)
    try:
        # A file is created and removed again: permission bits do not reveal read-only file systems.
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; try another path") from error


def _checked_target(path: str | os.PathLike[str]) -> Path:
    """Return `path` with links resolved: a replacement would otherwise replace the link itself."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give a file name inside it")
    if target.exists() and not target.is_file():
        raise InputError(f"cannot write {path}: it is not a regular file; try another path")
    if not target.parent.is_dir():
        raise InputError(
            f"cannot write {path}: the folder {target.parent} does not exist; create it first"
        )
    return target
