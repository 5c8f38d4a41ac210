"""Streams, events and generators of a virtual GPU, with the interfaces of torch's own.

Each function makes a class for one GPU. On threads other than the GPU's, the class makes torch's own objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from profiler.allocator.clock import Mark
from profiler.virtual.tensor import CPU, CUDA, canonical

if TYPE_CHECKING:
    from profiler.virtual.device import Device


def stream_class(gpu: Device) -> type:  # noqa: C901  # ten one-line methods of one class
    """Return the class that stands in for `torch.cuda.Stream`."""
    original = torch.cuda.Stream
    clock = gpu.clock

    class Stream:
        """A queue of work on the virtual GPU; as a context manager, the queue for new work."""

        device = CUDA
        device_index = 0

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return super().__new__(cls) if gpu.here() else original(*args, **kwargs)

        def __init__(
            self, device: Any = None, priority: int = 0, *, number: int | None = None, **_: Any
        ) -> None:
            canonical(CUDA if device is None else device)
            self.priority = priority
            self.cuda_stream = self.stream_id = clock.add_stream() if number is None else number
            self._outer: list[Any] = []

        def synchronize(self) -> None:
            clock.join(self.cuda_stream)

        def query(self) -> bool:
            return True

        def record_event(self, event: Any = None) -> Any:
            event = torch.cuda.Event() if event is None else event
            event.record(self)
            return event

        def wait_event(self, event: Any) -> None:
            clock.wait(self.cuda_stream, event.mark)

        def wait_stream(self, stream: Any) -> None:
            clock.wait(self.cuda_stream, clock.mark(stream.cuda_stream))

        def __enter__(self) -> Any:
            self._outer.append(gpu.current_stream)
            gpu.set_stream(self)
            return self

        def __exit__(self, *_: object) -> None:
            gpu.set_stream(self._outer.pop())

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Stream) and other.cuda_stream == self.cuda_stream

        def __hash__(self) -> int:
            return hash((self.cuda_stream, CUDA))

        def __repr__(self) -> str:
            return f"<torch.cuda.Stream device={CUDA} cuda_stream={self.cuda_stream:#x}>"

    return Stream


def event_class(gpu: Device) -> type:
    """Return the class that stands in for `torch.cuda.Event`."""
    original = torch.cuda.Event
    clock = gpu.clock

    class VirtualEvent:
        """A point in a stream's time."""

        device = CUDA

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return super().__new__(cls) if gpu.here() else original(*args, **kwargs)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.mark = Mark(0.0, 0.0)

        def record(self, stream: Any = None) -> None:
            self.mark = clock.mark(clock.current if stream is None else stream.cuda_stream)

        def wait(self, stream: Any = None) -> None:
            clock.wait(clock.current if stream is None else stream.cuda_stream, self.mark)

        def synchronize(self) -> None:
            clock.reach(self.mark)

        def query(self) -> bool:
            return clock.passed(self.mark)

        def elapsed_time(self, end_event: Any) -> float:
            """Return milliseconds from this event to `end_event`."""
            return (end_event.mark.seconds - self.mark.seconds) * 1000

    return VirtualEvent


def generator_class(gpu: Device) -> type:
    """Return the class that stands in for `torch.Generator`: a CPU generator that reports the device it was given."""

    class Generator(torch.Generator):
        """A generator with an interface only: random values on the GPU are unknown."""

        _claimed = CPU

        def __new__(cls, device: Any = "cpu") -> Any:
            if not gpu.here():
                return torch._C.Generator(device)
            generator = super().__new__(cls)
            generator._claimed = canonical(device)
            return generator

        def __init__(self, device: Any = "cpu") -> None:
            pass

        @property
        def device(self) -> torch.device:
            return self._claimed

    return Generator
