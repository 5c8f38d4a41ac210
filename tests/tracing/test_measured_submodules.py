"""Which forwards are looked at on a GPU, what stands for the others, and whose times they are."""

import pytest
import torch
from gpu_worlds import measured_reader, tiny, traced_as
from torch import nn

from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.tracing import Trace
from profiler.tracing.measured.reader import MeasuredReader
from profiler.virtual import VirtualGPU
from profiler.virtual.tensor import VirtualTensor
from profiler.virtual.torch_api.functions import active_gpu


class Net(nn.Module):
    """Two layers; between them it may fetch something from the host."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.fetches = False

    def forward(self, x):
        x = self.first(x)
        if self.fetches:
            x = x + torch.ones(64).to("cuda")
        return self.second(x)


def insides_of(net, *fetches):
    """Return what the events of each forward, entering apart, say of the parts; the net fetches as told."""
    tracing = Trace(net, {}, measured_reader)
    with tracing:
        for net.fetches in fetches:
            net(torch.ones(8, 64, device="cuda"))
    return [
        [
            event.inside
            for event in tracing.profile.events
            if event.call == call and event.kind in ("copy", "exit")
        ]
        for call in range(len(fetches))
    ]


def test_a_forward_that_does_otherwise_is_not_vouched_for_and_the_next_is_looked_at():
    """The first forward makes cuBLAS's workspace; from the fourth on it fetches."""
    with VirtualGPU("rtx-4090", replay=False):
        found = insides_of(Net().to("cuda"), False, False, False, True, True, True, False, False)
    assert found == [[0], [1], [1], [-1, -1], [2, 3], [2, 3], [-1], [1]]


def test_other_shapes_are_another_kind():
    with VirtualGPU("rtx-4090", replay=False):
        net = Net().to("cuda")
        tracing = Trace(net, {}, measured_reader)
        with tracing:
            for rows in (8, 8, 8, 16, 16, 16):
                net(torch.ones(rows, 64, device="cuda"))
    exits = [event.inside for event in tracing.profile.events if event.kind == "exit"]
    assert exits == [0, 1, 1, 2, 2, 2]


def test_the_hook_at_the_parts_stands_for_two_forwards_of_a_kind():
    """Afterwards a part is called as if nobody traced."""
    seen = []
    with VirtualGPU("rtx-4090", replay=False):
        net = Net().to("cuda")
        plain = nn.Module._call_impl
        net.first.register_forward_hook(
            lambda *_: seen.append(nn.Module._call_impl is not plain),
        )
        insides_of(net, False, False, False, False)
    assert seen == [True, True, False, False]


class HeldUp(MeasuredReader):
    """A reader that takes its time, as a real one does; the host cannot go on meanwhile."""

    def take(self):
        active_gpu().clock.spend(50e-6)
        return super().take()


def test_times_are_those_of_forwards_that_nobody_looked_at():
    """Each reading takes fifty microseconds, and there are two for each part: the looking takes most of the time."""

    def held_up():
        clock = active_gpu().clock
        return HeldUp((torch.Tensor, VirtualTensor), lambda: clock.host)

    with VirtualGPU("rtx-4090", replay=False):
        pipe, call = tiny("flux")
        enable_mode(pipe, Mode())
        tracing = Trace(pipe, {}, held_up)
        with tracing:
            pipe(num_inference_steps=5, **call)
    plain = traced_as(measured_reader, "flux", Mode(), calls=1, steps=5)
    (_, steady), (_, true) = tracing.profile.insides, plain.insides
    reading = 2 * 50_000  # one before the forward is left, and one after it was entered
    assert steady.host_nanoseconds == pytest.approx(true.host_nanoseconds, abs=reading)
    assert steady.stream_nanoseconds == pytest.approx(true.stream_nanoseconds, abs=reading)
    last = steady.visits[-1]
    assert last.stream_nanoseconds <= steady.stream_nanoseconds
