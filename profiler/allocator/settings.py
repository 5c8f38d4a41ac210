"""The caching allocator's settings in `PYTORCH_CUDA_ALLOC_CONF` and `PYTORCH_ALLOC_CONF`, read as PyTorch reads them.

Source: `ConfigTokenizer` and `AcceleratorAllocatorConfig` in PyTorch's c10/core/AllocatorConfig.h, and
`CUDAAllocatorConfig` in c10/cuda/CUDAAllocatorConfig.h.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from profiler.errors import InputError
from profiler.units import MIB

VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # the first one that is set applies
HIP_VARIABLE = "PYTORCH_HIP_ALLOC_CONF"  # ROCm's torch reads it between the two
UNLIMITED = 1 << 62

# Sizes that no setting changes. Source: c10/core/AllocatorConfig.h.
BLOCK_BYTES = 512  # kMinBlockSize
SMALL_REQUEST_BYTES = MIB  # kSmallSize: the largest request that the small pool serves
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer
LEAST_OWN_SEGMENT_BYTES = 10 * MIB  # kMinLargeAlloc: smaller large requests share segments
LARGE_STEP_BYTES = 2 * MIB  # kRoundLarge

_INTERVALS = 16  # roundup_power2_divisions: from 1 MiB to 64 GiB
_FIRST_INTERVAL = 20  # log2 of 1 MiB
_LARGE_SEGMENT = "large_segment_size_mb"
_MOST_REGISTER_THREADS = 128


@dataclass(frozen=True)
class Settings:
    """The settings of the caching allocator; the defaults are PyTorch's.

    Attributes:
        large_segment_bytes: the size of the segment that requests between 1 and 10 MiB share.
        max_split_bytes: blocks of this size and more are never split.
        max_non_split_rounding_bytes: the most by which such a block may exceed the request that takes it.
        garbage_collection_threshold: the fraction of the allowed memory above which old cached blocks are released; 0
            for never. It only has an effect if a memory fraction is set.
        expandable_segments: whether segments grow page by page.
        memory_fraction: the fraction of the GPU's capacity that may be reserved.
        pinned_max_round_bytes: pinned blocks above this size are not rounded up to a power of two.
        pinned_max_cached_bytes: freed pinned blocks above this size are not kept, and they are not rounded either.
        pinned_reserve_bytes: pinned at once with the first block, to serve the following ones.
        divisions: the number of steps into which each power of two from 1 MiB to 64 GiB is divided for rounding; 0 for
            none.
    """

    large_segment_bytes: int = 20 * MIB
    max_split_bytes: int = UNLIMITED
    max_non_split_rounding_bytes: int = 20 * MIB
    garbage_collection_threshold: float = 0.0
    expandable_segments: bool = False
    memory_fraction: float = 1.0
    pinned_max_round_bytes: int = UNLIMITED
    pinned_max_cached_bytes: int = UNLIMITED
    pinned_reserve_bytes: int = 0
    divisions: tuple[int, ...] = (0,) * _INTERVALS

    def round(self, nbytes: int) -> int:
        """Return the size of the block for a request of `nbytes`.

        Source: `round_size` and `roundup_power2_next_division` in c10/cuda/CUDACachingAllocator.cpp.
        """
        if nbytes >= BLOCK_BYTES:
            interval = min(max(nbytes.bit_length() - 1 - _FIRST_INTERVAL, 0), _INTERVALS - 1)
            divisions = self.divisions[interval]
            if divisions > 1 and nbytes > BLOCK_BYTES * divisions:
                step = (1 << (nbytes.bit_length() - 1)) // divisions
                return -(-nbytes // step) * step
        return round_block(nbytes)


def round_block(nbytes: int) -> int:
    """Return the device memory that a request of `nbytes` takes by default: whole blocks of 512 bytes."""
    return (nbytes + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES


def settings_from_environment(*, hip: bool = False) -> Settings:
    """Return the settings that the environment holds now.

    Args:
        hip: whether PyTorch is built for ROCm.

    Raises:
        InputError: for a key or value that PyTorch refuses.
    """
    first, last = VARIABLES
    for variable in (first, HIP_VARIABLE, last) if hip else VARIABLES:
        text = os.environ.get(variable)
        if text is not None:
            return parse_settings(text, variable)
    return Settings()


def parse_settings(text: str, variable: str = VARIABLES[-1]) -> Settings:
    """Return the settings that `text` holds, such as `max_split_size_mb:128,expandable_segments:True`.

    Raises:
        InputError: for a key or value that PyTorch refuses.
    """
    settings = Settings()
    # The size of large segments limits other values, so PyTorch reads it first.
    for key, value in sorted(_pairs(text, variable), key=lambda pair: pair[0] != _LARGE_SEGMENT):
        read = _READERS.get(key)
        if read is None:
            raise InputError(
                f"{variable}: unrecognized key {key!r}; PyTorch knows {', '.join(sorted(_READERS))}"
            )
        try:
            settings = replace(settings, **read(value, settings))
        except ValueError as error:
            raise InputError(f"{variable}: {key}:{value} cannot be used: {error}") from None
    return settings


def _pairs(text: str, variable: str) -> Iterator[tuple[str, str]]:
    """Yield keys and values; a bracketed list is one value."""
    squeezed = "".join(text.split())
    for item in re.split(r",(?![^\[]*\])", squeezed.removesuffix(",")):
        key, colon, value = item.partition(":")
        if item and not (key and colon and value):
            raise InputError(
                f"{variable}: {item!r} is no setting: write key:value, for example max_split_size_mb:128"
            )
        if item:
            yield key, value


_Reader = Callable[[str, Settings], dict[str, Any]]


def _large_segment(value: str, settings: Settings) -> dict[str, Any]:
    megabytes = int(value)
    least = LEAST_OWN_SEGMENT_BYTES // MIB
    if megabytes <= least:
        raise ValueError(f"it must be more than {least}")
    return {"large_segment_bytes": megabytes * MIB}


def _limit(name: str) -> _Reader:
    def read(value: str, settings: Settings) -> dict[str, Any]:
        least = settings.large_segment_bytes // MIB
        if int(value) < least:
            raise ValueError(f"it must be at least {least}")
        return {name: int(value) * MIB}

    return read


def _size(name: str) -> _Reader:
    def read(value: str, settings: Settings) -> dict[str, Any]:
        if int(value) < 0:
            raise ValueError("it must not be negative")
        return {name: int(value) * MIB}

    return read


def _register_threads(value: str) -> None:
    """Check a value as `parsePinnedNumRegisterThreads` does: a power of two up to `pinned_max_register_threads`."""
    if not _is_power_of_two(int(value)) or int(value) > _MOST_REGISTER_THREADS:
        raise ValueError(f"it must be a power of 2 up to {_MOST_REGISTER_THREADS}")


def _threshold(value: str, settings: Settings) -> dict[str, Any]:
    if not 0.0 < float(value) < 1.0:
        raise ValueError("it must lie between 0 and 1")
    return {"garbage_collection_threshold": float(value)}


def _fraction(value: str, settings: Settings) -> dict[str, Any]:
    if not 0.0 <= float(value) <= 1.0:
        raise ValueError("it must be from 0 to 1")
    return {"memory_fraction": float(value)}


def _flag(value: str) -> bool:
    if value not in {"True", "False"}:
        raise ValueError("write True or False")
    return value == "True"


def _native(value: str, settings: Settings) -> dict[str, Any]:
    if value != "native":
        raise ValueError("the virtual GPU models PyTorch's native allocator only")
    return {}


def _divisions(value: str, settings: Settings) -> dict[str, Any]:
    """Read one number for all sizes, or a list of `megabytes:divisions` with `>` for all sizes above.

    Source: `parseRoundUpPower2Divisions` in c10/core/AllocatorConfig.cpp.
    """
    if not value.startswith("["):
        if not _is_power_of_two(int(value)):
            raise ValueError("divisions must be a power of 2")
        return {"divisions": (int(value),) * _INTERVALS}
    divisions = list(settings.divisions)
    last, first = 0, True
    for item in value.strip("[]").split(","):
        megabytes, _, text = item.partition(":")
        count = int(text)
        if count and not _is_power_of_two(count):
            raise ValueError("divisions must be a power of 2, or 0 for none")
        if megabytes == ">":
            divisions[last:] = [count] * (_INTERVALS - last)
            continue
        if not _is_power_of_two(int(megabytes)):
            raise ValueError("intervals must be powers of 2")
        last = min(int(megabytes).bit_length() - 1, _INTERVALS - 1)
        if first:
            divisions[:last] = [count] * last
            first = False
        divisions[last] = count
    return {"divisions": tuple(divisions)}


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _ignored(check: Callable[[str], object]) -> _Reader:
    """Return a reader for settings that change no figure, such as the way, the threads and the time of driver calls."""

    def read(value: str, settings: Settings) -> dict[str, Any]:
        check(value)
        return {}

    return read


_READERS: dict[str, _Reader] = {
    _LARGE_SEGMENT: _large_segment,
    "max_split_size_mb": _limit("max_split_bytes"),
    "max_non_split_rounding_mb": _limit("max_non_split_rounding_bytes"),
    "garbage_collection_threshold": _threshold,
    "roundup_power2_divisions": _divisions,
    "expandable_segments": lambda value, _: {"expandable_segments": _flag(value)},
    "per_process_memory_fraction": _fraction,
    "backend": _native,
    "graph_capture_record_stream_reuse": _ignored(_flag),
    "pinned_free_catch_all": _ignored(_flag),
    "pinned_max_cached_size_mb": _size("pinned_max_cached_bytes"),
    "pinned_max_round_threshold_mb": _size("pinned_max_round_bytes"),
    "pinned_num_register_threads": _ignored(_register_threads),
    "pinned_reserve_segment_size_mb": _size("pinned_reserve_bytes"),
    "pinned_use_background_threads": _ignored(_flag),
    "pinned_use_cuda_host_register": _ignored(_flag),
    "release_lock_on_cudamalloc": _ignored(_flag),
    "throw_on_cudamalloc_oom": _ignored(_flag),
}
