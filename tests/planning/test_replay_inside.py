"""The replay of hooks inside components against diffusers' and accelerate's real ones, event for event.

A tiny real pipeline is traced once under model offload. What the replay then says of group offload and sequential
offload must be what the tracer sees when these are really set up.
"""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from inside_worlds import SPLITS, in_calls, traced, workload
from replay_worlds import FAMILIES

from profiler.placements.scheme import Scheme
from profiler.planning.replaying.simulate import simulate
from profiler.tracing import trace
from profiler.virtual import VirtualGPU


def set_up(events):
    return [
        (event.kind, event.component, event.group, event.bytes)
        for event in events
        if event.call < 0
    ]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", ["sd15", "controlnet", "flux", "wan", "qwen_image"])
def test_a_split_pipeline_is_replayed_event_for_event(family, split):
    mode, inside = SPLITS[split]
    real = traced(family, mode).events
    names = workload(family).names
    ours = simulate(workload(family), Scheme(inside=dict.fromkeys(names, inside)))
    assert in_calls(ours) == in_calls(real)
    assert set_up(ours) == set_up(real)


class Sending(FluxPosEmbed):
    """Sends a table to the GPU in each forward, as Qwen-Image's positions did up to diffusers 0.38."""

    __module__ = FluxPosEmbed.__module__  # only forwards of known packages are replayed

    def forward(self, ids):
        self.table.to(ids.device)
        return super().forward(ids)


@pytest.mark.parametrize("sends", [False, True])
def test_a_run_whose_steps_were_replayed_tells_the_same_of_its_parts(sends):
    def parts(*, replay):
        with VirtualGPU("rtx-4090", replay=replay):
            pipe, call = FAMILIES["flux"]()
            if sends:
                pipe.transformer.pos_embed.__class__ = Sending
                pipe.transformer.pos_embed.table = torch.ones(1000)
            pipe.transformer.to(torch.float16)
            pipe.vae.to(torch.float16)
            with trace(pipe) as t:
                pipe.enable_model_cpu_offload()
                pipe(num_inference_steps=6, **call)
        return [
            (event.ordinal, inside.peak_bytes, [visit[:5] for visit in inside.visits])
            for event in t.profile.events
            if event.inside >= 0 and (inside := t.profile.insides[event.inside])
        ]

    told = parts(replay=False)
    assert parts(replay=True) == told
    assert len(told) == (12 if sends else 6)
