"""Torch's own peak statistics after a trace on a card: what they would be if nobody had reset them in between."""

import pytest
import torch
from card_worlds import card_gauge, tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.patching import Patches
from profiler.tracing import Trace
from profiler.tracing.measured.peaks import Peaks
from profiler.units import KIB, MIB
from profiler.virtual import VirtualGPU

SIZES = st.one_of(
    st.integers(1, 3 * MIB), st.integers(MIB, 12 * MIB), st.integers(10 * MIB, 300 * MIB)
)
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), SIZES, st.integers(0, 1)),
        st.tuples(st.just("free"), st.integers(0, 20)),
        st.just(("empty",)),
        st.just(("look",)),
    ),
    max_size=25,
)


def peaks():
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def cache():
    """Return every segment with its blocks; addresses are the driver's affair."""
    return sorted(
        (
            segment["segment_type"],
            segment["stream"],
            [(block["size"], block["state"]) for block in segment["blocks"]],
        )
        for segment in torch.cuda.memory_snapshot()
    )


def done(acts, *, looked_at):
    """Do these things, and return torch's peaks and what is cached afterwards."""
    with VirtualGPU("rtx-4090"):
        side = torch.cuda.Stream()
        watch = Peaks() if looked_at else None
        held = []
        for act, *figures in acts:
            if act == "allocate":
                size, stream = figures
                number = side.cuda_stream if stream else 0
                held.append(torch.cuda.caching_allocator_alloc(size, stream=number))
            elif act == "free" and held:
                torch.cuda.caching_allocator_delete(held.pop(figures[0] % len(held)))
            elif act == "empty":
                torch.cuda.empty_cache()
            elif act == "look" and watch is not None:
                watch.take()
        if watch is not None:
            watch.put_back()
        return *peaks(), cache()


@settings(max_examples=150, deadline=None)
@given(ACTS)
@example([("allocate", 600 * MIB, 0), ("free", 0), ("empty",), ("look",)])
@example([("allocate", 10 * MIB - 511, 0), ("free", 0), ("allocate", 1, 0)])
@example([("allocate", MIB + 1, 1), ("allocate", 38 * MIB + 1, 1), ("free", 0)])
@example([("allocate", 5 * MIB, 0), ("free", 0), ("look",)])
def test_peaks_are_reached_again_and_the_cache_is_what_it_was(acts):
    """Allocated to 2 MiB, which no block may be left to be cut for; reserved never beyond; both are as documented."""
    allocated, reserved, cached = done(acts, looked_at=True)
    true_allocated, true_reserved, true_cached = done(acts, looked_at=False)
    assert cached == true_cached
    assert true_allocated - 2 * MIB <= allocated <= true_allocated
    assert reserved <= true_reserved


ROUNDED = [
    ("allocate", 301043685, 1),
    ("look",),
    ("allocate", 101478522, 0),
    ("empty",),
    ("look",),
    ("allocate", 177979110, 0),
    ("allocate", 3559262, 0),
    ("free", 1),
    ("free", 1),
]


@pytest.mark.parametrize(
    "setting",
    ["roundup_power2_divisions:4", "max_split_size_mb:64", "garbage_collection_threshold:0.5"],
)
def test_settings_under_which_a_block_does_not_serve_its_size_are_left_alone(setting, monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", setting)
    allocated, reserved, cached = done(ROUNDED, looked_at=True)
    true_allocated, true_reserved, true_cached = done(ROUNDED, looked_at=False)
    assert cached == true_cached
    assert (allocated <= true_allocated, reserved <= true_reserved) == (True, True)


def test_expandable_segments_are_what_they_were(monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    allocated, _, cached = done(ROUNDED, looked_at=True)
    true_allocated, _, true_cached = done(ROUNDED, looked_at=False)
    assert (allocated, cached) == (true_allocated, true_cached)


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("flux", Mode()),
        ("flux", Mode(name="model")),
        ("wan", Mode(name="group-leaf", stream=True)),
    ],
)
def test_a_trace_on_a_card_leaves_the_peaks_of_an_untraced_run(family, mode):
    said = []
    for traced in (True, False):
        with VirtualGPU("rtx-4090", replay=False):
            pipe, call = tiny(family)
            if traced:
                with Trace(pipe, {}, card_gauge):
                    enable_mode(pipe, mode)
                    pipe(num_inference_steps=2, **call)
            else:
                enable_mode(pipe, mode)
                pipe(num_inference_steps=2, **call)
            said.append((peaks(), cache()))
    assert said[0] == said[1]


def test_peaks_are_those_of_the_user_while_the_trace_runs():
    """A reset by the user begins the user's peaks anew, and takes none from the trace."""
    with VirtualGPU("rtx-4090"), Patches() as patches:
        watch = Peaks()
        watch.watch(patches)
        torch.empty(8 * MIB, dtype=torch.uint8, device="cuda")
        watch.take()
        kept = torch.empty(2 * MIB, dtype=torch.uint8, device="cuda")
        assert torch.cuda.max_memory_allocated() == 8 * MIB
        torch.cuda.reset_peak_memory_stats("cuda")
        assert torch.cuda.max_memory_allocated(0) == kept.numel()
        torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
        assert torch.cuda.max_memory_allocated() == 6 * MIB
        assert watch.take().peak_bytes == 6 * MIB
        torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        assert watch.take().peak_bytes == 7 * MIB


def test_nothing_is_asked_of_a_driver_that_has_no_more():
    """Somebody else took the card meanwhile: the peak stays short, and nothing is left behind."""
    with VirtualGPU("rtx-4090") as gpu:
        watch = Peaks()
        torch.empty(6 << 30, dtype=torch.uint8, device="cuda")
        torch.cuda.empty_cache()
        watch.take()
        gpu.capacity_bytes -= (
            18 << 30
        )  # what the driver says is free; the allocator's own limit stays
        watch.put_back()
        assert peaks() == (0, 0)
        assert torch.cuda.memory_stats()["num_ooms"] == 0


def test_a_small_block_is_taken_piece_by_piece():
    """The small pool serves no request above 1 MiB, and a whole segment of it is 2 MiB."""
    with VirtualGPU("rtx-4090"):
        watch = Peaks()
        small = [torch.cuda.caching_allocator_alloc(512 * KIB) for _ in range(8)]
        for one in small:
            torch.cuda.caching_allocator_delete(one)
        watch.take()
        watch.put_back()
        assert peaks() == (4 * MIB, 4 * MIB)
        assert torch.cuda.memory_reserved() == 4 * MIB
