"""Runs that do not fit, on a virtual GPU: each says who held what, what was asked for, and what was left.

The figures are checked against each other and against the GPU's: allocated + unallocated + free + context = capacity.
"""

import dataclasses
from contextlib import suppress

import pytest
import replay_worlds
import torch
from tiny_pipelines import Act, Script, build

from profiler.findings.failures import explained
from profiler.gpus import hardware
from profiler.pipelines.quiet import quiet
from profiler.record.moments import compute_peaks
from profiler.record.profile import PeakItem, Profile
from profiler.tracing import profile_pipeline, trace
from profiler.units import GIB, MIB, format_bytes
from profiler.virtual import VirtualGPU
from reports import story
from reports.sum_bar import SMALLEST, sum_pieces
from reports.timeline import timeline

CONTEXT = 400 * MIB


def gpu_of(room):
    whole = dataclasses.replace(hardware.gpu_spec("rtx-4090"), context_bytes=CONTEXT, slack_bytes=0)
    return VirtualGPU(whole.with_capacity(CONTEXT + room))


def failed(pipe, before=lambda: None):
    def run():
        with quiet(), tracing:
            before()
            pipe()

    tracing = trace(pipe)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run()
    return tracing.profile


def run(script, room, mode="model"):
    """Return the profile of a script that does not fit."""
    with gpu_of(room), quiet():
        return profile_pipeline(build(script), mode=mode)


def check(profile):
    """Check the sums of a failure, and return it with its finding."""
    failure = profile.failure
    assert not profile.complete
    assert failure.out_of_memory
    reserved = failure.allocated_bytes + failure.unallocated_bytes
    gpu = profile.gpu
    assert reserved + failure.free_bytes + gpu.context_bytes == gpu.capacity_bytes
    assert failure.requested_bytes > failure.free_bytes
    assert sum(item.bytes for item in failure.holders) == failure.allocated_bytes
    assert failure.largest_free_block_bytes <= failure.unallocated_bytes
    (found,) = [one for one in profile.findings if one.kind == "out_of_memory"]
    assert found.bytes == failure.requested_bytes - failure.free_bytes
    assert explained(profile, failure) in found.detail
    assert found.events == (failure.ordinal,)
    return failure, found


def weights(failure):
    return {item.holder: item.bytes for item in failure.holders if item.what == "weights"}


def half_of(megabytes):
    """Return the elements of a half tensor of so many MiB."""
    return megabytes * MIB // 2


def test_at_onload_the_weights_that_came_so_far_are_there():
    """`b` has two tensors of 40 MiB; 20 MiB of `a`'s result stay beside the first of them."""
    script = Script(
        {"a": (half_of(10),), "b": (half_of(40), half_of(40))},
        (Act("run", "a", kept=20 * MIB), Act("run", "b")),
    )
    profile = run(script, 95 * MIB)
    failure, found = check(profile)
    assert (failure.component, failure.doing, failure.phase) == ("b", "onload", "encode")
    assert profile.events[failure.ordinal].kind == "onload"
    assert failure.requested_bytes == 40 * MIB
    assert weights(failure) == {"b": 40 * MIB}
    assert failure.holders[-1] == PeakItem(holder="", what="unattributed", bytes=20 * MIB)
    assert found.title.endswith("while moving b to the GPU")
    assert "40.0 MiB were asked for" in found.detail
    assert "b weights 40.0 MiB, unattributed 20.0 MiB" in found.detail


def shown(profile):
    """Return what reports show of a failure: its peak breakdown, who computed, and the sum of the bar."""
    columns = timeline(profile).columns
    ran = {column.computing for column in columns} - {""}
    assert ran == set(compute_peaks(profile))
    bar = sum_pieces(profile)
    return [row[:3] for row in story.peak_breakdown(profile)], ran, bar


def test_a_component_that_was_only_moved_is_shown_by_nothing_as_running():
    """`b` is entered, its second tensor does not come, and it is left again: it held memory and never ran."""
    script = Script(
        {"a": (half_of(10),), "b": (half_of(40), half_of(40))},
        (Act("run", "a", kept=20 * MIB), Act("run", "b")),
    )
    profile = run(script, 95 * MIB)
    failure, found = check(profile)
    rows, ran, bar = shown(profile)
    assert ran == {"a"}
    assert rows == [tuple(dataclasses.asdict(item).values()) for item in failure.holders]
    assert "b activations" not in [piece.label for piece in bar]
    assert sum(row[2] for row in rows) == failure.allocated_bytes
    assert f"{format_bytes(failure.allocated_bytes)} were allocated" in found.detail
    assert sum(item.bytes for item in profile.bill) == profile.totals.peak_allocated_bytes
    assert not any(item.what == "activations" for item in profile.bill)


@pytest.mark.parametrize("room", [45, 70, 95, 130])
def test_wherever_it_ends_the_bar_is_the_gpu(room):
    script = Script(
        {"a": (half_of(40),), "b": (half_of(40), half_of(40))},
        (Act("run", "a", kept=20 * MIB, scratch=10 * MIB), Act("run", "b", scratch=30 * MIB)),
    )
    profile = run(script, room * MIB)
    assert not profile.complete
    rows, _, bar = shown(profile)
    assert sum(row[2] for row in rows) == profile.failure.allocated_bytes
    assert sum(piece.bytes for piece in bar) == pytest.approx(
        profile.gpu.capacity_bytes, rel=len(rows) * SMALLEST
    )


def test_in_a_forward_the_activations_are_told_from_the_weights():
    script = Script(
        {"a": (half_of(30),)}, (Act("run", "a", kept=24 * MIB), Act("run", "a", scratch=64 * MIB))
    )
    failure, found = check(run(script, 100 * MIB))
    assert (failure.component, failure.doing) == ("a", "forward")
    assert failure.requested_bytes == 64 * MIB
    assert [(item.holder, item.what, item.bytes) for item in failure.holders] == [
        ("a", "weights", 30 * MIB + 512),  # three positions of eight bytes take a block
        ("a", "activations", 24 * MIB),
    ]
    assert "in a.forward" in found.title


def test_while_placing_nothing_ran():
    script = Script({"a": (half_of(60),), "b": (half_of(60),)}, (Act("run", "a"),))
    profile = run(script, 100 * MIB, mode="resident")
    failure, found = check(profile)
    assert (failure.component, failure.doing, failure.phase) == ("b", "onload", "place")
    assert weights(failure) == {"a": 60 * MIB + 512}
    assert found.fix == "pipe.enable_model_cpu_offload()"


def test_in_a_cast_both_copies_are_on_the_gpu():
    script = Script({"a": (half_of(40),)}, (Act("run", "a"), Act("cast", "a", dtype="float32")))
    failure, _ = check(run(script, 100 * MIB, mode="resident"))
    assert (failure.component, failure.doing) == ("a", "cast")


def test_in_the_decode_of_a_real_pipeline_the_fix_is_tiling():
    """Qwen-Image's tiny pipeline peaks at 10 MiB in the transformer and at 74 in the decoder."""
    with gpu_of(60 * MIB), quiet():
        pipe, call = replay_worlds.qwen_image()
        pipe.transformer.half()
        pipe.vae.half()
        call |= {"height": 256, "width": 256, "output_type": "pil", "num_inference_steps": 1}
        profile = profile_pipeline(pipe, mode="model", **call)
    failure, found = check(profile)
    assert (failure.component, failure.doing, failure.phase) == ("vae", "decode", "decode")
    assert {item.what for item in failure.holders} >= {"weights", "activations"}
    assert found.fix == "pipe.vae.enable_tiling()"


def half_sdxl():
    """Return a tiny SDXL in half precision, whose VAE is cast for the decode, on the CPU, and its call."""
    pipe, call = replay_worlds.sdxl()
    pipe.to(torch.float16)
    pipe.set_progress_bar_config(disable=True)
    call |= {"height": 512, "width": 512, "output_type": "pil", "num_inference_steps": 1}
    return pipe, call


def test_what_a_failed_call_left_cast_is_told_since_the_next_one_fails_on_it():
    """Stock SDXL asks whether its VAE is in half precision, and casts nothing where a failed call left it in single."""
    with gpu_of(2 * GIB) as gpu, quiet():
        pipe, call = half_sdxl()
        pipe.enable_model_cpu_offload()
        segments = gpu.allocator.segments

        def tighten(*_):
            segments.allowed_bytes = gpu.allocator.reserved_bytes

        handle = pipe.vae.decoder.register_forward_pre_hook(tighten)
        profile = profile_pipeline(pipe, **call)
        handle.remove()
        segments.allowed_bytes = None
        assert (profile.failure.component, profile.failure.doing) == ("vae", "decode")
        (found,) = [one for one in profile.findings if one.kind == "left_cast"]
        assert profile.events[found.events[0]].kind == "cast"
        with pytest.raises(RuntimeError, match="should be the same"):
            pipe(**call)
        exec(found.fix, {"pipe": pipe, "torch": torch})
        pipe(**call)


def test_what_is_in_pieces_is_told_from_what_is_missing():
    """Two blocks of 8 MiB share a segment of 20; with one of each pair freed, 60 of 100 MiB are free, 12 in a piece."""
    script = Script({"a": (1000,)}, (Act("run", "a", kept=8 * MIB),) * 10)
    with gpu_of(125 * MIB), quiet():
        pipe = build(script)
        play = pipe._play

        def in_pieces(acts, kept):
            play(acts, kept)
            del kept[1::2]
            pipe.a(40 * MIB, 0)

        pipe._play = in_pieces
        profile = failed(pipe, before=lambda: pipe.to("cuda"))
    failure, found = check(profile)
    assert failure.unallocated_bytes >= failure.requested_bytes == 40 * MIB
    assert failure.largest_free_block_bytes == 12 * MIB
    assert "in one piece" in found.detail.lower()
    assert found.fix.startswith("PYTORCH_ALLOC_CONF=expandable_segments:True")


def test_pieces_that_would_not_hold_the_rest_of_a_component_are_not_blamed():
    """As above, but what is asked for is the first of two tensors of 40 MiB: 60 MiB in one piece would not do."""
    sizes = {"a": (1000,), "b": (half_of(40), half_of(40))}
    with gpu_of(125 * MIB), quiet():
        pipe = build(Script(sizes, (Act("run", "a", kept=8 * MIB),) * 10))
        pipe.model_cpu_offload_seq = "b"
        pipe._exclude_from_cpu_offload = ["a"]
        play = pipe._play

        def in_pieces(acts, kept):
            play(acts, kept)
            del kept[1::2]
            pipe.b(0, 0)

        pipe._play = in_pieces
        failure, found = check(failed(pipe, before=pipe.enable_model_cpu_offload))
    assert (failure.component, failure.doing) == ("b", "onload")
    assert failure.unallocated_bytes >= failure.requested_bytes == 40 * MIB
    assert "expandable" not in found.detail + found.fix


def test_a_failure_that_was_caught_is_not_the_one_that_ended_the_run():
    script = Script({"a": (half_of(10),)}, (Act("run", "a"),))
    with gpu_of(100 * MIB), quiet():
        pipe = build(script)

        def in_vain(*_):
            with suppress(torch.cuda.OutOfMemoryError):
                pipe.a(GIB, 0)
            raise ValueError("another")

        pipe._play = in_vain
        pipe.to("cuda")
        tracing = trace(pipe)
        with pytest.raises(ValueError, match="another"), tracing:
            pipe()
    failure = tracing.profile.failure
    assert (failure.component, failure.out_of_memory) == ("", False)
    assert [one.kind for one in tracing.profile.findings] == ["incomplete"]


def test_a_real_gpu_s_error_is_read_from_its_text(monkeypatch):
    """An exception without exact figures, as a real GPU raises it: to a hundredth of the unit, they are the same."""
    script = Script({"a": (half_of(30),)}, (Act("run", "a", scratch=640 * MIB),))
    with gpu_of(100 * MIB), quiet():
        exact = profile_pipeline(build(script), mode="model")
    original = VirtualGPU._no_memory

    def worded(gpu, segment_bytes):
        return torch.cuda.OutOfMemoryError(str(original(gpu, segment_bytes)))

    monkeypatch.setattr(VirtualGPU, "_no_memory", worded)
    with gpu_of(100 * MIB), quiet():
        read = profile_pipeline(build(script), mode="model")
    for name in ("requested_bytes", "free_bytes", "allocated_bytes", "unallocated_bytes"):
        one, other = getattr(exact.failure, name), getattr(read.failure, name)
        assert abs(one - other) <= MIB // 100, name
    assert weights(read.failure) == weights(exact.failure)
    assert sum(item.bytes for item in read.failure.holders) == read.failure.allocated_bytes


def test_a_failure_comes_through_the_file_and_is_shown_everywhere(tmp_path):
    import reports

    profile = run(Script({"a": (half_of(200),)}, (Act("run", "a"),)), 100 * MIB)
    profile.save(tmp_path / "a.parquet")
    again = Profile.load(tmp_path / "a.parquet")
    assert (again.failure, again.findings) == (profile.failure, profile.findings)
    reports.write_html(tmp_path / "a.html", [profile])
    asked = "200.0 MiB were asked for with"
    assert asked in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert asked in profile._repr_html_()
    assert any(asked in finding["detail"] for finding in profile.summary()["findings"])
