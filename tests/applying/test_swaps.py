"""The swaps `drop` and `pinned` on real hooks, on the virtual GPU, under the tracer."""

from __future__ import annotations

import pytest
import torch
from accelerate.hooks import remove_hook_from_module
from tiny_pipelines import Act, Script, build
from torch import nn

from profiler.allocator.pinned_chunks import pinned_bytes
from profiler.applying.hooks.drop import DropOffload
from profiler.applying.hooks.pinned import PinnedOffload
from profiler.applying.hooks.sticky import keep_excluded
from profiler.applying.hooks.swaps import swap
from profiler.planning.replaying.simulate import NOT_REPLAYED
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

# fp16: a 2000, b 8000, c 4000 bytes, each with a buffer of 24 bytes. On the GPU a takes 2560, b 8704, c 4608.
SCRIPT = Script(
    {"a": (1000,), "b": (4000,), "c": (2000,)},
    (
        Act("run", "a", 100, 100),
        Act("run", "b", 3000, 100),
        Act("run", "b", 3000, 100),
        Act("encode", "c", 1000, 100),
    ),
)
NAMES = tuple(SCRIPT.components)
PARTS = (1000 * 2, 4000 * 2, 2000 * 2)


@pytest.fixture(autouse=True)
def gpu():
    with VirtualGPU(capacity="2GiB") as virtual:
        yield virtual


def traced(script, how, *, calls=1, names=NAMES):
    pipe = build(script)
    with trace(pipe) as t:
        pipe.enable_model_cpu_offload()
        swap(pipe, dict.fromkeys(names, how))
        keep_excluded(pipe)
        for _ in range(calls):
            pipe()
    return pipe, t.profile.events


def plain(event, **more):
    return event._replace(**NOT_REPLAYED, **more)


@pytest.mark.parametrize("how", ["drop", "pinned"])
def test_events_are_those_of_stock_hooks_without_the_way_down(how):
    _, stock = traced(SCRIPT, "copy", calls=2)
    _, swapped = traced(SCRIPT, how, calls=2)
    nothing_down = [
        plain(e, bytes=0, to_device="meta") if e.kind == "offload" else plain(e) for e in stock
    ]
    assert [plain(event) for event in swapped] == nothing_down
    assert sum(e.kind == "offload" for e in stock) == 6


def test_ram_holds_everything_all_the_time(gpu):
    _, dropped = traced(SCRIPT, "drop")
    everything = sum(PARTS) + 3 * 24
    assert {(e.host_pageable_bytes, e.host_pinned_bytes) for e in dropped} == {(everything, 0)}


def test_pinned_memory_is_what_the_packing_says():
    _, events = traced(SCRIPT, "pinned")
    expected = sum(pinned_bytes([size]) for size in PARTS)
    # The buffers are indices, which stay where they are.
    within = [e for e in events if e.call == 0]
    assert {(e.host_pageable_bytes, e.host_pinned_bytes) for e in within} == {(3 * 24, expected)}


def test_pinning_takes_a_component_twice_only_by_a_chunk(gpu):
    module = nn.ModuleList(nn.Linear(1024, 512, bias=False) for _ in range(33))
    held = gpu.host.total_bytes
    gpu.host.take_peak()
    PinnedOffload(torch.device("cuda", 0)).init_hook(module)
    size = 1024 * 512 * 4
    # 33 tensors of 2 MiB: one chunk of 64 MiB for 32 of them and one of 2 MiB.
    assert gpu.host.pinned_bytes == pinned_bytes([size] * 33) == 33 * size
    assert gpu.host.take_peak() == held + 32 * size
    assert gpu.host.pageable_bytes == held - 33 * size


@pytest.mark.parametrize("hook", [DropOffload, PinnedOffload])
def test_pipelines_own_call_takes_everything_off(gpu, hook):
    how = "drop" if hook is DropOffload else "pinned"
    pipe, _ = traced(SCRIPT, how)
    pipe.a.to("cuda")
    before = gpu.host.pageable_bytes
    pipe.remove_all_hooks()
    assert not any("_hf_hook" in vars(part) for part in pipe.components.values())
    tensors = [t for part in pipe.components.values() for t in part.parameters()]
    assert {(str(t.device), t.is_pinned()) for t in tensors} == {("cpu", False)}
    assert gpu.host.pinned_bytes == 0
    assert gpu.host.pageable_bytes >= before


def values(module):
    return {name: tensor.tolist() for name, tensor in module.state_dict().items()}


def small():
    module = nn.Linear(2, 2).half()
    module.register_buffer("positions", torch.arange(3))
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        module.bias.copy_(torch.tensor([5.0, 6.0]))
    return module


class Watched:
    """A module under a hook, whose trips the tracer sees."""

    def __init__(self, hook):
        self.module = small()
        self.hook = hook(torch.device("cuda", 0))
        self.module = self.hook.init_hook(self.module)

    def round_trip(self, change):
        """Bring the module, change it on the GPU, send it home, and return (bytes down, device)."""
        with trace(self.module) as t:
            self.hook.pre_forward(self.module)
            change(self.module)
            self.hook.init_hook(self.module)
        downs = [e for e in t.profile.events if e.kind == "offload"]
        return [(e.bytes, e.to_device) for e in downs]


def write_in_place(module):
    module.weight.mul_(2)


def replace_data(module):
    module.weight.data = module.weight.data * 2


def cast_there_and_back(module):
    module.float()
    module.half()


def replace_buffer(module):
    module.positions = torch.arange(3, device="cuda") + 1


def leave(module):
    pass


@pytest.mark.parametrize("hook", [DropOffload, PinnedOffload])
@pytest.mark.parametrize(
    ("change", "down"),
    [
        (leave, (0, "meta")),
        (write_in_place, (4 * 2, "cpu")),
        (replace_data, (4 * 2, "cpu")),
        (cast_there_and_back, (6 * 2, "cpu")),  # the integers are not cast
        (replace_buffer, (3 * 8, "cpu")),
    ],
)
def test_only_what_was_changed_goes_down(hook, change, down):
    watched, alone = Watched(hook), small().to("cuda")
    change(alone)
    assert watched.round_trip(change) == [down]
    assert {str(one.device) for one in watched.module.state_dict().values()} == {"cpu"}
    # From then on that is the host's copy.
    assert watched.round_trip(leave) == [(0, "meta")]
    if hook is DropOffload:  # a virtual GPU forgets the values of what is packed
        assert values(watched.module) == values(alone)


def test_what_was_changed_goes_back_into_pinned_memory(gpu):
    watched = Watched(PinnedOffload)
    held = gpu.host.pinned_bytes
    watched.round_trip(write_in_place)
    watched.round_trip(cast_there_and_back)
    assert watched.module.weight.is_pinned()
    assert gpu.host.pinned_bytes == held


def test_cast_on_the_host_is_what_is_brought_next():
    """As SDXL's VAE, which is cast to fp32 while it is on the CPU, and back on the GPU."""
    watched = Watched(PinnedOffload)
    watched.module.float()
    assert not watched.module.weight.is_pinned()
    assert watched.round_trip(lambda module: module.half()) == [(6 * 2, "cpu")]
    assert watched.module.weight.is_pinned()


def test_ties_are_kept():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    for hook in (DropOffload(torch.device("cuda", 0)), PinnedOffload(torch.device("cuda", 0))):
        module = hook.init_hook(Tied())
        hook.pre_forward(module)
        assert module.first.weight is module.second.weight
        assert torch.cuda.memory_allocated() == 3 * 512
        hook.init_hook(module)
        assert module.first.weight is module.second.weight
        assert torch.cuda.memory_allocated() == 0
        hook.detach_hook(module)
        assert module.first.weight is module.second.weight


def test_out_of_memory_half_way_leaves_a_module_that_goes_home():
    module = nn.ModuleList(nn.Linear(1 << 14, 1 << 14, bias=False) for _ in range(3))
    hook = DropOffload(torch.device("cuda", 0))
    hook.init_hook(module)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        hook.pre_forward(module)
    assert torch.cuda.memory_allocated() == 1 << 30
    hook.init_hook(module)
    assert torch.cuda.memory_allocated() == 0


def test_a_hook_of_another_pipeline_can_be_chained():
    """The hook is taken off and attaches it again, as the first of two."""
    pipe, _ = traced(SCRIPT, "pinned")
    second = type(pipe)(**pipe.components)
    second.script = SCRIPT
    second.enable_model_cpu_offload()
    assert not any(t.is_pinned() for t in pipe.a.parameters())
    second()
    for part in pipe.components.values():
        remove_hook_from_module(part)
