"""A repeated round of calls, predicted from the recorded one.

It starts with the floating bytes that a round leaves behind: cuBLAS's workspace, which the first matrix product
allocates and nothing frees, and what else the pipeline keeps. At each moment of the recorded round some of them were
not allocated yet, and the repeated round has so many more.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.planning.replaying.tape import Op, Stretch


def repeated_round(
    calls: Sequence[Sequence[Op]], workspace_bytes: int
) -> tuple[tuple[Op, ...], ...]:
    """Return the calls of a repeated round.

    Args:
        calls: The operations of each call of the recorded round.
        workspace_bytes: The bytes of cuBLAS's workspace; 0 if unknown.
    """
    levels = [level for ops in calls for op in ops for level in _levels(op)]
    missing = iter(_missing(levels, workspace_bytes))
    return tuple(tuple(_repeated(op, missing) for op in ops) for ops in calls)


def _missing(levels: list[int], workspace_bytes: int) -> list[int]:
    """Return how many of the bytes that are left at the end were not allocated yet at each of these levels.

    What is allocated and never freed is at most the lowest level from then on. The workspace is one block besides: it
    is there from the first rise of its size after which no level falls below it. The levels alone cannot tell it from
    activations of the same size, which may be all that lies below a call's first levels.
    """
    left = levels[-1]
    kept = list(accumulate(reversed(levels), min))[::-1]
    start = 0
    if levels[0] < workspace_bytes <= left:
        rises = enumerate(pairwise(levels), 1)
        start = next(
            (at for at, (low, high) in rises if high - low >= workspace_bytes <= kept[at]), 0
        )
    others_bytes = left - workspace_bytes
    return [left - (min(one, others_bytes) if at < start else one) for at, one in enumerate(kept)]


def _levels(op: Op) -> Iterator[int]:
    """Yield the floating bytes of every moment at which weights may move, in the order of `_repeated`."""
    for stretch in op.gap:
        base_bytes = stretch.base_floating_bytes
        yield base_bytes
        if stretch.inside is not None:
            for visit in stretch.inside.visits:
                yield base_bytes + visit.allocated_bytes
    yield op.before_floating_bytes
    yield op.after_floating_bytes


def _repeated(op: Op, missing: Iterator[int]) -> Op:
    starts = []
    for stretch in op.gap:
        visits = stretch.inside.visits if stretch.inside is not None else ()
        starts.append([next(missing) for _ in range(1 + len(visits))])
    before, after = next(missing), next(missing)
    ends = [*(start[0] for start in starts[1:]), before]
    return op._replace(
        gap=tuple(map(_raised, op.gap, starts, ends)),
        before_floating_bytes=op.before_floating_bytes + before,
        peak_floating_bytes=op.peak_floating_bytes + after,
        after_floating_bytes=op.after_floating_bytes + after,
    )


def _raised(stretch: Stretch, missing: list[int], end: int) -> Stretch:
    """Return a stretch with more bytes at its beginning, at each of its visits, and at its end.

    A peak between two visits counts what is missing at the second one: kernels allocate their workspace before they
    allocate their output is freed.
    """
    base, *at_visits = missing
    base_bytes = stretch.base_floating_bytes + base
    peak_bytes = stretch.peak_floating_bytes + end
    inside = stretch.inside
    if inside is not None and base != end:
        visits = tuple(
            visit._replace(
                peak_bytes=visit.peak_bytes + more - base,
                allocated_bytes=visit.allocated_bytes + more - base,
            )
            for visit, more in zip(inside.visits, at_visits, strict=True)
        )
        inside = inside._replace(visits=visits, peak_bytes=inside.peak_bytes + end - base)
        peak_bytes = max(
            peak_bytes, base_bytes + max((one.peak_bytes for one in visits), default=0)
        )
    return stretch._replace(
        peak_floating_bytes=max(peak_bytes, base_bytes),
        base_floating_bytes=base_bytes,
        inside=inside,
    )
