"""Hand-made recordings: a narrator that writes events the way the tracer does, and a few stories told with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiler.record.components import Component, TensorSize
from profiler.record.events import Event
from profiler.record.profile import Assumption, Gpu, PeakItem, Profile, Totals
from profiler.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterable

GPU = Gpu(
    name="NVIDIA GeForce RTX 4060",
    capacity_bytes=8 * GIB,
    context_bytes=300 * MIB,
    slack_bytes=200 * MIB,
    architecture="sm_89",
    h2d_bytes_per_second=6e9,
    d2h_bytes_per_second=5e9,
    pinned_bytes_per_second=12e9,
)


def component(
    name: str, size_bytes: int, *, class_name: str = "Net", device: str = "cpu"
) -> Component:
    """Return a component of one fp16 tensor."""
    tensor = TensorSize(numel=size_bytes // 2, itemsize=2, floating=True, device=device)
    return Component(
        name=name,
        class_name=class_name,
        dtype="float16",
        parameters=size_bytes // 2,
        bytes=size_bytes,
        allocated_bytes=size_bytes,
        tensors=(tensor,),
    )


@dataclass
class Story:
    """Writes events one after the other and keeps the books: allocated, resident, clock."""

    components: tuple[Component, ...]
    spec: Gpu = GPU
    events: list[Event] = field(default_factory=list)
    call: int = 0
    phase: str = "encode"
    step: int = -1
    clock_seconds: float = 0.0
    allocated_bytes: int = 0
    lead_peak_bytes: int = 0
    resident: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in self.components:
            on_gpu = part.tensors[0].device.startswith("cuda")
            self.resident[part.name] = part.allocated_bytes if on_gpu else 0
        self.allocated_bytes = self.lead_peak_bytes = sum(self.resident.values())

    def add(
        self,
        kind: str,
        name: str = "",
        *,
        after: int | None = None,
        seconds: float = 0.0,
        **more: object,
    ) -> None:
        before = self.allocated_bytes
        self.allocated_bytes = before if after is None else after
        fields = {
            "entry": "",
            "bytes": 0,
            "dtype": "",
            "from_device": "",
            "to_device": "",
            "asked_by": "",
            **more,
        }
        peak = max(before, self.allocated_bytes)
        cached = 0 if kind == "empty_cache" or not self.events else self.events[-1].reserved_bytes
        reserved = max(cached, peak + 64 * MIB, self.lead_peak_bytes + 64 * MIB)
        self.events.append(
            Event(
                ordinal=len(self.events),
                call=self.call,
                kind=kind,
                component=name,
                group="",
                stream=0,
                phase=self.phase,
                step=self.step,
                lead_peak_bytes=max(self.lead_peak_bytes, before),
                before_bytes=before,
                peak_bytes=peak,
                after_bytes=self.allocated_bytes,
                reserved_bytes=reserved,
                resident_bytes=self.resident.get(name, 0),
                start_seconds=self.clock_seconds,
                seconds=seconds,
                **fields,  # type: ignore[arg-type]
            )
        )
        self.clock_seconds += seconds
        self.lead_peak_bytes = self.allocated_bytes

    def begin(self, call: int = 0) -> None:
        self.call, self.phase, self.step = call, "encode", -1
        self.add("begin")

    def end(self) -> None:
        self.add("end")

    def compute(
        self, name: str, activations: int, *, seconds: float = 0.02, entry: str = "forward"
    ) -> None:
        """Exit `name` after a computation whose activations peaked at `activations` bytes."""
        self.clock_seconds += seconds
        self.lead_peak_bytes = self.allocated_bytes + activations
        self.add("exit", name, entry=entry)

    def enter(self, name: str, *, entry: str = "forward") -> None:
        self.add("enter", name, entry=entry)

    def onload(self, name: str, *, asked_by: str = "accelerate.CpuOffload") -> None:
        size = self.part(name).allocated_bytes - self.resident[name]
        self.resident[name] += size
        self._move("onload", name, size, "cpu", "cuda:0", asked_by)

    def offload(self, name: str, *, asked_by: str = "accelerate.CpuOffload") -> None:
        size, self.resident[name] = self.resident[name], 0
        self._move("offload", name, size, "cuda:0", "cpu", asked_by)
        self.add("empty_cache", asked_by=asked_by)

    def copy(self, size: int, from_device: str, to_device: str) -> None:
        self.add(
            "copy", bytes=size, from_device=from_device, to_device=to_device, seconds=size / 5e9
        )

    def _move(
        self, kind: str, name: str, size: int, source: str, target: str, asked_by: str
    ) -> None:
        after = self.allocated_bytes + (size if target != "cpu" else -size)
        rate = self.spec.h2d_bytes_per_second if target != "cpu" else self.spec.d2h_bytes_per_second
        where = {
            "from_device": source,
            "to_device": target,
            "dtype": "float16",
            "asked_by": asked_by,
        }
        self.add(kind, name, after=after, seconds=size / rate, bytes=size, **where)

    def part(self, name: str) -> Component:
        return next(part for part in self.components if part.name == name)

    def profile(self, *, bill: Iterable[PeakItem] = (), **more: object) -> Profile:
        """Return the profile of what was told so far, with totals counted from the events."""
        facts: dict[str, object] = {
            "source": "predicted",
            "pipeline_class": "Pipeline",
            "mode": "model",
            **more,
        }
        return Profile(
            gpu=self.spec,
            components=self.components,
            events=tuple(self.events),
            totals=self.totals(),
            bill=tuple(bill),
            **facts,  # type: ignore[arg-type]
        )

    def totals(self) -> Totals:
        def moved(device: str, kinds: tuple[str, ...]) -> int:
            return sum(
                e.bytes for e in self.events if e.kind in kinds and e.to_device.startswith(device)
            )

        reserved = max((event.reserved_bytes for event in self.events), default=0)
        return Totals(
            peak_allocated_bytes=max(
                (max(e.lead_peak_bytes, e.peak_bytes) for e in self.events), default=0
            ),
            peak_reserved_bytes=reserved,
            device_bytes=reserved + self.spec.context_bytes,
            host_pinned_bytes=0,
            h2d_bytes=moved("cuda", ("onload", "copy")),
            d2h_bytes=moved("cpu", ("offload", "copy")),
            h2d_weight_bytes=moved("cuda", ("onload",)),
            d2h_weight_bytes=moved("cpu", ("offload",)),
            seconds=self.clock_seconds,
        )


SDXL = (
    component("vae", 160 * MIB, class_name="AutoencoderKL"),
    component("text_encoder", 235 * MIB, class_name="CLIPTextModel"),
    component("text_encoder_2", 1325 * MIB, class_name="CLIPTextModelWithProjection"),
    component("unet", 4897 * MIB, class_name="UNet2DConditionModel"),
)


def sdxl_model_offload(*, steps: int = 30, calls: int = 1, spec: Gpu = GPU) -> Profile:
    """Return stock model offload of an SDXL-like pipeline: each component evicts its predecessor."""
    story = Story(SDXL, spec=spec)
    for call in range(calls):
        story.begin(call)
        previous = ""
        for name in ("text_encoder", "text_encoder_2"):
            _take_turn(story, name, previous)
            story.compute(name, 40 * MIB, seconds=0.03)
            previous = name
        story.phase = "denoise"
        for story.step in range(steps):
            _take_turn(story, "unet", previous)
            previous = "unet"
            story.compute("unet", 212 * MIB, seconds=0.21)
        story.phase, story.step = "decode", -1
        _take_turn(story, "vae", previous, entry="decode")
        story.compute("vae", 4200 * MIB, seconds=0.4, entry="decode")
        story.offload("vae", asked_by="pipeline.maybe_free_model_hooks")
        story.copy(3 * MIB, "cuda:0", "cpu")
        story.end()
    return story.profile(
        pipeline_class="StableDiffusionXLPipeline",
        model="sdxl-base",
        dtype="float16",
        call={"prompt": "a cat", "height": 1024, "width": 1024, "num_inference_steps": steps},
        call_defaults=("prompt", "num_inference_steps"),
        sequence=("text_encoder", "text_encoder_2", "unet", "vae"),
        denoisers=("unet",),
        versions={"torch": "2.13.0", "diffusers": "0.42.1", "accelerate": "1.15.0"},
        assumptions=(
            Assumption(
                what="stand-in tokenizer for CLIP", count=2, effect="none: padded to 77 tokens"
            ),
        ),
        error_band=0.03,
        error_band_below=0.03,
        bill=(
            PeakItem(holder="unet", what="weights", bytes=4897 * MIB),
            PeakItem(holder="unet", what="activations", bytes=180 * MIB + 77),
            PeakItem(holder="", what="workspace", bytes=32 * MIB),
            PeakItem(holder="", what="unattributed", bytes=-77),
        ),
    )


def _take_turn(story: Story, name: str, previous: str, *, entry: str = "forward") -> None:
    story.enter(name, entry=entry)
    if story.resident[name]:
        return
    if previous and story.resident[previous]:
        story.offload(previous)
    story.onload(name)
