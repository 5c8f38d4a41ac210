"""Freed blocks that other streams still use.

Source: `insert_events`, `process_events` and `synchronize_and_free_events` in PyTorch's
c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from profiler.allocator.blocks import Block
from profiler.allocator.clock import Clock, Mark


class Waits:
    """The freed blocks that wait for streams.

    Attributes:
        queues: for each stream, its blocks and the times at which its work from before their freeing is done.
        used: whether any block ever waited, so that what is reserved depends on time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.queues: dict[int, deque[tuple[Mark, Block]]] = {}
        self.used = False

    def add(self, block: Block, streams: set[int]) -> None:
        """Make `block` wait for `streams`."""
        self.used = True
        for stream in streams:
            queue = self.queues.setdefault(stream, deque())
            queue.append((self._clock.mark(stream), block))
        block.waits = len(streams)

    def over(self) -> Iterator[Block]:
        """Yield the blocks whose streams are done by now."""
        now = self._clock.host
        for stream, queue in list(self.queues.items()):
            while queue and queue[0][0].seconds <= now:
                yield from _passed(queue.popleft()[1])
            if not queue:
                del self.queues[stream]

    def finish(self) -> Iterator[Block]:
        """Make the host wait for every stream that delays a block, and yield the blocks."""
        for queue in self.queues.values():
            for done, block in queue:
                self._clock.reach(done)
                yield from _passed(block)
        self.queues.clear()


def _passed(block: Block) -> Iterator[Block]:
    block.waits -= 1
    if not block.waits:
        yield block
