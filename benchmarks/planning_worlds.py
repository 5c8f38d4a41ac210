"""Search problems like those that planning makes, at random and at real scale, without a pipeline behind them.

A world is a pipeline's call: text encoders run once, one after the other; denoisers alternate for some steps; the VAE
decodes. A component chooses who evicts it (`SequenceRule`), and how many of its blocks stay while it is on the GPU;
the others are streamed, two at a time, beside the computing. Figures are invented, their sizes are those of the
catalogue: 0.1 to 24 GB a component, 2 to 60 blocks, copies at 5 to 25 GB/s.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from profiler.allocator.pinned import round_pinned
from profiler.planning.search.solver import Option, Problem
from profiler.planning.sequence_rule import EXCLUDED, LAST, OUTSIDE, SequenceRule

MB = 1_000_000
GB = 1000 * MB
_GROUPS = (1, 2, 4, 8, 16)  # blocks that are moved together, without a stream


class Part(NamedTuple):
    """A component."""

    name: str
    blocks: int
    block_bytes: int
    rest_bytes: int  # beside the blocks
    entry_nanoseconds: int  # what it computes each time it runs

    @property
    def bytes(self) -> int:
        """All of its weights."""
        return self.rest_bytes + self.blocks * self.block_bytes


class Moment(NamedTuple):
    """Who runs, and what is on the GPU beside weights."""

    entry: int
    name: str
    floating_bytes: int


@dataclass(frozen=True)
class World:
    """Components, their entries in order, and the moments."""

    parts: tuple[Part, ...]
    entries: tuple[str, ...]
    moments: tuple[Moment, ...]
    bytes_per_second: int

    def problems(self) -> list[Problem]:
        """Return the two problems that planning makes: excluded components travel, or stay."""
        return [self._problem(sticky=sticky) for sticky in (False, True)]

    def _problem(self, *, sticky: bool) -> Problem:
        parts = sorted(self.parts, key=lambda part: -part.bytes)
        rule = SequenceRule(tuple(part.name for part in parts), some_excluded=sticky)
        return Problem(
            decisions=tuple(self._options(part, sticky=sticky) for part in parts),
            base=tuple(moment.floating_bytes for moment in self.moments),
            step=rule.step,
            start=rule.start,
            penalty=int(sticky),
            base_uses=(0,),
        )

    def _options(self, part: Part, *, sticky: bool) -> tuple[Option, ...]:
        others = [other.name for other in self.parts if other.name != part.name]
        options: list[Option] = []
        for key in (EXCLUDED, OUTSIDE, LAST, *others):
            stay = _Stay(self, part, key, sticky=sticky)
            options += [stay.resident_blocks(kept) for kept in range(part.blocks + 1)]
            if key == OUTSIDE:
                options += [
                    stay.groups(size, pinned=pinned) for size in _GROUPS for pinned in (False, True)
                ]
            options += [stay.pinned(), stay.half()]
        return tuple(options)


class _Stay:
    """The moments that one component spends on the GPU under one key, and the ways to spend them."""

    def __init__(self, world: World, part: Part, key: str, *, sticky: bool) -> None:
        self._world, self._part, self._key = world, part, key
        self._always = key == EXCLUDED
        on, self._moves, self._there = self._always, 0, []
        for entry, name in enumerate(world.entries):
            if name == key:
                on = False
            if name == part.name and not on:
                on = True
                self._moves += 1
            count = sum(moment.entry == entry for moment in world.moments)
            self._there += [(on, name == part.name)] * count
        if self._always and not sticky:
            self._moves = 1  # stock diffusers moves it at the end of every call

    def resident_blocks(self, kept: int) -> Option:
        """Stream all blocks but `kept`."""
        part = self._part
        streamed = (part.blocks - kept) * part.block_bytes
        travelling = 2 * part.block_bytes if streamed else 0
        exposed = max(self._nanoseconds(streamed) - part.entry_nanoseconds, 0)
        stays = part.bytes - streamed
        # Streamed blocks have a pinned copy; what leaves the GPU needs room in the RAM.
        host = streamed + (0 if self._always else stays)
        return self._option(("blocks", kept), (stays, travelling), exposed, host, directions=2)

    def groups(self, size: int, *, pinned: bool) -> Option:
        """Move groups of `size` blocks in turn, waiting for each."""
        part = self._part
        held = min(size, max(part.blocks, 1)) * part.block_bytes
        waited = self._nanoseconds(part.bytes - part.rest_bytes) * (1 if pinned else 2)
        host = round_pinned(part.bytes) if pinned else part.bytes
        return self._option(("groups", size, pinned), (part.rest_bytes, held), waited, host)

    def pinned(self) -> Option:
        """Move the whole from pinned memory, and never back."""
        host = round_pinned(self._part.bytes)
        return self._option(("pinned",), (self._part.bytes, 0), 0, host, directions=1)

    def half(self) -> Option:
        """Store the weights in 8 bits; casting them takes time at each entry."""
        size = self._part.bytes // 2
        cast = self._part.entry_nanoseconds // 10
        return self._option(("8 bits",), (size, 2 * self._part.block_bytes), cast, size)

    def _option(
        self,
        label: tuple[object, ...],
        load: tuple[int, int],
        waited: int,
        host: int,
        *,
        directions: int = 2,
    ) -> Option:
        """Make an option of what is loaded throughout and while it runs, and of what each entry waits for."""
        stays, while_running = load
        loads = tuple(
            (stays if on else 0) + (while_running if running else 0) for on, running in self._there
        )
        entered = self._world.entries.count(self._part.name)
        cost = entered * waited + self._moves * directions * self._nanoseconds(stays)
        penalty = int(label[0] != "blocks") + int(self._key == OUTSIDE)
        return Option(self._key, cost, loads, penalty, (host,), label)

    def _nanoseconds(self, size: int) -> int:
        return size * 10**9 // self._world.bytes_per_second


def world(seed: int, *, components: int = 8, most_blocks: int = 60) -> World:
    """Return a random world; equal seeds give equal worlds."""
    chance = random.Random(seed)  # noqa: S311
    loop = chance.randint(1, min(3, components - 1))
    after = chance.randint(1, min(2, components - loop))
    before = components - loop - after
    kinds = [("encoder", before), ("denoiser", loop), ("decoder", after)]
    parts = [
        _part(chance, f"{kind}_{index}", most_blocks, heavy=kind == "denoiser")
        for kind, count in kinds
        for index in range(count)
    ]
    names = [part.name for part in parts]
    steps = chance.randint(4, 25)
    # Prompts and frames are often taken one after the other.
    rounds = {
        name: chance.choice((1, 1, 2, 8)) for name in (*names[:before], *names[before + loop :])
    }
    entries = [name for name in names[:before] for _ in range(rounds[name])]
    entries += names[before : before + loop] * steps
    entries += [name for name in names[before + loop :] for _ in range(rounds[name])]
    if chance.random() < 0.5:  # image to image: the decoder's own encoder runs first
        entries.insert(chance.randint(0, len(entries) // 2), names[-1])
    return World(
        tuple(parts),
        tuple(entries),
        tuple(_moments(chance, entries)),
        chance.randint(5, 25) * GB,
    )


def _part(chance: random.Random, name: str, most_blocks: int, *, heavy: bool) -> Part:
    size = int((chance.uniform(1, 24) if heavy else 10 ** chance.uniform(-1, 1.1)) * GB)
    blocks = chance.randint(max(most_blocks // 3, 1), most_blocks) if heavy or size > GB else 2
    block_bytes = int(size * chance.uniform(0.85, 0.98)) // blocks // 512 * 512
    rest_bytes = (size - blocks * block_bytes) // 512 * 512
    speed = chance.uniform(5, 200) * GB  # of the weights that pass through the cores in a second
    return Part(name, blocks, block_bytes, rest_bytes, int(size * 10**9 / speed))


def _moments(chance: random.Random, entries: list[str]) -> list[Moment]:
    """Return one to four moments for each entry; a component's activations differ little between its entries."""
    usual = {name: chance.uniform(0.05, 4) * GB for name in entries}
    kept = list(accumulate(chance.randint(0, 20 * MB) for _ in entries))
    moments = []
    for entry, name in enumerate(entries):
        for _ in range(chance.randint(1, 4)):
            floating = int(usual[name] * chance.uniform(0.5, 1)) + kept[entry]
            moments.append(Moment(entry, name, floating // 512 * 512))
    return moments
