"""A file is written whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from profiler.atomic import check_writable, replacing, write_text
from profiler.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])


def test_a_link_keeps_pointing_at_the_file_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")

    write_text(tmp_path / "link.txt", "new")

    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "it is a folder"),
        ("missing/a.txt", "does not exist"),
        ("/dev/null", "not a regular file"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_clear_line(
    tmp_path: Path, name: str, complaint: str
) -> None:
    for write in (check_writable, lambda path: write_text(path, "x")):
        with pytest.raises(InputError, match=complaint) as caught:
            write(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_system_error_while_writing_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left"), replacing(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []
