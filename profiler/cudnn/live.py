"""Asks an installed cuDNN through a process of its own, which starts with the first question and ends with Python."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from profiler.cudnn.installed import InstalledCudnn, installed_cudnn
from profiler.cudnn.server import Question

if TYPE_CHECKING:
    from profiler.cudnn.convolution import Convolution

PATIENCE_SECONDS = 60.0
"""How long an answer may take: most take 3 milliseconds; the first one loads 500 MB of libraries."""


class LiveCudnn:
    """One running process.

    Args:
        installed: the cuDNN that it loads.

    Attributes:
        name: `cuDNN 9.20.0`.
    """

    def __init__(self, installed: InstalledCudnn) -> None:
        self.name = installed.name
        paths = [installed.library, installed.folder / "include", *installed.needed()]
        here = str(
            Path(__file__).resolve().parents[2]
        )  # this package, not one in the current folder
        self._process = subprocess.Popen(  # noqa: S603 - our own module, and libraries that are installed
            [sys.executable, "-P", "-m", "profiler.cudnn.server", *map(str, paths)],
            env={**os.environ, "PYTHONPATH": here},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lock = threading.Lock()
        self._replies: dict[str, dict[str, Any]] = {}  # by the line that was sent
        atexit.register(self.close)

    def workspaces(
        self, convolution: Convolution, gpu: dict[str, Any], *, deterministic: bool, tf32: bool
    ) -> list[int] | None:
        """Return what `Heuristics.workspaces` does; None if there is no answer: cuDNN refused, or its process ended."""
        question = Question(convolution.text(), gpu, deterministic, tf32)
        line = json.dumps(question)
        with self._lock:
            if line not in self._replies:
                self._replies[line] = self._ask(line)
        found: list[int] | None = self._replies[line].get("workspaces")
        return found

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _ask(self, line: str) -> dict[str, Any]:
        """Send one line and return the reply; an empty one if the process ended or is silent for too long."""
        asked, replies = self._process.stdin, self._process.stdout
        if asked is None or replies is None or asked.closed:
            return {}
        overdue = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        overdue.start()
        try:
            return _exchange(asked, replies, line)
        except OSError:
            return {}
        finally:
            overdue.cancel()


def _exchange(asked: IO[str], replies: IO[str], line: str) -> dict[str, Any]:
    asked.write(line + "\n")
    asked.flush()
    reply: dict[str, Any] = json.loads(replies.readline() or "{}")
    return reply


def live_cudnn() -> LiveCudnn | None:
    """Return the process of the installed cuDNN, started with the first call; None if none is installed."""
    installed = installed_cudnn()
    return None if installed is None else _started(installed)


@cache
def _started(installed: InstalledCudnn) -> LiveCudnn:
    return LiveCudnn(installed)
