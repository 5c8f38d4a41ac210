"""Exceptions from outside: one raised at a chosen line, as a Ctrl-C is, or by a chosen call of a library."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import profiler

PACKAGE = str(Path(profiler.__file__).parent) + os.sep
VIRTUAL_GPU = tuple(PACKAGE + room + os.sep for room in ("virtual", "allocator"))
"""Stand for what a real GPU and its driver do, which no exception interrupts."""


class Interrupter:
    """Follows an action, and interrupts it at one of the package's lines.

    Args:
        at: Which line, counted from 1 as they are run; 0 for none.
        but: Begins the names of files whose lines do not count.
        interrupt: What is done there.

    Attributes:
        lines: How many were run.
    """

    def __init__(
        self,
        at: int = 0,
        *,
        but: tuple[str, ...] = (),
        interrupt: Callable[[], object] | None = None,
    ) -> None:
        self.lines = 0
        self._at, self._but, self._interrupt = at, but, interrupt or _raise

    def run(self, action: Callable[[], object]) -> Interrupter:
        """Do `action`, which the interrupt may end."""
        before = sys.gettrace()
        sys.settrace(self._follow)
        try:
            action()
        except KeyboardInterrupt:
            assert self._at
        finally:
            sys.settrace(before)
        return self

    def _follow(self, frame: Any, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) or name.startswith(self._but):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                self._interrupt()
        return self._follow


def _raise() -> None:
    raise KeyboardInterrupt


def press_ctrl_c() -> None:
    """Send the process what the terminal sends."""
    os.kill(os.getpid(), signal.SIGINT)


def some_lines(count: int, most: int) -> Iterator[int]:
    """Yield at most so many of the lines 1 to `count`, the first, the last and some between; all of them if it is 0."""
    if not most or count <= most:
        yield from range(1, count + 1)
    else:
        yield from sorted({1 + round(i * (count - 1) / (most - 1)) for i in range(most)})


def interrupt_everywhere(
    act: Callable[[], object],
    is_as_before: Callable[[], bool],
    put_back: Callable[[], object],
    *,
    most: int,
    interrupt: Callable[[], object] | None = None,
    but: tuple[str, ...] = (),
) -> list[int]:
    """Interrupt `act` at its lines, and check that all is as before, at once or after `put_back`.

    Args:
        act: What is interrupted.
        is_as_before: Whether nothing of it is left.
        put_back: What a user would do next.
        most: How many of the lines; all of them if it is 0.
        interrupt: What is done there; an exception if not given.
        but: Begins the names of files whose lines do not count.

    Returns:
        The lines at which `put_back` was needed.
    """
    act()  # what is worked out once and kept is not counted
    put_back()
    count = Interrupter(but=but).run(act).lines
    put_back()
    assert is_as_before(), "not interrupted at all"
    needed = []
    for at in some_lines(count, most):
        Interrupter(at, interrupt=interrupt, but=but).run(act)
        if not is_as_before():
            needed.append(at)
        put_back()
        assert is_as_before(), f"interrupted at line {at} of {count}"
    tried = len(list(some_lines(count, most)))
    print(f"{tried} of {count} lines interrupted, {len(needed)} needed a second time: {needed}")
    return needed


class Failing:
    """Lets one call fail that the code of a file makes to others.

    Args:
        at: Which call, counted from 1.
        file: Where the code is.
        function: Which function of it; each if not given.

    Attributes:
        calls: How many there were.
    """

    def __init__(self, at: int, file: str, function: str = "") -> None:
        self.calls = 0
        self._at, self._file, self._function = at, file, function

    def run(self, action: Callable[[], object]) -> bool:
        """Do `action`, and return whether it failed."""
        sys.setprofile(self._called)
        try:
            action()
        except MemoryError:
            return True
        finally:
            sys.setprofile(None)
        return False

    def _called(self, frame: Any, event: str, function: Any) -> None:
        if event == "call":
            caller, called = frame.f_back, frame.f_code.co_filename
        elif event == "c_call" and _is_of_torch(function):
            caller, called = frame, "torch"
        else:
            return
        if caller is None or called == self._file or frame.f_code.co_name == "__del__":
            return
        code = caller.f_code
        if code.co_filename == self._file and self._function in {"", code.co_name}:
            self.calls += 1
            if self.calls == self._at:
                raise MemoryError("no room in the middle of it")


def _is_of_torch(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    names = (getattr(function, "__module__", None), type(owner).__module__)
    return any(str(name).startswith("torch") for name in names)
