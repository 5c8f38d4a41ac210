"""Components that are split and cast between their forwards: what the real hooks do, and their replay.

SDXL's VAE is cast to float32 in every call. A made-up component has what no VAE of diffusers has: buffers of all kinds.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from diffusers import DiffusionPipeline, ModelMixin
from inside_worlds import LINK, SPLITS, in_calls, insides, traced, workload
from torch import nn

from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.placements.placement import DISK, LEVERS
from profiler.placements.scheme import Scheme
from profiler.planning.costs.table import evaluate, tabulate
from profiler.planning.replaying.simulate import simulate
from profiler.planning.replaying.workload import workload_of
from profiler.planning.vocabulary import placements
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

FOLLOWING = [name for name, (mode, _) in SPLITS.items() if not mode.stream]
KEEPING = [name for name, (mode, _) in SPLITS.items() if mode.stream]


@pytest.mark.parametrize("split", FOLLOWING)
@pytest.mark.parametrize("family", ["sdxl_upcast", "sdxl_img2img"])
def test_a_cast_vae_is_replayed_event_for_event(family, split):
    mode, inside = SPLITS[split]
    assert inside in insides(family)["vae"][0]
    names = workload(family).names
    ours = simulate(workload(family), Scheme(inside=dict.fromkeys(names, inside)))
    assert in_calls(ours) == in_calls(traced(family, mode).events)


# What meets the weights that kept their dtype first: the norm of a block, or the first convolution.
TOLD = dict.fromkeys(KEEPING, re.escape("Input type (float) and bias type (c10::Half) should be"))
TOLD["blocks, stream"] = re.escape(
    "mixed dtype (CPU): expect parameter to have scalar type of Float"
)


@pytest.mark.parametrize("split", KEEPING)
def test_a_stream_does_not_get_through_a_cast_and_is_not_offered(split):
    mode, inside = SPLITS[split]
    with pytest.raises(RuntimeError, match=TOLD[split]):
        traced("sdxl_upcast", mode)
    split_ways, streamed = insides("sdxl_upcast")["vae"]
    assert inside not in split_ways
    assert not any(getattr(way, "disk", False) for way in split_ways)
    assert streamed == ()


class Block(nn.Module):
    def __init__(self, width, *, loose):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("shift", torch.zeros(width), persistent=not loose)
        self.register_buffer("index", torch.arange(3))

    def forward(self, x):
        return self.linear(x) + self.shift


class Buffered(ModelMixin):
    """Floating buffers in a part that is sent with the component, in blocks and, where asked for, of its own."""

    def __init__(self, width, *, own):
        super().__init__()
        self.first = Block(width, loose=True)
        self.blocks = nn.ModuleList(Block(width, loose=False) for _ in range(2))
        if own:
            self.register_buffer("shift", torch.zeros(width))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x + getattr(self, "shift", 0)


class Recasting(DiffusionPipeline):
    """Runs its component in float32, and then in float16."""

    model_cpu_offload_seq = "vae"

    def __init__(self, vae):
        super().__init__()
        self.register_modules(vae=vae)

    @torch.no_grad()
    def __call__(self):
        x = torch.zeros(2, 300, device=self._execution_device)
        for dtype in (torch.float32, torch.float16):
            self.vae.to(dtype)
            x = self.vae(x.to(dtype))
        self.maybe_free_model_hooks()
        return x


def recasting(mode, *, own=False):
    with VirtualGPU("rtx-4090"):
        pipe = Recasting(Buffered(300, own=own).to(torch.float16))
        with trace(pipe) as t:
            enable_mode(pipe, mode)
            for _ in range(3):
                pipe()
    return t.profile


@cache
def of_buffers(*, own):
    return workload_of(recasting(Mode(name="model"), own=own))


@pytest.mark.parametrize("split", ["sequential", "blocks", "pairs of blocks"])
def test_cast_buffers_are_replayed_event_for_event(split):
    mode, inside = SPLITS[split]
    scheme, calls = Scheme(inside={"vae": inside}), 5
    events = simulate(of_buffers(own=False), scheme, calls=calls)
    assert in_calls(event for event in events if event.call < 3) == in_calls(recasting(mode).events)
    totals = evaluate(tabulate(of_buffers(own=False), LINK), scheme)
    last = [event for event in events if event.call == calls - 1]
    assert totals.peak_allocated_bytes == max(
        max(event.lead_peak_bytes, event.peak_bytes) for event in events
    )
    assert totals.h2d_weight_bytes == sum(e.bytes for e in last if e.kind == "onload")
    assert totals.d2h_weight_bytes == sum(e.bytes for e in last if e.kind == "offload")


def test_only_what_gets_through_is_offered():
    """Groups list buffers of modules that are not theirs: a cast leaves the model with others, which stay at home."""
    for own in (False, True):
        component = of_buffers(own=own).components[0]
        cost_table = tabulate(of_buffers(own=own), LINK)
        offered = list(placements(component, cost_table, (*LEVERS, DISK), leaving_rest=False))
        for mode, inside in SPLITS.values():
            if inside in offered:
                assert recasting(mode, own=own).complete
            else:
                with pytest.raises((RuntimeError, KeyError)):
                    recasting(mode, own=own)
