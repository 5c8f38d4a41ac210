"""The cost model of time: what a kernel, a copy and the host's own work take on one GPU.

The constants and where each comes from are in `data/seconds.toml`. A kernel takes the longer of two times, that of its
operations at the rate its group of GPUs reaches and that of its bytes at the bandwidth it reaches (the roofline model:
Williams, Waterman and Patterson, 2009, doi 10.1145/1498765.1498785), and a fixed time of its own.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

PRODUCT, CONVOLUTION, ATTENTION, MEMORY = "product", "convolution", "attention", "memory"
"""Classes of kernels."""

NINE_OF_TEN = 1.645
"""Standard deviations on either side that hold 90 % of a normal distribution."""

NARROW_HEADS = 96
"""Attention heads of fewer values take their own fraction of the rate."""


class Shares(NamedTuple):
    """What a call waits for, as fractions of its time that add up to 1."""

    kernels: float
    launches: float  # the GPU waits for the host
    copies: float


class Spreads(NamedTuple):
    """How far published seconds lie from predicted ones, as standard deviations of the logarithm of their ratio."""

    kernels: float
    launches: float
    copies: float


class Work(NamedTuple):
    """What one kernel has to do.

    Attributes:
        kind: PRODUCT, CONVOLUTION, ATTENTION or MEMORY.
        operations: floating-point operations, those on padding included.
        moved_bytes: bytes read and written, inputs and outputs once each; with copies into another layout.
        rate: the key of `GpuSpec.flops_per_second` that applies: a dtype, or tfloat32.
        head: values per head, of attention.
        by_cudnn: whether cuDNN computes it, of attention.
    """

    kind: str
    operations: int
    moved_bytes: int
    rate: str = "float32"
    head: int = 0
    by_cudnn: bool = False


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The constants of one GPU. Fractions are of the data sheet's rates; times are in seconds."""

    group: str  # a key of `[groups]`
    timings: int  # how many published timings of the group the constants were fitted on
    product: float
    attention: float
    cudnn_attention: float
    convolution: float  # of what a product reaches
    single: float
    single_attention: float
    narrow_heads: float
    memory: float
    memory_kernel_seconds: float
    product_kernel_seconds: float
    launch_seconds: float
    copy_seconds: float
    allocate_seconds: float
    release_seconds: float
    empty_cache_seconds: float
    h2d_bytes_per_second: float  # from pageable memory
    d2h_bytes_per_second: float  # to pageable memory that was not touched before
    spreads: Spreads

    def band(self, shares: Shares) -> tuple[float, float]:
        """Return by which fraction seconds may be longer than predicted, and shorter, in nine of ten calls.

        What bounds the kernels, the host and the link is independent of each other, so variances are added.
        """
        parts = (share * spread for share, spread in zip(shares, self.spreads, strict=True))
        factor = math.exp(NINE_OF_TEN * math.hypot(*parts))
        return factor - 1, 1 - 1 / factor

    def with_launch(self, launch_seconds: float) -> CostModel:
        """Return the same with a launch as known of one machine."""
        spreads = self.spreads._replace(launches=self.spreads.kernels)
        return replace(self, launch_seconds=launch_seconds, spreads=spreads)

    @property
    def has_usual_launch(self) -> bool:
        """Whether no machine's own time of a launch is known."""
        return self.launch_seconds == host_constant("launch_seconds")

    def as_fitted(self, launch_seconds: float, kernels: float) -> CostModel:
        """Return the same as measured runs on one machine gave it: fractions times `kernels`, and a narrow band."""
        reached = (
            "product",
            "attention",
            "cudnn_attention",
            "single",
            "single_attention",
            "memory",
        )
        spread = {name: value_of(fact) for name, fact in _facts()["spreads_measured"].items()}
        return replace(
            self,
            launch_seconds=launch_seconds,
            spreads=Spreads(**spread),
            **{name: getattr(self, name) * kernels for name in reached},
        )

    def kernel_seconds(
        self, work: Work, flops_per_second: dict[str, float], bytes_per_second: float
    ) -> float:
        """Return the time of one kernel.

        Args:
            work: what it does.
            flops_per_second: the GPU's data sheet, by dtype.
            bytes_per_second: its bandwidth, by the same sheet.
        """
        moving = work.moved_bytes / (bytes_per_second * self.memory)
        if work.kind == MEMORY:
            return moving + self.memory_kernel_seconds
        rate = flops_per_second.get(work.rate, flops_per_second["float32"])
        computing = work.operations / (rate * self.reached(work, flops_per_second))
        return max(computing, moving) + self.product_kernel_seconds

    def reached(self, work: Work, flops_per_second: dict[str, float]) -> float:
        """Return the fraction of the data sheet's rate that a product, a convolution or attention reaches."""
        single = flops_per_second["float32"]
        has_tensor_cores = flops_per_second["float16"] > 1.5 * single
        plain = has_tensor_cores and flops_per_second.get(work.rate, single) < 1.01 * single
        if work.kind == ATTENTION:
            reached = self.cudnn_attention if work.by_cudnn else self.attention
            reached = min(reached, self.single_attention) if plain else reached
            return reached * (self.narrow_heads if work.head < NARROW_HEADS else 1.0)
        reached = self.single if plain else self.product
        return reached * (self.convolution if work.kind == CONVOLUTION else 1.0)


def shares_of(seconds: float, host_bound_seconds: float, exposed_seconds: float) -> Shares:
    """Return what a call waits for: for copies, as far as they delay it, for the host, and else for kernels.

    Args:
        seconds: of the whole.
        host_bound_seconds: for how long the host's own work decided.
        exposed_seconds: what copies that take no time would save.
    """
    if seconds <= 0:
        return Shares(0.0, 0.0, 0.0)
    copies = min(max(exposed_seconds, 0.0), seconds)
    launches = min(host_bound_seconds, seconds - copies)
    return Shares((seconds - copies - launches) / seconds, launches / seconds, copies / seconds)


def cost_model(generation: str, flops_per_second: dict[str, float], link: str) -> CostModel:
    """Return the constants of a GPU.

    Args:
        generation: a key of `[generations]` in hardware.toml.
        flops_per_second: its data sheet, by dtype.
        link: a key of `[links]` there.
    """
    facts = _facts()
    group = group_of(generation, flops_per_second)
    own = facts["groups"][group]
    pageable = facts["pageable"]
    known = {field.name for field in fields(CostModel)}
    constants = {
        name: value_of(fact)
        for section in (facts["host"], facts["kernels"])
        for name, fact in section.items()
        if name in known
    }
    attention = value_of(own["attention"])
    spread = {name: value_of(fact) for name, fact in facts["spreads"].items()}
    kernels = spread["kernels" if own["timings"] else "kernels_of_other_groups"]
    if "spread" in own:
        kernels = value_of(own["spread"])
    return CostModel(
        group=group,
        timings=own["timings"],
        product=value_of(own["product"]),
        attention=attention,
        cudnn_attention=value_of(own.get("cudnn_attention", {"start": attention})),
        h2d_bytes_per_second=value_of(pageable["h2d_gb_per_second"][link]) * 1e9,
        d2h_bytes_per_second=value_of(pageable["d2h_gb_per_second"]) * 1e9,
        spreads=Spreads(kernels, spread["launches"], spread["copies"]),
        **constants,
    )


def host_constant(name: str) -> float:
    """Return a constant of `[host]` that is the same beside every GPU."""
    return value_of(_facts()["host"][name])


def group_of(generation: str, flops_per_second: dict[str, float]) -> str:
    """Return the group of GPUs whose constants apply: the generation, `-cut` if its tensor cores' rate is cut."""
    own = f"{generation}-cut"
    facts = _facts()["groups"].get(own)
    if facts is None:
        return generation
    ratio = flops_per_second["float16"] / flops_per_second["float32"]
    return own if ratio < facts["below"] else generation


def value_of(fact: dict[str, float]) -> float:
    """Return a constant: as fitted, else as it started."""
    return fact.get("fitted", fact["start"])


@cache
def _facts() -> dict[str, Any]:
    text = (resources.files("profiler") / "data" / "seconds.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
