"""The log of a piece of code's requests to a virtual GPU, recorded once and replayed without the code.

A log holds requests for memory, what was freed, kernels' workspaces, launches, and copies over the link. Anything else
that the code does to the GPU, or reads from it (a value, a point in time), makes the log unusable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.patching import Patches
from profiler.virtual.copies import LinkCopy
from profiler.virtual.storage import Storage
from profiler.virtual.workspaces import Workspace

if TYPE_CHECKING:
    from profiler.allocator.blocks import Block
    from profiler.virtual.device import Device


class StorageUse(NamedTuple):
    """A kernel's workspace, allocated and freed.

    Attributes:
        workspace: its size.
        soft: whether the kernel runs without it if it does not fit.
        rest: the workspace's bounds and smaller plans, which distinguish it from another one of the same size.
    """

    workspace: Workspace
    soft: bool
    rest: tuple[int, ...]


def use_of(workspace: Workspace, *, soft: bool) -> StorageUse:
    """Return the log item for a workspace."""
    return StorageUse(workspace, soft, (workspace.least, workspace.most, *workspace.smaller))


Item = int | float | StorageUse
"""Bytes allocated; -i for the i-th last allocation, freed; seconds of a launch; a kernel's workspace."""


class LoggedStretch(NamedTuple):
    """Requests up to a copy, at which its observers read the GPU.

    Attributes:
        items: the requests.
        copy: the copy over the link after them; None after the last ones.
        pinned: whether the copy's host end is pinned memory.
    """

    items: tuple[Item, ...]
    copy: LinkCopy | None = None
    pinned: bool = False


class Log(NamedTuple):
    """The recorded requests.

    Attributes:
        stretches: the requests.
        survivors: the allocations that were not freed.
        operators: the number of operators that ran.
    """

    stretches: tuple[LoggedStretch, ...]
    survivors: tuple[int, ...]
    operators: int


class LogRecorder:
    """Records a log of what runs inside `watching`.

    Attributes:
        refused: the reason why the log is unusable; "" if it is usable.
    """

    def __init__(self, gpu: Device) -> None:
        self.refused = ""
        self._gpu = gpu
        self._stream = gpu.clock.current
        self._operators = gpu.dispatch.operators
        self._stretches: list[LoggedStretch] = []
        self._items: list[Item] = []
        self._births: dict[Block, int] = {}
        self._born = 0
        self._within = False  # something that is recorded as a whole

    def refuse(self, reason: str) -> None:
        """Make the log unusable."""
        self.refused = self.refused or reason

    def log(self) -> Log:
        """Return the log."""
        stretches = (*self._stretches, LoggedStretch(tuple(self._items)))
        operators = self._gpu.dispatch.operators - self._operators
        return Log(stretches, tuple(sorted(self._births.values())), operators)

    def birth_of(self, storage: Storage) -> int | None:
        """Return the index of the allocation that made `storage`; None if it is older, or takes nothing on the GPU."""
        return None if storage.block is None else self._births.get(storage.block)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what happens inside."""
        gpu = self._gpu
        ours: dict[Any, dict[str, Callable[..., Any]]] = {
            gpu.allocator: {"allocate": self._allocate, "free": self._free},
            gpu.clock: {"launch": self._launch},
            gpu.values: {"follow": self._follow},
            gpu: {"use_workspace": self._use_workspace, "cross": self._cross},
        }
        with Patches() as patches:
            for owner, methods in ours.items():
                for name, method in methods.items():
                    patches.replace(owner, name, method)
            for owner, names in _refusals(gpu):
                for name in names:
                    patches.replace(owner, name, self._refusing(owner, name))
            yield

    def _allocate(self, nbytes: int, stream: int = 0) -> Block:
        if self._within:
            return _own(self._gpu.allocator, "allocate", nbytes, stream)
        self._items.append(nbytes)
        block = _own(self._gpu.allocator, "allocate", nbytes, stream)
        self._births[block] = self._born
        self._born += 1
        self._check_stream(stream)
        return block

    def _free(self, block: Block) -> None:
        # A block that Python's garbage collector frees during a request comes back here once the request is served.
        if not self._gpu.allocator.busy:
            index = self._births.pop(block, None)
            if index is not None:
                self._items.append(index - self._born)
            elif not self._within:
                self.refuse("frees what was there before")
        _own(self._gpu.allocator, "free", block)

    def _launch(self, overhead_seconds: float, seconds: float) -> None:
        if not self._within:
            self._items.append(seconds)
            self._check_stream(self._gpu.clock.current)
            if overhead_seconds != self._gpu.launch_seconds:
                self.refuse("launches with an overhead of its own")
        _own(self._gpu.clock, "launch", overhead_seconds, seconds)

    def _use_workspace(self, workspace: Workspace, *, soft: bool) -> None:
        self._items.append(use_of(workspace, soft=soft))
        self._as_a_whole("use_workspace", workspace, soft=soft)

    def _cross(self, copy: LinkCopy, *, pinned: bool) -> None:
        self._stretches.append(LoggedStretch(tuple(self._items), copy, pinned))
        self._items = []
        self._as_a_whole("cross", copy, pinned=pinned)

    def _as_a_whole(self, name: str, *args: Any, **kwargs: Any) -> None:
        outer, self._within = self._within, True
        try:
            _own(self._gpu, name, *args, **kwargs)
        finally:
            self._within = outer

    def _follow(
        self, entry: Any, func: Any, args: Any, kwargs: Any, tensors: Any, result: Any
    ) -> None:
        written = [tensors[index].storage_record for index in entry.writes]
        older = [storage for storage in written if self.birth_of(storage) is None]
        if any(storage.real is not None for storage in older):
            self.refuse("writes to a value that was there before")
        _own(self._gpu.values, "follow", entry, func, args, kwargs, tensors, result)
        if any(storage.real is not None for storage in older):
            self.refuse("gives a value to what was there before")

    def _refusing(self, owner: Any, name: str) -> Callable[..., Any]:
        def refusing(*args: Any, **kwargs: Any) -> Any:
            if not self._within:
                self.refuse(f"calls {name}")
            return _own(owner, name, *args, **kwargs)

        return refusing

    def _check_stream(self, stream: int) -> None:
        if stream != self._stream:
            self.refuse("uses another stream")


def _refusals(gpu: Device) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield what no log can hold: host memory, streams, values, and resets of the statistics."""
    yield gpu.allocator, ("touch", "record_stream", "empty_cache", "reset_peak")
    yield gpu.allocator, ("reset_accumulated",)
    yield gpu.clock, ("add_stream", "at", "mark", "passed", "wait", "reach", "join", "join_all")
    yield gpu.clock, ("copy", "spend", "exposed_seconds")
    yield gpu.host, ("take", "give", "touch", "pin", "record", "take_peak")
    yield gpu.host.pinned, ("free", "empty_cache", "stats", "reset_peak", "reset_accumulated")
    yield gpu.values, ("known", "read")
    yield gpu, ("set_stream",)


def _own(owner: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call the class's method, past its replacement on the instance."""
    return getattr(type(owner), name)(owner, *args, **kwargs)
