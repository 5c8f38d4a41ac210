"""The groups that diffusers' group offload makes of a component, derived from the record of its parts.

Source: `_apply_group_offloading_block_level` and `_apply_group_offloading_leaf_level` in diffusers 0.42.1,
hooks/group_offloading.py. A test compares them with the hooks that diffusers attaches to real models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from profiler.record.components import Component

ROOT = 0
"""Index of the component itself among its parts."""


class Group(NamedTuple):
    """Tensors that move together; parts and tensors by index."""

    path: str  # of the module that identifies the group
    tensors: tuple[int, ...]  # in the order in which they are sent
    loose_buffers: tuple[int, ...]  # buffers that the group lists and its modules have, too
    only_listed: tuple[int, ...]  # buffers that the group lists and none of its modules has
    onload_leader: int
    offload_leader: int
    first_parameter: int | None  # the tensor whose device tells whether the group is onloaded
    streams: bool


@dataclass(frozen=True)
class Structure:
    """The groups of one component, and the parts that carry their hooks."""

    groups: tuple[Group, ...]
    hooks: dict[int, int]  # group by part
    lazy: tuple[int, ...]  # parts whose first forward records the order of the groups inside


def structure_of(component: Component, blocks: int, *, stream: bool) -> Structure:
    """Return the groups of `component`.

    Args:
        component: The component to split.
        blocks: Blocks per group at block level; 0 for leaf level.
        stream: Whether the groups are copied on a stream.
    """
    tree = _Tree(component)
    build = _GroupBuilder(tree, blocks, stream=stream)
    if blocks:
        build.block_level(ROOT)
    else:
        build.leaf_level()
    return Structure(tuple(build.groups), build.hooks, tuple(build.lazy))


class _Tree:
    """The parts of a component as a tree."""

    def __init__(self, component: Component) -> None:
        self.parts = component.parts
        self.block_modules = frozenset(component.block_modules)
        self.index = {part.path: number for number, part in enumerate(self.parts)}
        self._children: dict[str, list[int]] = {}
        for number, part in enumerate(self.parts[1:], start=1):
            self._children.setdefault(part.path.rpartition(".")[0], []).append(number)

    def children(self, part: int) -> list[int]:
        return self._children.get(self.parts[part].path, [])

    def below(self, part: int) -> Iterator[int]:
        """Yield the part and all parts inside it, in the order of `named_modules`."""
        yield part
        for child in self.children(part):
            yield from self.below(child)

    def parameters(self, part: int) -> list[int]:
        """Return what `Module.parameters` yields."""
        return _once(tensor for one in self.below(part) for tensor in self.parts[one].parameters)

    def buffers(self, part: int) -> list[int]:
        return _once(tensor for one in self.below(part) for tensor in self.parts[one].buffers)

    def name(self, part: int) -> str:
        return self.parts[part].path.rpartition(".")[2]


class _GroupBuilder:
    def __init__(self, tree: _Tree, blocks: int, *, stream: bool) -> None:
        self.groups: list[Group] = []
        self.hooks: dict[int, int] = {}
        self.lazy: list[int] = []
        self._tree = tree
        self._blocks = 1 if stream else blocks
        self._stream = stream

    def block_level(self, module: int) -> None:
        tree = self._tree
        matched: list[list[int]] = []
        taken: set[int] = set()  # parts whose tensors are in a group, or will be
        unmatched: list[int] = []
        for child in tree.children(module):
            if tree.name(child) in tree.block_modules:
                self.block_level(child)
                taken.add(child)
            elif tree.parts[child].is_list:
                blocks = tree.children(child)
                starts = range(0, len(blocks), self._blocks)
                matched += [blocks[start : start + self._blocks] for start in starts]
                taken.update(blocks)
            else:
                unmatched.append(child)
        for blocks in matched:
            group = self._add(blocks, (), (), blocks[0], blocks[-1], streams=self._stream)
            for block in blocks:
                self.hooks.setdefault(block, group)
        left = list(self._outside(module, taken))
        parameters = _once(tensor for one in left for tensor in tree.parts[one].parameters)
        buffers = _once(tensor for one in left for tensor in tree.parts[one].buffers)
        if unmatched or parameters or buffers:
            group = self._add(unmatched, parameters, buffers, module, module, streams=False)
            self.hooks.setdefault(module, group)
            if self._stream:
                self.lazy.append(module)

    def leaf_level(self) -> None:
        tree = self._tree
        leaves = {number for number in tree.below(ROOT) if tree.parts[number].is_leaf}
        for leaf in sorted(leaves):
            self.hooks[leaf] = self._add([leaf], (), (), leaf, leaf, streams=self._stream)
        seen: set[int] = set()
        for part in self._outside(ROOT, leaves):
            own = tree.parts[part]
            parameters = [tensor for tensor in own.parameters if tensor not in seen]
            buffers = [tensor for tensor in own.buffers if tensor not in seen]
            seen.update(parameters, buffers)
            if parameters or buffers:
                group = self._add([], parameters, buffers, part, part, streams=self._stream)
                self.hooks.setdefault(part, group)
        if self._stream:
            if ROOT not in self.hooks:
                self.hooks[ROOT] = self._add([], (), (), ROOT, ROOT, streams=False)
            self.lazy.append(ROOT)

    def _outside(self, module: int, taken: set[int]) -> Iterator[int]:
        """Yield `module` and the parts below it that are not inside any of `taken`."""
        if module in taken:
            return
        yield module
        for child in self._tree.children(module):
            yield from self._outside(child, taken)

    def _add(
        self,
        modules: list[int],
        parameters: Iterable[int],
        buffers: Iterable[int],
        onload_leader: int,
        offload_leader: int,
        *,
        streams: bool,
    ) -> int:
        tree = self._tree
        parameters, buffers = tuple(parameters), tuple(buffers)
        of_modules = [tensor for one in modules for tensor in tree.parameters(one)]
        held_buffers = [tensor for one in modules for tensor in tree.buffers(one)]
        sent: list[int] = []
        for one in modules:
            sent += [*tree.parameters(one), *tree.buffers(one)]
        firsts = [*of_modules, *parameters]
        self.groups.append(
            Group(
                path=tree.parts[modules[0] if modules else onload_leader].path,
                tensors=tuple(_once([*sent, *parameters, *buffers])),
                loose_buffers=tuple(one for one in buffers if one in held_buffers),
                only_listed=tuple(one for one in buffers if one not in held_buffers),
                onload_leader=onload_leader,
                offload_leader=offload_leader,
                first_parameter=firsts[0] if firsts else None,
                streams=streams,
            )
        )
        return len(self.groups) - 1


def _once(tensors: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(tensors))
