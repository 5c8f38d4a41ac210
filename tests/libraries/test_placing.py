"""Every mode of diffusers on whole models at full size: what the tracer counts is what crossed the virtual link.

All models of the catalogue, with few layers each, are in `test_matrix_*.py`.
"""

import functools

import pytest
from daily import daily
from matrix import FAILS
from zoo import MODES

from profiler.gpus.hardware import gpu_spec
from profiler.pipelines import load_pipeline
from profiler.record import readings as reading
from profiler.tracing import profile_pipeline
from profiler.units import GIB
from profiler.virtual import VirtualGPU

MODELS = ("sdxl-base", "flux1-dev", "cogvideox-5b")
DAILY = ("sdxl-base",)


@functools.cache
def run(model, mode, spec="h200", steps=2, host_launch=40):
    """Return (profile, bytes up, bytes down, peak) of one run, as the tracer and as the virtual GPU have it."""
    with VirtualGPU(gpu_spec(spec).with_host_launch(host_launch)) as gpu:
        pipe = load_pipeline(model)
        profile = profile_pipeline(pipe, mode=MODES[mode], num_inference_steps=steps)
        return profile, gpu.h2d_bytes, gpu.d2h_bytes, gpu.allocator.peak_bytes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", daily(DAILY, MODELS))
def test_weights_and_other_bytes_are_all_that_crossed_the_link(model, mode):
    profile, h2d_bytes, d2h_bytes, peak_bytes = run(model, mode)
    assert profile.complete is ((model, mode) not in FAILS), profile.error
    totals = profile.totals
    copies = [event for event in profile.events if event.kind == "copy"]
    up = sum(event.bytes for event in copies if event.to_device == "cuda:0")
    down = sum(event.bytes for event in copies if event.to_device == "cpu")
    shown = {
        "h2d": (totals.h2d_weight_bytes, up, h2d_bytes),
        "d2h": (totals.d2h_weight_bytes, down, d2h_bytes),
    }
    assert {way: weights + other for way, (weights, other, _) in shown.items()} == {
        way: counted for way, (*_, counted) in shown.items()
    }, shown
    highest = max(max(event.lead_peak_bytes, event.peak_bytes) for event in profile.events)
    assert highest == totals.peak_allocated_bytes == peak_bytes
    assert sum(item.bytes for item in profile.bill) == peak_bytes


@pytest.mark.parametrize(("model", "mode"), [key for key in FAILS if key[0] in MODELS])
def test_a_failure_of_the_pipeline_is_told_with_the_profile_so_far(model, mode):
    profile, *_ = run(model, mode)
    assert profile.error.startswith(FAILS[model, mode])
    assert {event.phase for event in profile.events} >= {"encode", "denoise", "decode"}


@pytest.mark.parametrize(
    ("mode", "published_gib"), [("resident", 33.85), ("model", 22.64), ("sequential", 2.41)]
)
def test_flux_on_an_h100_is_within_two_percent_of_what_was_published(mode, published_gib):
    profile, *_ = run("flux1-dev", mode, spec="h100")
    assert profile.totals.peak_allocated_bytes / GIB == pytest.approx(published_gib, rel=0.02)


def test_flux_transformer_pins_what_streams_pin():
    # 22.15 GiB of weights, each tensor rounded up to a power of two (diffusers #11106 measured 35.11 GB of RAM).
    profile, *_ = run("flux1-dev", "group-block-stream")
    transformer = next(part for part in profile.components if part.name == "transformer")
    rounded = sum(1 << (t.numel * t.itemsize - 1).bit_length() for t in transformer.tensors)
    assert rounded / GIB == pytest.approx(34.6, abs=0.05)
    # The VAE's weights are pinned besides, 0.16 GiB in tensors of which few are a power of two.
    vae = next(part for part in profile.components if part.name == "vae")
    rest = profile.totals.host_pinned_bytes - rounded
    assert 0 < rest <= 2 * vae.bytes
    # While the copies are made the pageable originals are still there.
    assert profile.totals.host_peak_bytes >= rounded + transformer.bytes


def test_a_stream_hides_the_copies_that_wait_without_one():
    modes = ("group-leaf", "group-leaf-stream")
    # A host that hardly takes time: where every copy makes it wait, its launches leave the GPU idle after each.
    plain, streamed = (
        run("sd15", mode, spec="rtx-3060", host_launch=2)[0].totals for mode in modes
    )
    # From pageable memory every copy makes the host wait, so all of it is exposed.
    assert plain.exposed_transfer_seconds == pytest.approx(plain.transfer_seconds, rel=0.01)
    assert streamed.exposed_transfer_seconds < 0.5 * streamed.transfer_seconds
    # What is left without copies is the same work; on the stream the host issues copies while kernels run.
    rest = [totals.seconds - totals.exposed_transfer_seconds for totals in (plain, streamed)]
    assert rest[1] < rest[0] < 1.2 * rest[1]


def test_seconds_of_calls_and_steps_carry_their_copies():
    profile, *_ = run("sd15", "group-leaf-stream")
    (call,) = (tally for number, tally in reading.calls(profile) if number == 0)
    steps = [step.tally for step in reading.steps(profile)]
    totals = profile.totals
    assert call.transfer_seconds == pytest.approx(totals.transfer_seconds, rel=0.01)
    assert 0 < sum(step.transfer_seconds for step in steps) < call.transfer_seconds
    assert sum(step.exposed_transfer_seconds for step in steps) <= sum(s.seconds for s in steps)
    moved = profile.transfers[profile.transfers.direction == "h2d"]
    assert moved.transfer_seconds.sum() > 0


def test_a_controlnet_outside_the_sequence_stays_with_the_unet_to_the_end():
    from PIL import Image

    with VirtualGPU("rtx-4090") as gpu:
        pipe = load_pipeline("sdxl-controlnet")
        image = Image.new("RGB", (1024, 1024))
        profile = profile_pipeline(pipe, mode="model", image=image, num_inference_steps=2)
        counted = (gpu.h2d_bytes, gpu.d2h_bytes)
    assert (profile.totals.h2d_bytes, profile.totals.d2h_bytes) == counted
    moved = [
        (event.kind, event.component)
        for event in profile.events
        if event.kind in ("onload", "offload", "enter") and event.phase in ("denoise", "decode")
    ]
    assert moved == [
        ("enter", "controlnet"),
        ("onload", "controlnet"),
        ("enter", "unet"),
        ("offload", "text_encoder_2"),
        ("onload", "unet"),
        ("enter", "controlnet"),
        ("enter", "unet"),
        ("enter", "vae"),
        ("offload", "unet"),
        ("onload", "vae"),
        ("offload", "controlnet"),
        ("offload", "vae"),
    ]


def test_layerwise_casting_halves_what_it_casts_of_the_denoiser():
    cast, *_ = run("flux1-dev", "layerwise")
    plain, *_ = run("flux1-dev", "model")
    bytes_of = {
        name: next(
            event.bytes
            for event in profile.events
            if event.component == "transformer" and event.bytes
        )
        for name, profile in (("cast", cast), ("plain", plain))
    }
    # All but what diffusers skips: embeddings, norms (a fifth of FLUX's weights are modulations), projections.
    assert 0.5 < bytes_of["cast"] / bytes_of["plain"] < 0.67, bytes_of


def test_tiling_lowers_the_decode():
    tiled, *_ = run("cogvideox-5b", "tiling")
    plain, *_ = run("cogvideox-5b", "model")
    peaks = [
        max(event.lead_peak_bytes for event in profile.events if event.phase == "decode")
        for profile in (tiled, plain)
    ]
    assert peaks[0] < 0.75 * peaks[1]
