"""What the environment says about the allocator, read as PyTorch reads it."""

import pytest

from profiler.allocator.settings import Settings, parse_settings
from profiler.errors import InputError
from profiler.virtual import VirtualGPU

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Settings()),
        ("backend:native", Settings()),
        ("max_split_size_mb:128", Settings(max_split_bytes=128 * MIB)),
        (" expandable_segments : True ", Settings(expandable_segments=True)),
        (
            "garbage_collection_threshold:0.6,max_split_size_mb:40,",
            Settings(garbage_collection_threshold=0.6, max_split_bytes=40 * MIB),
        ),
        ("large_segment_size_mb:11", Settings(large_segment_bytes=11 * MIB)),
        ("max_non_split_rounding_mb:64", Settings(max_non_split_rounding_bytes=64 * MIB)),
        ("per_process_memory_fraction:0.5", Settings(memory_fraction=0.5)),
        ("pinned_use_background_threads:True", Settings()),
        ("roundup_power2_divisions:4", Settings(divisions=(4,) * 16)),
        # From 1 MiB in powers of two: up to and with 64 MiB (2^6) 8; 256 MiB (2^8) 4; above, from there on, 1.
        (
            "roundup_power2_divisions:[64:8,256:4,>:1]",
            Settings(divisions=(8, 8, 8, 8, 8, 8, 8, 0, *(1,) * 8)),
        ),
    ],
)
def test_settings_are_read(text, expected):
    assert parse_settings(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_split_size:128", "unrecognized key 'max_split_size'"),
        ("max_split_size_mb", "'max_split_size_mb' is no setting"),
        ("max_split_size_mb=128", "is no setting"),
        ("max_split_size_mb:19", "at least 20"),
        # The size of large segments counts first, wherever it stands.
        ("max_split_size_mb:30,large_segment_size_mb:40", "at least 40"),
        ("max_split_size_mb:many", "max_split_size_mb:many cannot be used"),
        ("large_segment_size_mb:10", "more than 10"),
        ("garbage_collection_threshold:1", "between 0 and 1"),
        ("expandable_segments:true", "True or False"),
        ("roundup_power2_divisions:3", "power of 2"),
        ("roundup_power2_divisions:[63:4]", "powers of 2"),
        ("backend:cudaMallocAsync", "native allocator only"),
    ],
)
def test_what_pytorch_refuses_is_refused(text, reason):
    with pytest.raises(InputError, match=f"PYTORCH_ALLOC_CONF: .*{reason}"):
        parse_settings(text)


def test_the_older_variable_counts_before_the_newer_one(monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert VirtualGPU("rtx-4090").allocator.settings == Settings(max_split_bytes=64 * MIB)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert VirtualGPU("rtx-4090").allocator.settings == Settings(expandable_segments=True)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable:True")
    with pytest.raises(InputError, match="PYTORCH_CUDA_ALLOC_CONF: unrecognized key 'expandable'"):
        VirtualGPU("rtx-4090")
