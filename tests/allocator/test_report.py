"""What `torch.cuda` says about memory inside a virtual GPU: PyTorch's keys, PyTorch's words."""

import pickle
import threading

import pytest
import torch
from torch.cuda import memory

from profiler.virtual import VirtualGPU

MIB = 1 << 20


@pytest.fixture
def gpu():
    with VirtualGPU("rtx-4090", capacity="2GiB") as gpu:
        yield gpu


def held(mebibytes):
    return torch.empty(mebibytes * MIB, dtype=torch.uint8, device="cuda")


def test_statistics_have_pytorch_s_keys(gpu):
    kept, gone = held(3), held(1)
    del gone
    stats = torch.cuda.memory_stats()
    assert list(stats) == sorted(stats)
    wanted = {
        "allocation.all.current": 1,
        "allocation.large_pool.allocated": 1,
        "allocation.small_pool.freed": 1,
        "allocated_bytes.all.current": 3 * MIB,
        "allocated_bytes.all.peak": 4 * MIB,
        "allocated_bytes.all.allocated": 4 * MIB,
        "allocated_bytes.all.freed": MIB,
        "active_bytes.small_pool.peak": MIB,
        "requested_bytes.all.current": 3 * MIB,
        "reserved_bytes.all.current": 22 * MIB,
        "segment.all.current": 2,
        "inactive_split.all.current": 1,
        "inactive_split_bytes.large_pool.current": 17 * MIB,
        "oversize_segments.current": 0,
        "max_split_size": -1,
        "num_alloc_retries": 0,
        "num_ooms": 0,
        "num_device_alloc": 2,
    }
    assert {name: stats[name] for name in wanted} == wanted
    nested = torch.cuda.memory_stats_as_nested_dict()
    assert nested["segment"]["small_pool"]["current"] == 1
    assert torch.cuda.memory_reserved() == 22 * MIB == torch.cuda.max_memory_reserved()
    assert kept.is_cuda


def test_the_summary_is_pytorch_s_own_table(gpu):
    kept = held(3)
    lines = torch.cuda.memory_summary(abbreviated=True).splitlines()
    assert "PyTorch CUDA memory summary, device ID 0" in lines[1]
    assert "| Allocated memory      |   3072 KiB |   3072 KiB |   3072 KiB |      0 B   |" in lines
    assert "| GPU reserved memory   |  20480 KiB |  20480 KiB |  20480 KiB |      0 B   |" in lines
    assert kept.is_cuda


def test_a_snapshot_shows_every_block(gpu):
    kept = held(3)
    (segment,) = torch.cuda.memory_snapshot()
    assert [(b["size"], b["state"]) for b in segment["blocks"]] == [
        (3 * MIB, "active_allocated"),
        (17 * MIB, "inactive"),
    ]
    sizes = {key: segment[key] for key in ("total_size", "allocated_size", "active_size")}
    assert sizes == {"total_size": 20 * MIB, "allocated_size": 3 * MIB, "active_size": 3 * MIB}
    assert (segment["segment_type"], segment["stream"], segment["is_expandable"]) == (
        "large",
        0,
        False,
    )
    assert segment["blocks"][0]["address"] == kept.data_ptr()


def test_out_of_memory_is_said_in_pytorch_s_words(gpu):
    kept = held(1530)
    context = gpu.spec.context_bytes
    torch.cuda.set_per_process_memory_fraction(0.75)
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
        held(3)
    used, free = context + 1530 * MIB, 2048 * MIB - context - 1530 * MIB
    assert str(raised.value) == (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 2.00 GiB of which "
        f"{free / MIB:.2f} MiB is free. Including non-PyTorch memory, this process has {used / MIB / 1024:.2f} GiB "
        "memory in use. 1.50 GiB allowed; Of the allocated memory 1.49 GiB is allocated by PyTorch, and 0 bytes is "
        "reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
        "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for Memory Management  "
        "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
    )
    assert torch.cuda.memory_stats()["num_ooms"] == 1
    assert kept.is_cuda


def test_a_tensor_made_on_a_stream_is_reused_there_only(gpu):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        on_stream = held(12)
    del on_stream
    on_default = held(12)
    assert torch.cuda.memory_reserved() == 24 * MIB
    assert on_default.is_cuda


def test_record_stream_holds_memory_back_until_the_stream_is_done(gpu):
    stream = torch.cuda.Stream()
    used = held(400)
    with torch.cuda.stream(stream):
        used.add_(1)
    used.record_stream(stream)
    del used
    # The host runs ahead of the stream: 400 MiB take longer to add to than a launch.
    other = held(400)
    assert torch.cuda.memory_reserved() == 800 * MIB
    blocks = [block for segment in torch.cuda.memory_snapshot() for block in segment["blocks"]]
    assert [block["state"] for block in blocks] == ["active_pending_free", "active_allocated"]
    torch.cuda.synchronize()
    again = held(400)
    assert torch.cuda.memory_reserved() == 800 * MIB
    assert other.data_ptr() != again.data_ptr()
    assert torch.cuda.memory_allocated() == 800 * MIB


def test_torch_refuses_what_it_refuses():
    with VirtualGPU("rtx-4090"):
        for wrong, message in (
            ({"enabled": "some"}, "expected state"),
            ({"context": "some"}, "expected context"),
            ({"stacks": "some"}, "expected stacks"),
            ({"skip_actions": ["some"]}, "Unknown TraceEntry action"),
        ):
            with pytest.raises(RuntimeError, match=message):
                memory._record_memory_history(**wrong)
        assert not torch._C._cuda_isHistoryEnabled()
        memory._record_memory_history(True, trace_alloc_max_entries=10)  # as it was called once
        assert torch._C._cuda_isHistoryEnabled()
        memory._record_memory_history(False)
        assert not torch._C._cuda_isHistoryEnabled()


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_other_threads_find_torch_as_it_is(build, monkeypatch):
    """A CPU build of torch has no such functions in C++, and has none afterwards."""
    found = []
    monkeypatch.delattr(torch._C, "_cuda_isHistoryEnabled", raising=False)
    if build == "cuda":
        monkeypatch.setattr(torch._C, "_cuda_isHistoryEnabled", lambda: "own", raising=False)

    def look():
        try:
            found.append(torch._C._cuda_isHistoryEnabled())
        except AttributeError as error:
            found.append(str(error))

    before = dict(vars(torch._C))
    with VirtualGPU("rtx-4090"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    absent = "module 'torch._C' has no attribute '_cuda_isHistoryEnabled'"
    assert found == ["own" if build == "cuda" else absent]
    assert dict(vars(torch._C)) == before


def test_a_dump_is_the_pickle_of_a_snapshot(tmp_path):
    with VirtualGPU("rtx-4090"):
        memory._record_memory_history(context=None)
        kept = torch.empty(1000, device="cuda")
        memory._dump_snapshot(str(tmp_path / "dump.pickle"))
        snapshot = memory._snapshot()
        assert kept.is_cuda
    dumped = pickle.loads((tmp_path / "dump.pickle").read_bytes())
    assert dumped["segments"] == snapshot["segments"]
    assert [entry["action"] for entry in snapshot["device_traces"][0]] == [
        "segment_alloc",
        "alloc",
        "snapshot",
    ]
    assert dumped["device_traces"][0] == snapshot["device_traces"][0][:2]
