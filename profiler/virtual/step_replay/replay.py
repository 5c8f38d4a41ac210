"""Step replay: after two identical forwards, later calls re-apply the recorded allocations; the model is not run.

The pipeline's loop, its scheduler, and every hook around the forward always run. The forward of a diffusers model is
skipped only if nothing can tell the difference: its arguments, the module in every part and torch's switches are the
same (`module_state.py`), there is no hook and no foreign code inside, it read no value and no clock, changed nothing
that was there before, and two runs wrote the same log (`log.py`). The log's requests are then applied to the allocator
and the clock; if the free blocks are those of an earlier time, only the log's net effect is.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from profiler.patching import Patches
from profiler.virtual.dispatch import Out
from profiler.virtual.step_replay.log import Log, LogRecorder
from profiler.virtual.step_replay.module_state import ModuleState, UnknownStateError, switches
from profiler.virtual.step_replay.player import Player
from profiler.virtual.storage import Holder, Storage
from profiler.virtual.tensor import VirtualTensor

if TYPE_CHECKING:
    from profiler.allocator.blocks import Block
    from profiler.virtual.device import Device

MOST_CALLS = 8  # the most different calls that are remembered for one module
MOST_ATTEMPTS = 4  # runs after which a call that cannot be replayed is no longer recorded

_SCALARS = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class UnknownArgumentError(Exception):
    """An argument that is not a tensor, a scalar, or a list, tuple or dict of them."""


class Result(NamedTuple):
    """The return value of a forward.

    Attributes:
        leaves: for a tensor its metadata, with the index of its storage among the survivors as source; else itself.
        structure: their nesting.
    """

    leaves: tuple[Any, ...]
    structure: TreeSpec


class ForwardCall:
    """One call of a module's forward, for all its occurrences.

    Attributes:
        log, result: the requests and the return value of the last run; None if they cannot be repeated.
        player: plays the log; None until two runs in a row had the same requests and return value.
        attempts: the number of times it was recorded.
    """

    def __init__(self) -> None:
        self.log: Log | None = None
        self.result: Result | None = None
        self.player: Player | None = None
        self.attempts = 0


class Listener(Protocol):
    """A receiver of notifications about forwards that did not run. The log does not see what it reads of the GPU."""

    def begins(self, call: ForwardCall) -> None:
        """Note that a forward begins, or is about to be replayed."""

    def ran(self, call: ForwardCall) -> None:
        """Note that it ran."""

    def replayed(self, call: ForwardCall) -> None:
        """Note that it was replayed: the requests of its recorded run have been repeated."""

    def failed(self, call: ForwardCall) -> None:
        """Note that it did not complete, whether run or replayed."""


class Known:
    """One module's known state, and its calls in that state."""

    def __init__(self, state: ModuleState) -> None:
        self.state = state
        self.calls: dict[Any, ForwardCall] = {}


class Replay:
    """Wraps the forwards of diffusers' models for one virtual GPU.

    Attributes:
        replayed: the number of forwards that were replayed.
        listener: notified of each forward that is recorded, and of each that is replayed.
    """

    def __init__(self, gpu: Device) -> None:
        self.replayed = 0
        self.listener: Listener | None = None
        self._gpu = gpu
        self._known: WeakKeyDictionary[nn.Module, Known] = WeakKeyDictionary()
        self._recorder: LogRecorder | None = None
        self._recorded: frozenset[int] = frozenset()

    def install(self, patches: Patches) -> None:
        """Serve the thread's models."""
        patches.replace(ModelMixin, "__call__", self._calling(ModelMixin.__call__))

    def _calling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `__call__` that puts `_forward` in place of the forward inside the hooks."""

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not self._gpu.here():
                return original(module, *args, **kwargs)
            if self._recorder is not None:
                if id(module) not in self._recorded:
                    self._recorder.refuse("calls a model that is no part of it")
                return original(module, *args, **kwargs)
            slot = _slot(module)
            if slot is None:
                return original(module, *args, **kwargs)
            forward = getattr(module, slot)
            with Patches() as patches:
                patches.replace(module, slot, partial(self._forward, module, forward))
                return original(module, *args, **kwargs)

        return call

    def _forward(
        self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        call = self._call(module, args, kwargs)
        if call is None or call.attempts >= MOST_ATTEMPTS:
            return forward(*args, **kwargs)
        if self.listener is None:
            return self._served(call, module, partial(forward, *args, **kwargs))
        before = self.replayed
        self.listener.begins(call)
        try:
            result = self._served(call, module, partial(forward, *args, **kwargs))
        except BaseException:
            self.listener.failed(call)
            raise
        notify = self.listener.ran if self.replayed == before else self.listener.replayed
        notify(call)
        return result

    def _served(self, call: ForwardCall, module: nn.Module, forward: Callable[[], Any]) -> Any:
        """Repeat what `forward` did before; run it if that is not known."""
        if call.player is not None and call.result is not None:
            self.replayed += 1
            return self._build(call.result, call.player.play(self._gpu))
        return self._recorded_run(call, module, forward)

    def _call(self, module: nn.Module, args: Any, kwargs: Any) -> ForwardCall | None:
        """Return the record of this call in the module's present state; None if there can be none."""
        settings = switches()
        if settings is None:
            return None
        known = self._known.get(module)
        try:
            key = (settings, *self._place(), _key((args, kwargs)))
            if known is None or not known.state.holds():
                known = self._known[module] = Known(ModuleState(module))
        except (UnknownArgumentError, UnknownStateError):
            self._known.pop(module, None)
            return None
        call = known.calls.get(key)
        if call is None:
            while len(known.calls) >= MOST_CALLS:
                known.calls.pop(next(iter(known.calls)))
            call = known.calls[key] = ForwardCall()
        return call

    def _place(self) -> tuple[Any, ...]:
        gpu = self._gpu
        return gpu.clock.current, gpu.has_blas_workspace

    # -- the first times

    def _recorded_run(
        self, call: ForwardCall, module: nn.Module, forward: Callable[[], Any]
    ) -> Any:
        call.attempts += 1
        state = self._known[module].state
        recorder = self._recorder = LogRecorder(self._gpu)
        self._recorded = state.parts
        try:
            with recorder.watching():
                result = forward()
        finally:
            self._recorder = None
        log = recorder.log()
        template = None if recorder.refused else _template(result, recorder, log)
        if template is None or not state.holds():
            call.log = call.result = None
            return result
        if call.log == log and call.result == template:
            call.player = Player(log)
        call.log, call.result = log, template
        return result

    def _build(self, result: Result, blocks: list[Block]) -> Any:
        holders = [Holder(Storage.over(self._gpu, block)) for block in blocks]
        build: Any = self._gpu.dispatch.build
        leaves = [build(leaf, holders) for leaf in result.leaves]
        return tree_unflatten(leaves, result.structure)


def _slot(module: nn.Module) -> str | None:
    """Return the attribute that the innermost hook calls as the module's own forward; None if that is replaced."""
    own = vars(module)
    if getattr(module, "_compiled_call_impl", None) is not None:
        return None
    slot = "_old_forward" if "_hf_hook" in own else "forward"
    forward = own.get(slot)
    if forward is None:
        return slot if slot == "forward" else None
    bare = isinstance(forward, types.MethodType) and forward.__self__ is module
    return slot if bare and forward.__func__ is type(module).forward else None


def _key(value: Any) -> Any:
    """Return the properties of an argument that may change what a forward does.

    Raises:
        UnknownArgumentError: for an argument of an unknown kind.
    """
    kind = type(value)
    if kind is VirtualTensor:
        # Its offset in the storage does not matter: the timestep is another element in every step.
        layout = (value.shape, value.stride(), value.dtype, value.device)
        return *layout, value.storage_record.real is None, value.requires_grad
    if isinstance(value, _SCALARS):
        return kind, value
    if kind is dict:
        return tuple([(_key(name), _key(item)) for name, item in value.items()])
    if kind in (list, tuple):
        return kind, tuple([_key(item) for item in value])
    raise UnknownArgumentError(kind.__name__)


def _template(result: Any, recorder: LogRecorder, log: Log) -> Result | None:
    """Return a template of the result; None if it holds anything but new tensors of unknown value, and scalars."""
    leaves, structure = tree_flatten(result)
    made: list[Any] = []
    used = set()
    for leaf in leaves:
        if type(leaf) is VirtualTensor:
            storage = leaf.storage_record
            birth = recorder.birth_of(storage)
            if birth is None or storage.real is not None or leaf.requires_grad:
                return None
            used.add(birth)
            made.append(_out(leaf, log.survivors.index(birth)))
        elif isinstance(leaf, _SCALARS):
            made.append(leaf)
        else:
            return None
    # Anything else that survives was kept somewhere, as in a cache.
    return Result(tuple(made), structure) if used == set(log.survivors) else None


def _out(tensor: VirtualTensor, source: int) -> Out:
    shape, stride, offset = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
    return Out(source, shape, stride, tensor.dtype, offset, 0, tensor.tag, tensor.device)
