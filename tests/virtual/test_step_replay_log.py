"""Logs of requests: what is written down, what is refused, and that a net effect is what the requests would do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from profiler.allocator import report as allocator_report
from profiler.units import MIB
from profiler.virtual import VirtualGPU
from profiler.virtual.copies import LinkCopy
from profiler.virtual.step_replay.log import Log, LoggedStretch, LogRecorder, StorageUse, use_of
from profiler.virtual.step_replay.player import Player, cut_where_repeated
from profiler.virtual.workspaces import Workspace

sizes = st.one_of(st.integers(1, 4000), st.integers(1, 40 * MIB))


@st.composite
def uses(draw):
    """A kernel's own memory, with bounds on both sides; it may take nothing."""
    least, nbytes, most = sorted(draw(st.tuples(*[st.one_of(st.just(0), sizes)] * 3)))
    return use_of(Workspace(nbytes, least, most), soft=draw(st.booleans()))


@st.composite
def logs(draw):
    """Random requests, some of them many times over, in which what is freed was allocated; some of it survives."""
    items, alive, born = [], [], 0
    for kind, repeats in draw(st.lists(st.tuples(st.sampled_from("aaaffslr"), st.integers(1, 6)))):
        if kind == "a":
            items.append(draw(sizes))
            alive.append(born)
            born += 1
        elif kind == "f" and alive:
            items.append(alive.pop(draw(st.integers(0, len(alive) - 1))) - born)
        elif kind == "s":
            items.append(draw(uses()))
        elif kind == "l":
            items.append(draw(st.floats(0.0, 1e-3)))
        elif kind == "r" and alive:
            # A block of a model: it frees what the one before it returned.
            size, other = draw(sizes), draw(sizes)
            last = alive.pop()
            for _ in range(repeats):
                own = use_of(Workspace(size), soft=True)
                items += [other, 1e-4, own, size, -2, 5e-4, last - born - 2]
                items += [1e-6 * index for index in range(30)]
                last, born = born + 1, born + 2
            alive.append(last)
    return Log((LoggedStretch(tuple(items)),), tuple(alive), operators=len(items))


def prepared(before, log):
    """Return a GPU some of whose blocks are held, and whose allocator has served `log` once."""
    gpu = VirtualGPU("rtx-4090")
    held = [gpu.allocate(nbytes) for nbytes in before]
    for block in held[::2]:
        gpu.allocator.free(block)
    gpu.held = held[1::2]
    free(gpu, Player(log).play(gpu))
    return gpu


def free(gpu, blocks):
    for block in blocks:
        gpu.allocator.free(block)


def figures(gpu):
    return (
        allocator_report.flat_stats(gpu.allocator),
        allocator_report.snapshot(gpu.allocator),
        (gpu.clock.host, gpu.clock.at(0)),
        (gpu.h2d_bytes, gpu.dispatch.operators, gpu.most_peak_bytes),
        (*gpu.workspace_peak, gpu.workspace_peak[1].least, gpu.workspace_peak[1].most),
    )


@given(st.lists(sizes, max_size=12), logs(), st.booleans())
def test_net_effects_are_what_the_requests_do(before, log, reset):
    """One player remembers, the other GPU gets a new one each time."""
    asked, netted = prepared(before, log), prepared(before, log)
    player = Player(log)
    for _ in range(4):
        ours, theirs = player.play(netted), Player(log).play(asked)

        assert [block.address for block in ours] == [block.address for block in theirs]
        assert figures(netted) == figures(asked)
        for gpu, blocks in ((netted, ours), (asked, theirs)):
            free(gpu, blocks[::2])
            gpu.held += blocks[1::2]
            if reset:
                gpu.allocator.reset_peak()
    for gpu in (netted, asked):
        free(gpu, gpu.held)
    assert figures(netted) == figures(asked)


@given(logs())
def test_requests_are_those_of_a_plain_loop(log):
    """A second computation, without pieces and nets."""
    played, looped = VirtualGPU("rtx-4090"), VirtualGPU("rtx-4090")
    player = Player(log)
    for _ in range(3):
        blocks = player.play(played)
        births = []
        for item in log.stretches[0].items:
            if isinstance(item, float):
                looped.clock.launch(looped.launch_seconds, item)
            elif isinstance(item, StorageUse):
                looped.use_workspace(item.workspace, soft=item.soft)
            elif item >= 0:
                births.append(looped.allocate(item))
            else:
                looped.allocator.free(births[item])
        looped.dispatch.operators += log.operators
        assert figures(played) == figures(looped)
        free(played, blocks)
        free(looped, [births[number] for number in log.survivors])


def test_a_log_is_cut_where_it_repeats_itself():
    block = tuple(range(40))
    items = (7, 8, *block, *block, *block, 9)

    assert list(cut_where_repeated(items)) == [(7, 8), block, block, block, (9,)]
    assert list(cut_where_repeated(())) == []


@given(st.lists(st.integers(0, 1), max_size=300))
def test_parts_of_a_log_are_all_of_it(items):
    assert [item for part in cut_where_repeated(tuple(items)) for item in part] == items


def test_the_observers_of_a_copy_see_what_was_asked_until_then():
    gpu = VirtualGPU("rtx-4090")
    seen = []
    gpu.copy_observers.append(lambda *copy: seen.append((*copy, gpu.allocator.allocated_bytes)))
    stretches = (
        LoggedStretch((512, 1e-3, 4096), LinkCopy("cpu", "cuda", 4096)),
        LoggedStretch((-2,)),
    )

    blocks = Player(Log(stretches, (1,), 3)).play(gpu)

    assert seen == [("cpu", "cuda", 4096, 512 + 4096)]
    assert [block.requested for block in blocks] == [4096]
    assert gpu.h2d_bytes == 4096
    assert gpu.clock.host > 1e-3


REFUSED = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.cpu().numpy(),
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "equal": lambda x: torch.equal(x, x),
    "bool": lambda x: bool(x.any()),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "empty_cache": lambda x: torch.cuda.empty_cache(),
    "reset_peak": lambda x: torch.cuda.reset_peak_memory_stats(),
    "a host tensor": lambda x: torch.zeros(4),
    "a stream": lambda x: torch.cuda.Stream(),
    "an event": lambda x: torch.cuda.Event().record(),
    "record_stream": lambda x: x.record_stream(torch.cuda.current_stream()),
    "a freed argument": lambda x: setattr(x, "data", torch.empty(3, device="cuda")),
}


@pytest.mark.parametrize("deed", REFUSED)
def test_what_no_log_can_hold_is_refused(deed):
    with VirtualGPU("rtx-4090") as gpu:
        tensor = torch.empty(1 << 18, device="cuda")
        recorder = LogRecorder(gpu)
        with recorder.watching():
            REFUSED[deed](tensor)

    assert recorder.refused


def test_a_written_value_that_was_there_before_is_refused():
    with VirtualGPU("rtx-4090") as gpu:
        counter = torch.zeros(3, device="cuda")
        recorder = LogRecorder(gpu)
        with recorder.watching():
            counter.add_(1)

    assert recorder.refused == "writes to a value that was there before"


def test_a_log_holds_every_request_in_order():
    """A product takes cuBLAS's workspace, which stays; the sum's result survives, the product's does not."""
    with VirtualGPU("rtx-4090") as gpu:
        tensor = torch.empty(256, 256, device="cuda")
        recorder = LogRecorder(gpu)
        with recorder.watching():
            result = (tensor @ tensor) + tensor
        log = recorder.log()

        assert recorder.refused == ""
        nbytes = 256 * 256 * 4
        (stretch,) = log.stretches
        kept = [item for item in stretch.items if not isinstance(item, float)]
        assert kept == [nbytes, gpu.spec.cublas_workspace_bytes, nbytes, -3]
        assert [type(item) for item in stretch.items].count(float) == 2
        assert log.survivors == (1, 2)
        assert log.operators == 2
        assert recorder.birth_of(result.storage_record) == 2
        assert recorder.birth_of(tensor.storage_record) is None
