"""The GPUs that a virtual GPU can stand in for, and what is known of each.

The facts and their sources are in `data/hardware.toml`: per generation, per link and per GPU. A
`GpuSpec` joins the three. Rates are those of the data sheet or those that a copy achieves; its cost model
(`cost_model.py`) turns them into predicted seconds.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from profiler.checking.given import check_given, named
from profiler.errors import InputError
from profiler.gpus.cost_model import CostModel, cost_model
from profiler.units import KIB, MIB, format_bytes, parse_bytes

DEFAULT_GPU = "rtx-4060"
"""The default if no GPU is named, in the command or in Python: a common one with 8 GB, so as not to look too good."""

_FAMILY_WORDS = frozenset(
    {"nvidia", "geforce", "rtx", "tesla", "gpu", "amd", "radeon", "instinct", "graphics"}
)

CUDA, ROCM, MPS = "cuda", "rocm", "mps"
"""Platforms: whose PyTorch runs on a GPU."""

FUSED, OPT_IN, MATH = "fused", "opt-in", "math"
"""Attention of a GPU: by fused kernels, by those only if an environment variable asks for them, or never."""


BLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
"""The environment variable that sets the size of cuBLAS's workspace."""


class Platform(NamedTuple):
    """What a prediction for another PyTorch than CUDA's has to say for itself."""

    error_band: float = 0.0  # to be added to that of the prediction, as a fraction of the peak
    assumption: str = ""
    effect: str = ""


NOTHING_MORE = Platform()
"""The platform whose PyTorch the rules were made for: CUDA's."""


@dataclass(frozen=True, kw_only=True)
class GpuSpec:
    """One GPU, as the driver reports it and as its data sheet rates it."""

    key: str  # the name that a user types: rtx-4090
    name: str  # the driver's name for it
    generation: str  # turing, ampere, ada, hopper, blackwell, ...
    compute_capability: tuple[int, int]
    multi_processor_count: int
    threads_per_multiprocessor: int  # resident at once, at most
    capacity_bytes: (
        int  # `total_memory` of torch.cuda.get_device_properties, not the number on the box
    )
    context_bytes: (
        int  # taken by the CUDA context and loaded kernels, outside the allocator; an estimate
    )
    slack_bytes: int  # left free by a plan, beside context and reserved; a fixed constant
    cublas_workspace_bytes: int  # one per handle and stream, from torch's allocator
    l2_cache_bytes: int
    memory_bytes_per_second: float
    flops_per_second: dict[
        str, float
    ]  # dense, fp32 accumulation; keys are names of torch dtypes and tfloat32
    link: str  # pcie-4x16
    pinned_bytes_per_second: (
        float  # achieved by a copy between pinned memory and the GPU, either way
    )
    h2d_bytes_per_second: float  # from pageable memory; an estimate
    d2h_bytes_per_second: float  # to pageable memory; an estimate
    cost: CostModel  # of time: what is reached of the rates, and what the host takes
    aliases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    platform: str = CUDA
    unified_memory: bool = (
        False  # host and GPU share `capacity_bytes`: what one takes, the other lacks
    )
    gcn_architecture: str = ""  # `gcnArchName` of ROCm's device properties: gfx90a:sramecc+:xnack-
    hipblaslt_workspace_bytes: int = 0  # beside `cublas_workspace_bytes`, which is rocBLAS's there
    warp_size: int = 32
    attention: str = FUSED
    has_tf32: bool = False  # as `torch.cuda.is_tf32_supported` says; of ROCm only
    assumed: Platform = NOTHING_MORE

    @property
    def architecture(self) -> str:
        """The name that compilers use: `sm_89`, `gfx942`; the platform's where there is none."""
        if self.platform == ROCM:
            return self.gcn_architecture.partition(":")[0]
        if self.platform != CUDA:
            return self.generation
        major, minor = self.compute_capability
        return f"sm_{major}{minor}"

    @property
    def has_cudnn(self) -> bool:
        """Whether convolutions and attention can be cuDNN's."""
        return self.platform == CUDA

    def has_kernels_since(self, *capability: int) -> bool:
        """Tell whether it runs CUDA's kernels of a compute capability; of AMD's, those that torch takes for as new."""
        if self.platform == MPS:
            return False
        return self.platform == ROCM or self.compute_capability >= capability

    def blas_workspace_bytes(self, config: str = "") -> int:
        """Return the bytes of cuBLAS's workspace; under ROCm those of rocBLAS and hipBLASLt together.

        Args:
            config: The value of `CUBLAS_WORKSPACE_CONFIG`, such as `:4096:8`; without one it depends on the generation.

        Source: `parseChosenWorkspaceSize` in PyTorch's aten/src/ATen/cuda/CublasHandlePool.cpp.
        """
        pairs = re.findall(r":([0-9]+):([0-9]+)", config)
        chosen = sum(int(size) * int(count) for size, count in pairs) * KIB
        own = chosen if pairs else self.cublas_workspace_bytes
        return own + self.hipblaslt_workspace_bytes

    def with_capacity(self, capacity: str | int) -> GpuSpec:
        """Return the same GPU with another `total_memory`, in bytes or as text such as `8GiB`.

        Raises:
            InputError: if it is not a size, or less than the context alone takes.
        """
        capacity_bytes = parse_bytes(capacity)
        if capacity_bytes <= self.context_bytes:
            raise InputError(
                f"a capacity of {format_bytes(capacity_bytes)} leaves nothing beside the CUDA context "
                f"({format_bytes(self.context_bytes)}): give 1GiB or more"
            )
        return replace(self, capacity_bytes=capacity_bytes)

    def with_host_launch(self, microseconds: float) -> GpuSpec:
        """Return the same GPU beside another processor, which takes so long for each kernel that it launches.

        The band of the seconds narrows: what a processor takes is the most uncertain part of calls that wait for it.

        Raises:
            InputError: if it is not a number from 1 to 1000.
        """
        check_given(
            microseconds,
            int | float,
            to="with_host_launch()",
            instead="write microseconds, such as 40",
        )
        if not 1 <= microseconds <= 1000:
            raise InputError(
                f"{named(microseconds)} microseconds per launched kernel is no time a processor takes: "
                "write a number from 1 to 1000; 40 is usual"
            )
        return replace(self, cost=self.cost.with_launch(microseconds * 1e-6))


def gpu_spec(name: str) -> GpuSpec:
    """Return the GPU called `name`: its key, an alias, or the driver's name for it.

    Raises:
        InputError: if there is none; the message names the closest keys.
    """
    if not isinstance(name, str):
        raise InputError(
            f"{named(name)} is no GPU: write its name, such as 'rtx-4090'; `vram list gpus` shows them"
        )
    found = _names().get(_plain(name))
    if found is None:
        keys = [one.key for one in gpu_specs()]
        close = difflib.get_close_matches("-".join(_words(name)), keys, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`vram list gpus` shows them"
        raise InputError(f"no GPU is called {name!r}: {hint}")
    return found


def gpu_spec_of(model: str | GpuSpec) -> GpuSpec:
    """Return the GPU called `model`, or `model` itself if it is a `GpuSpec`.

    Raises:
        InputError: if it is neither.
    """
    return model if isinstance(model, GpuSpec) else gpu_spec(model)


def choose_gpu_spec(name: str | None = None, capacity: str | int | None = None) -> GpuSpec:
    """Return the GPU called `name`, or the default one, with `capacity` in place of its own if given.

    Raises:
        InputError: if the GPU is unknown or the capacity is not a size.
    """
    chosen = gpu_spec(name or DEFAULT_GPU)
    return chosen if capacity is None else chosen.with_capacity(capacity)


def gpu_spec_of_properties(properties: Any) -> GpuSpec:
    """Return the GPU that torch describes, with the memory that its driver reports.

    An unknown GPU takes its rates from the known one of the nearest compute capability and size, scaled by
    the number of multiprocessors; its `sources` say so.

    Args:
        properties: of `torch.cuda.get_device_properties`.
    """
    known = _names().get(_plain(properties.name))
    if known is not None:
        return replace(known, capacity_bytes=properties.total_memory)
    capability = (properties.major, properties.minor)
    count = properties.multi_processor_count
    gcn_architecture = str(getattr(properties, "gcnArchName", ""))
    platform = ROCM if gcn_architecture.startswith("gfx") else CUDA
    unified = bool(getattr(properties, "is_integrated", 0))
    alike = [
        one for one in gpu_specs() if (one.platform, one.unified_memory) == (platform, unified)
    ]
    nearest = min(alike, key=lambda one: _distance(one, capability, count))
    scale = count / nearest.multi_processor_count
    return replace(
        nearest,
        key="-".join(_words(properties.name)),
        name=properties.name,
        compute_capability=capability,
        multi_processor_count=count,
        capacity_bytes=properties.total_memory,
        l2_cache_bytes=properties.L2_cache_size,
        memory_bytes_per_second=nearest.memory_bytes_per_second * scale,
        flops_per_second={name: rate * scale for name, rate in nearest.flops_per_second.items()},
        aliases=(),
        gcn_architecture=gcn_architecture if platform == ROCM else "",
        sources=(f"estimate: {nearest.name} scaled by {scale:.2f}", *nearest.sources),
    )


def _distance(one: GpuSpec, capability: tuple[int, int], count: int) -> tuple[int, int, int]:
    major, minor = one.compute_capability
    return (
        abs(major - capability[0]),
        abs(minor - capability[1]),
        abs(one.multi_processor_count - count),
    )


@cache
def gpu_specs() -> tuple[GpuSpec, ...]:
    """Return every known GPU, smallest first."""
    text = (resources.files("profiler") / "data" / "hardware.toml").read_text(encoding="utf-8")
    facts = tomllib.loads(text)
    known = [_gpu_spec(key, own_facts, facts) for key, own_facts in facts["gpus"].items()]
    return tuple(sorted(known, key=lambda one: (one.capacity_bytes, one.memory_bytes_per_second)))


@cache
def _names() -> dict[str, GpuSpec]:
    return {_plain(name): one for one in gpu_specs() for name in (one.key, one.name, *one.aliases)}


def _plain(name: str) -> str:
    """Return the key under which `name` is looked up: `NVIDIA GeForce RTX 4090` and `rtx_4090` are `4090`."""
    return "-".join(word for word in _words(name) if word not in _FAMILY_WORDS)


def _words(name: str) -> list[str]:
    return re.split(r"[\s_-]+", name.lower().strip())


def _gpu_spec(key: str, own: dict[str, Any], facts: dict[str, Any]) -> GpuSpec:
    generation = facts["generations"][own["generation"]]
    link = facts["links"][own["link"]]
    platform = generation.get("platform", CUDA)
    rates = _rates(own["tflops"])
    cost = cost_model(own["generation"], rates, own["link"])
    return GpuSpec(
        key=key,
        name=own["name"],
        generation=own["generation"],
        compute_capability=tuple(own.get("compute_capability", generation["compute_capability"])),
        multi_processor_count=own["multi_processors"],
        threads_per_multiprocessor=generation["threads_per_multiprocessor"],
        capacity_bytes=own["total_memory_mib"] * MIB,
        context_bytes=generation["context_mib"] * MIB,
        slack_bytes=own.get("slack_mib", facts["slack_mib"]) * MIB,
        cublas_workspace_bytes=generation["cublas_workspace_kib"] * KIB,
        l2_cache_bytes=own["l2_cache_kib"] * KIB,
        memory_bytes_per_second=own["memory_gb_per_second"] * 1e9,
        flops_per_second=rates,
        link=own["link"],
        pinned_bytes_per_second=link["pinned_gb_per_second"] * 1e9,
        h2d_bytes_per_second=cost.h2d_bytes_per_second,
        d2h_bytes_per_second=cost.d2h_bytes_per_second,
        cost=cost,
        aliases=tuple(own.get("aliases", ())),
        sources=(own["rates_source"], own["memory_source"], generation["source"], link["source"]),
        platform=platform,
        unified_memory=own.get("unified_memory", False),
        gcn_architecture=own.get("gcn_architecture", generation.get("gcn_architecture", "")),
        hipblaslt_workspace_bytes=generation.get("hipblaslt_workspace_kib", 0) * KIB,
        warp_size=generation.get("warp_size", 32),
        attention=generation.get("attention", FUSED),
        has_tf32=generation.get("has_tf32", False),
        assumed=Platform(**facts["platforms"].get(platform, {})),
    )


def _rates(tflops: dict[str, float]) -> dict[str, float]:
    """Return FLOPS per dtype; a dtype that the GPU has no unit for runs at the fp32 rate."""
    float32 = tflops["float32"]
    rates = {
        "float32": float32,
        "tfloat32": tflops.get("tfloat32", float32),
        "float16": tflops["float16"],
        "bfloat16": tflops.get("bfloat16", float32),
        "float8": tflops.get("float8", tflops["float16"]),
    }
    return {dtype: rate * 1e12 for dtype, rate in rates.items()}
