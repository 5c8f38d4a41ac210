"""A function in a process of its own, which begins as a new interpreter.

Each process begins without a CUDA context; one that crashes or hangs takes nothing with it. None is forked: diffusers
asks for the number of GPUs while it is imported, and after that question torch refuses CUDA in every fork ("Cannot
re-initialize CUDA in forked subprocess"). So each imports torch anew, which takes seconds.
"""

from __future__ import annotations

import multiprocessing
import traceback
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection


_SECONDS_TO_END = 20.0


class FailedError(Exception):
    """Why a process gave no result."""


class Apart:
    """A running call of `function(*arguments)` in another process."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_answer, args=(theirs, function, arguments), daemon=True
        )
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
