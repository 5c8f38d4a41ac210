"""Profiles made by hand: a tiny recorder that is told what happened and does the sums of memory.

It decides nothing: every move of weights is written out by the test, so it shares no rule with the replay.
"""

from __future__ import annotations

from profiler.record.components import Component, TensorSize
from profiler.record.events import Event
from profiler.record.profile import Gpu, Profile, Totals

BLOCK = 512
GPU = "cuda:0"


def component(
    name: str,
    sizes: tuple[int, ...] = (512,),
    *,
    itemsize: int = 2,
    dtype: str = "float16",
    floating: bool = True,
    device: str = "cpu",
    quantization: str = "",
) -> Component:
    """Return a component whose tensors take `sizes` bytes."""
    tensors = tuple(TensorSize(size // itemsize, itemsize, floating, device) for size in sizes)
    return Component(
        name=name,
        class_name=name.title(),
        dtype=dtype,
        parameters=sum(tensor.numel for tensor in tensors),
        bytes=sum(sizes),
        allocated_bytes=sum(_rounded(size) for size in sizes),
        tensors=tensors,
        quantization=quantization,
    )


def gpu(**changes: object) -> Gpu:
    """Return a GPU whose copies run at one byte per microsecond, without context and slack."""
    facts: dict[str, object] = {
        "name": "Test GPU",
        "capacity_bytes": 1 << 30,
        "context_bytes": 0,
        "slack_bytes": 0,
        "h2d_bytes_per_second": 1e6,
        "d2h_bytes_per_second": 1e6,
    }
    return Gpu(**(facts | changes))  # type: ignore[arg-type]


class Recorder:
    """Writes the events of a profile, one method for each thing that happens."""

    def __init__(self, *components: Component) -> None:
        self.components = components
        self._events: list[Event] = []
        self._on_gpu = {
            one.name: one.allocated_bytes if one.tensors and one.tensors[0].device == GPU else 0
            for one in components
        }
        self.floating = 0
        self._weights = sum(self._on_gpu.values())  # before the event that is being written
        self._lead = 0
        self._call = -1
        self.phase, self.step = "place", -1

    def begin(self) -> Recorder:
        """Begin the next call of the pipeline."""
        self._call += 1
        self.phase = "encode"
        return self._log("begin")

    def end(self) -> Recorder:
        """End the call."""
        return self._log("end")

    def work(self, peak: int, keep: int = 0) -> Recorder:
        """Allocate up to `peak` floating bytes above what there is, and keep `keep` of them (negative: free)."""
        self._lead = max(self._lead, self._allocated() + peak)
        self.floating += keep
        return self

    def enter(self, name: str, entry: str = "forward") -> Recorder:
        """Enter a component."""
        return self._log("enter", name, entry=entry)

    def exit(self, name: str, entry: str = "forward") -> Recorder:
        """Leave a component."""
        return self._log("exit", name, entry=entry)

    def run(self, name: str, peak: int = 0, keep: int = 0, entry: str = "forward") -> Recorder:
        """Enter a component that is on the GPU, work, and leave it."""
        return self.enter(name, entry).work(peak, keep).exit(name, entry)

    def onload(self, name: str, asked_by: str = "accelerate.CpuOffload") -> Recorder:
        """Move a component to the GPU."""
        size = self._component(name)
        self._on_gpu[name] = size.allocated_bytes
        return self._log(
            "onload",
            name,
            count=size.bytes,
            dtype=size.dtype,
            devices=("cpu", GPU),
            asked_by=asked_by,
        )

    def onload_bytes(self, name: str, count: int) -> Recorder:
        """Move a component to the GPU that takes `count` bytes there since a cast."""
        self._on_gpu[name] = _rounded(count)
        return self._log(
            "onload",
            name,
            count=count,
            dtype="float32",
            devices=("cpu", GPU),
            asked_by="accelerate.CpuOffload",
        )

    def offload(self, name: str, asked_by: str = "accelerate.CpuOffload") -> Recorder:
        """Move a component to the CPU."""
        size = self._component(name)
        self._on_gpu[name] = 0
        return self._log(
            "offload",
            name,
            count=size.bytes,
            dtype=size.dtype,
            devices=(GPU, "cpu"),
            asked_by=asked_by,
        )

    def empty_cache(self, asked_by: str = "accelerate.CpuOffload") -> Recorder:
        """Empty the GPU's cache."""
        return self._log("empty_cache", asked_by=asked_by)

    def cast(self, name: str, dtype: str, *, count: int, resident: int, held: int = 0) -> Recorder:
        """Cast a component, which then takes `count` bytes, `resident` of the GPU, and held `held` more meanwhile."""
        self._on_gpu[name] = resident
        device = GPU if resident else "cpu"
        self._log("cast", name, count=count, dtype=dtype, devices=(device, device))
        cast = self._events[-1]
        self._events[-1] = cast._replace(peak_bytes=cast.peak_bytes + held)
        return self

    def profile(self, **changes: object) -> Profile:
        """Return what was recorded."""
        facts: dict[str, object] = {
            "source": "predicted",
            "gpu": gpu(),
            "pipeline_class": "TinyPipeline",
            "mode": "model",
            "components": self.components,
            "events": tuple(self._events),
            "totals": Totals(
                **dict.fromkeys(Totals.__dataclass_fields__, 0) | {"seconds": 0.0}  # type: ignore[arg-type]
            ),
            "dtype": "float16",
        }
        return Profile(**(facts | changes))  # type: ignore[arg-type]

    def _component(self, name: str) -> Component:
        return next(one for one in self.components if one.name == name)

    def _allocated(self) -> int:
        return sum(self._on_gpu.values()) + self.floating

    def _log(
        self,
        kind: str,
        name: str = "",
        *,
        entry: str = "",
        count: int = 0,
        dtype: str = "",
        devices: tuple[str, str] = ("", ""),
        asked_by: str = "",
    ) -> Recorder:
        after = self._allocated()
        before = self._weights + self.floating
        self._weights = after - self.floating
        self._events.append(
            Event(
                ordinal=len(self._events),
                call=self._call,
                kind=kind,
                component=name,
                group="",
                entry=entry,
                bytes=count,
                dtype=dtype,
                from_device=devices[0],
                to_device=devices[1],
                stream=0,
                phase=self.phase,
                step=self.step,
                asked_by=asked_by,
                lead_peak_bytes=max(self._lead, before),
                before_bytes=before,
                peak_bytes=max(before, after),
                after_bytes=after,
                reserved_bytes=0,
                resident_bytes=self._on_gpu.get(name, 0),
                start_seconds=float(len(self._events)),
                seconds=0.0,
            )
        )
        self._lead = after
        return self


def _rounded(count: int) -> int:
    return -(-count // BLOCK) * BLOCK
