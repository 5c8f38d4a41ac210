"""What an operator allocates besides its outputs, step by step.

A positive number allocates a block of so many bytes, a negative one frees the last block of that size that is held, and
an `Output` makes one of the outputs. `OUTPUT` makes all that are left; without it they are made after the last
`Output`, or before all steps. Blocks that no step frees are freed at the end, the last one first. So `(8,)` is a block
beside the output, and `(8, OUTPUT)` one that is there before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from profiler.allocator.blocks import Block


class Output(NamedTuple):
    """The output of an operator that is made at this step, by its position; all that are left if it is negative."""

    position: int


OUTPUT = Output(-1)

Steps = tuple[int | Output, ...]


def around_work(steps: Steps) -> tuple[Steps, tuple[int, ...]]:
    """Return the steps until the kernel runs, outputs among them, and those that free its temporaries afterwards."""
    if OUTPUT not in steps:
        made = [index for index, step in enumerate(steps) if isinstance(step, Output)]
        start = made[-1] + 1 if made else 0
        steps = (*steps[:start], OUTPUT, *steps[start:])
    freed: list[int] = []
    for step in reversed(steps):
        if isinstance(step, Output) or step > 0:
            break
        freed.insert(0, step)
    return steps[: len(steps) - len(freed)], tuple(freed)


class HeldBlocks:
    """Blocks that an operator holds for a while.

    Args:
        allocate: returns a block of so many bytes, None for none.
        free: frees a block.
    """

    def __init__(
        self, allocate: Callable[[int], Block | None], free: Callable[[Block], object]
    ) -> None:
        self._allocate = allocate
        self._free = free
        self._held: list[tuple[int, Block]] = []

    def take(self, step: int) -> None:
        """Allocate or free a block."""
        if step > 0:
            block = self._allocate(step)
            if block is not None:
                self._held.append((step, block))
            return
        for index in range(len(self._held) - 1, -1, -1):
            if self._held[index][0] == -step:
                self._free(self._held.pop(index)[1])
                return
        raise AssertionError(f"no block of {-step} bytes is held")

    def free_all(self) -> None:
        """Free whatever is left, the last one first."""
        while self._held:
            self._free(self._held.pop()[1])
