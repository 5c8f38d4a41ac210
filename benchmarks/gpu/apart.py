"""A function in a process of its own, forked from one that has imported torch and never touched the GPU.

Each process begins without a CUDA context, at no cost of imports; one that crashes or hangs takes nothing with it.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from above import FOLDERS

from profiler.errors import ProfilerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection


_SECONDS_TO_END = 20.0


class FailedError(Exception):
    """Why a process gave no result."""


class Apart:
    """A running call of `function(*arguments)` in another process."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["at_hand"])
        self._ours, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_answer, args=(theirs, function, arguments), daemon=True
        )
        with _found_by_name():
            self._process.start()
        theirs.close()

    def result(self, *, seconds: float) -> Any:
        """Return what the function returned.

        Raises:
            FailedError: if it raised, the process died, or `seconds` were not enough.
        """
        try:
            if not self._ours.poll(max(seconds, 0.0)):
                raise FailedError(f"took longer than {seconds:.0f} s")
            done, answer = self._ours.recv()
            self._process.join(
                _SECONDS_TO_END
            )  # what it registered is given back only if it ends by itself
        except EOFError:
            self._process.join()
            raise FailedError(f"the process ended with {self._process.exitcode}") from None
        finally:
            self.stop()
        if not done:
            raise FailedError(answer)
        return answer

    def stop(self) -> None:
        """End the process, whether it is done or not."""
        self._process.kill()
        self._process.join()


@contextmanager
def _found_by_name() -> Iterator[None]:
    """Let the fork server, which imports by name, find the modules beside this one and one folder up."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join((*FOLDERS, *([] if before is None else [before])))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _answer(
    connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    try:
        connection.send((True, function(*arguments)))
    except BaseException as error:  # noqa: BLE001  # told to the process that asked
        connection.send((False, _told(error)))


def _told(error: BaseException) -> str:
    """Return what an error says; with its place, unless it was written for the user."""
    if isinstance(error, ProfilerError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno}: {str(error)[:500]}"
