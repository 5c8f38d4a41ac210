"""The tracer: watches the hooks for the length of a block of code, and returns what it saw as a `Profile`.

It leaves nothing of itself behind: everything that it replaced is restored in reverse order, even after an exception or
Ctrl-C. On a virtual GPU torch's peak statistics are then as without a trace; on a real one they start anew.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary, ref

import torch
from torch import nn

from profiler.checking.given import check_pipeline, check_pipelines
from profiler.errors import InputError, ProfilerError
from profiler.libraries import offload_state as hooks
from profiler.libraries.compiled import uncompiled
from profiler.libraries.modules import components_of, describe, is_denoiser
from profiler.libraries.releases import warn_of_untested
from profiler.libraries.settings_read import settings_of
from profiler.patching import Patches, take_turn
from profiler.pipelines import stand_ins
from profiler.pipelines.sibling import check_shared
from profiler.record.components import Component
from profiler.record.events import Event
from profiler.record.profile import Assumption, Failure, Profile, Totals
from profiler.record.readings import call_seconds
from profiler.record.settings import LAYERWISE_CASTING, Setting
from profiler.tracing.accepted import check_label
from profiler.tracing.binning import Binning
from profiler.tracing.conditions import Conditions
from profiler.tracing.entries import Entries
from profiler.tracing.history import TorchHistory
from profiler.tracing.measured.reader import MeasuredReader
from profiler.tracing.measured.submodules import MeasuredSpans
from profiler.tracing.moves import Moves
from profiler.tracing.phases import Phases
from profiler.tracing.predicted.reader import PredictedReader
from profiler.tracing.predicted.submodules import PredictedSpans
from profiler.tracing.reader import MemoryReader
from profiler.tracing.recorder import Recorder, Span
from profiler.tracing.standing import Stands
from profiler.tracing.submodules import SubmoduleSpans
from profiler.tracing.whose import check_traceable
from profiler.virtual.torch_api.functions import active_gpu

_LIBRARIES = ("torch", "diffusers", "accelerate", "transformers", "bitsandbytes", "vram-profiler")


def trace(
    target: Any,
    *,
    also: Sequence[Any] = (),
    label: dict[str, Any] | None = None,
    memory_history: bool = False,
) -> Trace:
    """Return a context manager that profiles the code inside it.

    After a trace on a real GPU torch's peak statistics start anew: `torch.cuda.max_memory_allocated()` returns the
    highest since the trace ended, and `t.profile.peak` is the highest inside it. Inside, it returns what it would
    return without a trace.

    Args:
        target: a diffusers pipeline, or one module of it. It is held weakly: what the code drops is freed.
        also: other pipelines over components of that one; their calls count as well.
        label: `Profile` fields that the tracer cannot know: `model`, `call`, `call_defaults`, `signatures`, `dtype`.
        memory_history: whether torch records its own history meanwhile, for `profile.memory_history`. If it was
            already recording, it continues with its settings.

    Raises:
        InputError: if `target` is neither, or `label` names no field; on entering, if torch sees no GPU, real or
            virtual, or not the one that the weights are on; if one of `also` has components of its own; if torch's
            allocator has no history; if the trace has been entered before.

    Example:
        >>> with trace(pipe) as t:
        ...     pipe("a cat")
        ...     pipe("a dog")
        >>> t.profile.peak
    """
    return Trace(target, label or {}, also=also, memory_history=memory_history)


class Trace:
    """A running or finished trace; made by `trace`.

    Args:
        target: a pipeline, or one module of it.
        label: fields of the profile.
        reader: makes the memory reader, for tests; the one for the GPU at hand if not given.
        also: other pipelines whose calls count as well.
        memory_history: whether torch records its own history.
    """

    def __init__(
        self,
        target: Any,
        label: dict[str, Any],
        reader: Callable[[], MemoryReader] | None = None,
        also: Sequence[Any] = (),
        *,
        memory_history: bool = False,
    ) -> None:
        if not isinstance(target, nn.Module):
            check_pipeline(target, to="trace()", takes="a loaded diffusers pipeline or a module")
        check_pipelines(also, to="trace(also=...)")
        check_label(label)
        self._make_reader = reader or _reader_at_hand
        self._given: tuple[Any, ...] = (target, *also)  # until the trace begins
        self._label = label
        self._modules = WeakValueDictionary(components_of(target))
        self._patches = Patches()
        self._stands = Stands()
        self._history = TorchHistory(self._modules) if memory_history else None
        self._profile: Profile | None = None

    @property
    def profile(self) -> Profile:
        """The profile.

        Raises:
            ProfilerError: while the block is still running.
        """
        if self._profile is None:
            raise ProfilerError("the profile is there when the `with trace(...)` block has ended")
        return self._profile

    def __enter__(self) -> Self:
        warn_of_untested()
        if self._patches.standing:
            raise InputError("this trace has begun already: enter another one, made by trace(...)")
        try:
            take_turn("a trace", self._patches)
            self._begin()
            return self  # noqa: TRY300  # an interrupt may come here
        except BaseException:
            self._detach()
            raise

    def _begin(self) -> None:
        if not torch.cuda.is_available():
            raise InputError(
                'torch sees no GPU: use profile_pipeline(pipe, gpu="rtx-4090"), which runs a twin of the pipe on a '
                "virtual one"
            )
        check_traceable(self._modules, active_gpu())
        if not self._given:
            raise InputError("this trace has been used: call trace(pipe) again")
        target, *also = self._given
        for other in also:
            check_shared(target, other)
        self._given = ()
        self._prepare(target)
        self._patches.afterwards(self._reader.settle)
        if self._history is not None:
            self._patches.afterwards(self._history.leave)
            self._patches.afterwards(self._history.keep)
            self._history.begin()
            self._recorder.relabel()
        self._watch(target, also)

    def _watch(self, target: Any, also: Sequence[Any]) -> None:
        patches, stands = self._patches, self._stands
        patches.afterwards(stands.restore)
        self._moves.watch(patches, stands)
        patches.afterwards(self._entries.unwatch)
        self._entries.watch(patches, stands, target, also)
        self._watch_device()
        self._binning.watch(patches)
        patches.afterwards(self._spans.unwatch)
        self._spans.watch(patches, self._components, self._recorder.active)
        patches.afterwards(partial(self._reader.unwatch, self._copied))
        self._reader.watch(patches, self._copied)

    def _prepare(self, target: Any) -> None:
        """Create the watching objects, before anything is replaced."""
        self._target = ref(target)
        self._about = _About.of(target, self._modules)
        denoisers = frozenset(name for name, module in self._modules.items() if is_denoiser(module))
        self._denoisers = denoisers
        self._components = tuple(describe(name, module) for name, module in self._modules.items())
        self._reader = self._make_reader()
        self._phases = Phases(denoisers)
        self._spans = _spans_for(self._reader, self._modules)
        self._recorder = Recorder(self._reader, self._phases, self._spans, self._history)
        self._conditions = Conditions(target, self._modules)
        self._entries = Entries(
            self._recorder,
            self._phases,
            self._modules,
            spans=self._spans,
            conditions=self._conditions,
        )
        self._moves = Moves(self._recorder, self._modules)
        self._binning = Binning()
        self._other = {"h2d": 0, "d2h": 0}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._recorder.settle_gone()
        finally:
            self._detach()
        history = None if self._history is None else self._history.result()
        self._profile = replace(self._finished(error), memory_history=history)

    def _detach(self) -> None:
        try:
            self._patches.restore()
        finally:  # which an interrupt may have cut short
            self._patches.restore()

    # -- events besides components and weights

    def _watch_device(self) -> None:
        self._patches.replace(
            torch.cuda, "empty_cache", self._marking("empty_cache", torch.cuda.empty_cache)
        )
        self._patches.replace(
            torch.cuda, "synchronize", self._marking("sync", torch.cuda.synchronize)
        )

    def _marking(self, kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            with self._recorder.span(Span(kind, asked_by=hooks.who_asked())):
                return original(*args, **kwargs)

        return marked

    def _copied(self, source: str, target: str, nbytes: int) -> None:
        if self._recorder.in_span and not self._recorder.sending:
            return  # weights, counted in their move
        self._other["h2d" if target == "cuda" else "d2h"] += nbytes
        component = self._recorder.active[-1] if self._recorder.active else ""
        devices = {"cpu": "cpu", "cuda": "cuda:0"}
        self._recorder.instant(
            Span(
                "copy",
                component,
                bytes=nbytes,
                from_device=devices[source],
                to_device=devices[target],
            )
        )

    # -- the record

    def _finished(self, error: BaseException | None) -> Profile:
        reader, recorder = self._reader, self._recorder
        if error is not None:
            recorder.note_failure(error, component="", doing="")
        failure = recorder.failure(error)
        events = self._spans.settled(recorder.events())
        target = self._target()
        about = self._about if target is None else _About.of(target, self._modules)
        settings = (*settings_of(dict(self._modules)), *reader.settings())
        too_low, too_high = reader.seconds_bands() if error is None else (0.0, 0.0)
        return Profile(
            source="predicted" if reader.predicted else "measured",
            gpu=reader.gpu(),
            card_state=reader.card_state(),
            pipeline_class=about.class_name,
            mode=about.mode,
            components=self._components,
            events=tuple(events),
            totals=self._totals(events),
            bill=recorder.bill(),
            sequence=about.sequence,
            excluded=about.excluded,
            denoisers=tuple(one.name for one in self._components if one.name in self._denoisers),
            versions=_versions(),
            assumptions=(*reader.assumptions(), *about.stand_ins, *self._unseen(target)),
            error_band=reader.error_band(),
            error_band_below=reader.error_band_below(),
            seconds_band=too_low,
            seconds_band_below=too_high,
            insides=tuple(self._spans.known),
            places_itself=about.places_itself,
            complete=error is None,
            error="" if error is None else _explained(error, failure),
            failure=failure,
            conditions=(*self._conditions.found(), *self._binning.found()),
            settings=settings,
            **{"dtype": _pipeline_dtype(self._components, settings), **self._label},
        )

    def _unseen(self, target: Any) -> Iterator[Assumption]:
        """Yield an assumption for each component that the pipeline was given after the trace began."""
        for name, module in ({} if target is None else components_of(target)).items():
            if self._modules.get(name) is not module:
                yield Assumption(
                    what=f"{name} came to the pipe inside the trace, which does not know it",
                    effect="its weights and its forwards are not told apart from the rest",
                )

    def _totals(self, events: list[Event]) -> Totals:
        up = sum(event.bytes for event in events if event.kind == "onload")
        down = sum(event.bytes for event in events if event.kind == "offload")
        reader = self._reader
        seconds = sum(call_seconds(events))
        known = reader.predicted
        within = [event for event in events if event.call >= 0 and event.kind != "begin"]
        exposed_seconds = sum(event.exposed_transfer_seconds for event in within)
        return Totals(
            peak_allocated_bytes=reader.peak_allocated_bytes,
            peak_reserved_bytes=reader.peak_reserved_bytes,
            device_bytes=reader.gpu().context_bytes + reader.peak_reserved_bytes,
            host_pinned_bytes=max((event.host_pinned_bytes for event in events), default=0),
            h2d_bytes=up + self._other["h2d"],
            d2h_bytes=down + self._other["d2h"],
            h2d_weight_bytes=up,
            d2h_weight_bytes=down,
            seconds=seconds,
            host_pageable_bytes=max((event.host_pageable_bytes for event in events), default=0),
            host_peak_bytes=max((event.host_peak_bytes for event in events), default=0),
            host_kept_bytes=reader.take_host().kept_bytes,
            transfer_seconds=sum(event.transfer_seconds for event in within) if known else None,
            exposed_transfer_seconds=exposed_seconds if known else None,
            host_bound_seconds=reader.host_bound_seconds(),
            shared_peak_bytes=reader.shared_peak_bytes(),
        )


class _About(NamedTuple):
    """A record's facts about the pipeline itself: at the end of the trace, or if it is gone by then, at its start."""

    class_name: str
    mode: str
    sequence: tuple[str, ...]
    excluded: tuple[str, ...]
    places_itself: bool
    stand_ins: tuple[Assumption, ...]  # for parts of the pipeline that were missing

    @staticmethod
    def of(target: Any, modules: Mapping[str, nn.Module]) -> _About:
        """Return these facts for a pipeline, or for a module."""
        pipe = None if isinstance(target, nn.Module) else target
        sentences = () if pipe is None else stand_ins(pipe)
        return _About(
            type(uncompiled(target)).__name__,
            hooks.mode_of(target, modules),
            hooks.sequence_of(pipe),
            hooks.excluded_of(pipe),
            hooks.places_itself(pipe),
            tuple(Assumption(what=sentence) for sentence in sentences),
        )


def _reader_at_hand() -> MemoryReader:
    gpu = active_gpu()
    return MeasuredReader() if gpu is None else PredictedReader(gpu)


def _spans_for(reader: MemoryReader, modules: Mapping[str, nn.Module]) -> SubmoduleSpans:
    if isinstance(reader, PredictedReader):
        return PredictedSpans(reader, modules)
    assert isinstance(reader, MeasuredReader), reader
    return MeasuredSpans(reader, modules)


def _pipeline_dtype(components: tuple[Component, ...], settings: tuple[Setting, ...]) -> str:
    """Return the compute dtype of the largest component that is not quantised."""
    plain = (component for component in components if not component.quantization)
    largest = max(plain, key=lambda component: component.parameters, default=None)
    if largest is None:
        return ""
    casts = {one.component: one.value for one in settings if one.what == LAYERWISE_CASTING}
    return str(casts[largest.name]["compute"]) if largest.name in casts else largest.dtype


def _explained(error: BaseException, failure: Failure | None) -> str:
    where = f" in {failure.component}" if failure is not None and failure.component else ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}{where}: {text[0] if text else 'interrupted'}"


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
