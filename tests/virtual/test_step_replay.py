"""Leaving a forward out changes no figure: every outcome is compared with that of a GPU that runs them all."""

from __future__ import annotations

import contextlib
import dataclasses
import gc

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from peft import LoraConfig
from replay_worlds import FAMILIES, flux, outcome, sd15
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.virtual import VirtualGPU
from profiler.virtual.step_replay.module_state import switches

STEPS = 7


def both(family, **options):
    """Return the outcomes with and without replay, after comparing them part by part."""
    ours, plain = (
        outcome(family, replay=replay, steps=STEPS, **options) for replay in (True, False)
    )
    assert ours.profile["events"] == plain.profile["events"]
    assert ours == plain
    return ours, plain


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "mode"),
    [*((family, "model") for family in FAMILIES), ("sd15", "resident"), ("wan", "resident")],
)
def test_replay_changes_no_figure(family, mode):
    ours, plain = both(family, mode=mode)

    assert ours.profile["complete"], ours.profile["error"]
    # At most three calls of each kind run: one that fills caches, and two that agree.
    assert ours.replayed >= STEPS - 3
    assert plain.replayed == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "mode"), [("flux", "sequential"), ("flux", "group-block"), ("wan", "group-leaf")]
)
def test_hooks_inside_a_model_keep_running(family, mode):
    ours, _ = both(family, mode=mode)

    assert ours.profile["complete"], ours.profile["error"]
    assert ours.replayed == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mode", "options"),
    [("group-leaf", {"stream": True}), ("resident", {"layerwise_casting": True})],
)
def test_streams_and_casts_inside_a_model_change_nothing(mode, options):
    ours, _ = both("flux", mode=mode, options=options)

    assert ours.profile["complete"], ours.profile["error"]
    assert ours.replayed == 0


def test_a_cache_of_steps_is_not_replayed():
    """FirstBlockCache decides by values whether it computes the other blocks, and keeps what they made."""

    def cache(pipe):
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.2))
        return {}

    ours, _ = both("flux", prepare=cache)

    assert ours.profile["complete"], ours.profile["error"]
    assert ours.replayed == 0


def test_an_adapter_that_comes_between_steps_is_seen():
    adapter = LoraConfig(r=4, target_modules=["to_q", "to_k"])
    ours, _ = both("flux", prepare=_at_step(4, lambda pipe: pipe.transformer.add_adapter(adapter)))

    assert ours.profile["complete"], ours.profile["error"]
    assert ours.replayed > 0


@pytest.mark.parametrize(
    "settings", ["expandable_segments:True", "garbage_collection_threshold:0.5"]
)
def test_the_allocator_settings_change_nothing(settings, monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", settings)
    ours, _ = both("flux", mode="model")
    assert ours.replayed > 0


def test_a_users_hook_inside_is_called_in_every_step():
    calls = []

    def count(pipe):
        hook = pipe.transformer.transformer_blocks[1].register_forward_hook(
            lambda *_: calls.append(1)
        )
        assert hook is not None
        return {}

    both("flux", prepare=count)

    assert len(calls) == 2 * (STEPS + 3)  # with replay and without


def test_a_users_hook_on_the_model_is_called_and_the_forward_left_out():
    calls = []

    def count(pipe):
        pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
        return {}

    ours, _ = both("flux", prepare=count)

    assert len(calls) == 2 * (STEPS + 3)
    assert ours.replayed > 0


def test_a_users_attention_processor_is_called_in_every_step():
    calls = []

    def replace(pipe):
        attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1
        stock = attention.processor

        class Counting:
            def __call__(self, *args, **kwargs):
                calls.append(1)
                return stock(*args, **kwargs)

        attention.set_processor(Counting())
        return {}

    both("sd15", prepare=replace)

    assert len(calls) == 2 * (STEPS + 3)


def _at_step(number, change):
    """Return a `prepare` by which `change(pipe)` is called at the end of a step."""

    def on_end(pipe, step, timestep, inputs):
        if step == number:
            change(pipe)
        return {}

    return lambda _: {"callback_on_step_end": on_end}


CHANGES = {
    "another attribute": lambda pipe: pipe.unet.fuse_qkv_projections(),
    "another attribute of a part": lambda pipe: setattr(
        pipe.unet.mid_block.resnets[0], "output_scale_factor", 2.0
    ),
    "a part less": lambda pipe: _transformer(pipe).transformer_blocks.__delitem__(0),
    "other weights": lambda pipe: pipe.unet.conv_in.to(torch.float32).to(torch.float16),
    "another processor": lambda pipe: pipe.unet.set_attn_processor(_sliced()),
}


def _transformer(pipe):
    return pipe.unet.mid_block.attentions[0]


def _sliced():
    from diffusers.models.attention_processor import SlicedAttnProcessor

    return SlicedAttnProcessor(1)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_between_steps_is_seen(change):
    both("sd15", prepare=_at_step(4, CHANGES[change]))


def test_another_order_of_attention_backends_is_another_call():
    before = switches()
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True):
        inside = switches()
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True):
            assert switches() != inside
    assert switches() == before


def test_a_hook_that_comes_between_steps_is_called():
    calls = []

    def hook(pipe):
        pipe.unet.mid_block.register_forward_pre_hook(lambda *_: calls.append(1))

    both("sd15", prepare=_at_step(4, hook))

    assert len(calls) > 0
    assert len(calls) % 2 == 0


def test_memory_that_runs_out_in_a_left_out_forward_is_told_as_in_a_real_one():
    kept = []

    def fill(pipe):
        """Take what is free, and what is in the pools, down to pieces that no forward can do with."""
        for nbytes in (64 << 20, 2 << 20, 16 << 10):
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                while True:
                    kept.append(torch.empty(nbytes, dtype=torch.uint8, device="cuda"))

    def out_of_memory(**options):
        found = outcome("flux", prepare=_at_step(4, fill), capacity="2GiB", **options)
        kept.clear()
        # How many operators ran before the one that failed, and in which parts, is known of a real forward only.
        events = tuple(event._replace(inside=-1) for event in found.profile["events"])
        return dataclasses.replace(
            found,
            profile={**found.profile, "events": events, "insides": ()},
            counts=(*found.counts[:2], *found.counts[3:]),
        )

    ours, real = out_of_memory(), out_of_memory(replay=False)

    assert ours == real
    assert "OutOfMemoryError in transformer" in ours.profile["error"]
    assert ours.replayed > 0


def test_others_who_listen_see_every_operator():
    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.operators = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.operators += 1
            return func(*args, **(kwargs or {}))

    with VirtualGPU("rtx-4090") as gpu:
        pipe, call = flux()
        pipe.to("cuda", torch.float16)
        pipe(num_inference_steps=5, **call)
        replayed = gpu.replay.replayed
        with Count() as count:
            pipe(num_inference_steps=5, **call)

    assert replayed > 0
    assert gpu.replay.replayed == replayed
    assert count.operators > 1000


@pytest.mark.parametrize("mode", ["resident", "model"])
def test_what_is_remembered_keeps_no_memory(mode):
    with VirtualGPU("rtx-4090") as gpu:
        pipe, call = sd15()
        enable_mode(pipe, Mode(name=mode))
        call = {**call, "prompt_embeds": call["prompt_embeds"].float()}
        call["negative_prompt_embeds"] = call["negative_prompt_embeds"].float()
        pipe(num_inference_steps=5, **call)
        assert gpu.replay.replayed > 0
        removed = pipe.unet.mid_block
        pipe.unet.mid_block = None
        weights = sum(-(-tensor.nbytes // 512) * 512 for tensor in removed.parameters())
        before = torch.cuda.memory_allocated() + gpu.host.pageable_bytes
        del removed
        gc.collect()
        after = torch.cuda.memory_allocated() + gpu.host.pageable_bytes
        assert before - after >= 0.9 * weights
        del pipe, call
        gc.collect()
        assert torch.cuda.memory_allocated() == gpu.workspace_bytes
        assert gpu.host.pageable_bytes < 4096
