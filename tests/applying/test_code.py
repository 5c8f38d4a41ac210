"""The code that a plan prints works without this package, and does what applying the plan does."""

from __future__ import annotations

import os

import pytest
import replay_worlds
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from placed_worlds import NAMES, legal_schemes, nets, place, plan_of, ways_on_a_gpu
from terminals import terminal
from typer.testing import CliRunner

from profiler.allocator.pinned_chunks import pinned_bytes
from profiler.applying import apply
from profiler.applying.apply import put
from profiler.applying.drift import drift_of
from profiler.applying.hook_source import source_of
from profiler.applying.hooks.pack import Pack
from profiler.cli.app import app
from profiler.errors import InputError
from profiler.placements.grouped import Grouped
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed
from profiler.planning.replaying.simulate import NOT_REPLAYED
from profiler.sizing import size as sizing
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

CHECKS = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)


def traced(plan, make, place_it, **call):
    """Return what a pipeline does while it is placed and called twice, as the plan says."""
    with VirtualGPU("rtx-4090"):
        pipe = make()
        with trace(pipe) as t:
            place_it(pipe)
            for _ in range(2):
                pipe(**call)
        assert drift_of(plan, pipe) == ()
        return [event._replace(asked_by="", **NOT_REPLAYED) for event in t.profile.events]


def run(code, pipe, folder):
    assert "profiler" not in code.replace("vram-profiler", "")
    os.chdir(folder)
    exec(compile(code, "plan", "exec"), {"pipe": pipe})


@pytest.fixture(autouse=True)
def _back_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def in_calls(events):
    """Return what calls did; `pipe.to("cuda")` sets up otherwise than model offload that excludes everything."""
    return [(e.call, e.kind, e.component, e.bytes, e.peak_bytes) for e in events if e.call >= 0]


def same(tmp_path, make, plan, **call):
    by_code = traced(plan, make, lambda pipe: run(plan.to_code(), pipe, tmp_path), **call)
    by_apply = traced(plan, make, lambda pipe: put(plan, pipe, folder=tmp_path / "applied"), **call)
    if plan.to_code().endswith('pipe.to("cuda")\n'):
        by_code, by_apply = in_calls(by_code), in_calls(by_apply)
    assert by_code == by_apply


@settings(max_examples=25, deadline=None, suppress_health_check=CHECKS, phases=[Phase.generate])
@given(st.data())
def test_code_does_what_apply_does_for_any_scheme(tmp_path, data):
    scheme = data.draw(legal_schemes(nets()))
    same(tmp_path, nets, plan_of(nets(), scheme))


MIXED = """\
# Planned for NetPipeline, within 1024.00 GiB.
import torch

pipe.vae.enable_tiling()
# Hidden from model offload, which would refuse these, or move all of them to the GPU.
alone = {name: pipe.components[name] for name in ["transformer", "vae"]}
vars(pipe).update(dict.fromkeys(alone))
try:
    pipe.model_cpu_offload_seq = ""
    pipe._exclude_from_cpu_offload = ["encoder"]
    pipe.enable_model_cpu_offload()
finally:
    vars(pipe).update(alone)


def group(module, **options):
    from diffusers.hooks import apply_group_offloading

    if hasattr(module, "enable_group_offload"):
        module.enable_group_offload(**options)
    else:
        apply_group_offloading(module, **options)


from accelerate import cpu_offload

group(pipe.transformer, onload_device=pipe._offload_device, offload_type="block_level", num_blocks_per_group=2)
cpu_offload(pipe.vae, pipe._offload_device, offload_buffers=len(pipe.vae._parameters) > 0)
"""


def test_what_diffusers_can_do_is_a_few_lines():
    plan = place(
        nets(),
        excluded=["encoder"],
        inside={"transformer": Grouped(blocks=2), "vae": Sequential()},
        modifiers=("vae-tiling",),
    )
    assert plan.to_code() == MIXED
    alike = place(nets(), inside=dict.fromkeys(NAMES, Grouped(stream=True)))
    assert alike.to_code() == (
        "# Planned for NetPipeline, within 1024.00 GiB.\nimport torch\n\n"
        'pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level", use_stream=True)\n'
    )
    alike = place(nets(), inside=dict.fromkeys(NAMES, Sequential()))
    assert alike.to_code().endswith("pipe.enable_sequential_cpu_offload()\n")


def test_modifiers_are_in_the_code(tmp_path):
    def make():
        pipe, given = replay_worlds.FAMILIES["sd15"]()
        pipe.set_progress_bar_config(disable=True)
        for part in (pipe.unet, pipe.vae):
            part.half()
        call.update(given, num_inference_steps=2)
        return pipe

    call = {}
    with VirtualGPU("rtx-4090"):
        plan = place(
            make(),
            sequence=["unet", "vae"],
            sticky=True,
            swaps={"unet": "pinned"},
            inside={"unet": Streamed(1)},
            modifiers=("fp8", "vae-tiling", "vae-slicing"),
        )
    by = {}
    for name in ("code", "apply"):
        with VirtualGPU("rtx-4090"):
            pipe = make()
            with trace(pipe) as t:
                run(plan.to_code(), pipe, tmp_path) if name == "code" else apply(plan, pipe)
                for _ in range(2):
                    pipe(**call)
            by[name] = [e._replace(asked_by="", **NOT_REPLAYED) for e in t.profile.events]
            assert pipe.unet.conv_in.weight.dtype == torch.float8_e4m3fn
            assert pipe.vae.use_tiling
            assert pipe.vae.use_slicing
    assert by["code"] == by["apply"]


def test_pinned_memory_is_packed_in_the_code_too():
    """Widths of FLUX.1-dev's single blocks, a sixteenth of the size each."""
    scope = {}
    exec("from __future__ import annotations\n" + source_of([Pack]), scope)
    with VirtualGPU("rtx-4090") as gpu:
        square = 192 * 3072 * 2
        sizes = [size * square for size in (1, 1, 1, 3, 4, 5)] * 38
        tensors = [torch.empty(size // 2, dtype=torch.bfloat16) for size in sizes]
        scope["Pack"]().take_in([((id(one), ""), one) for one in tensors], pin=True)
        assert pinned_bytes(sizes) == gpu.host.pinned_bytes < 1.03 * sum(sizes)


def test_printed_hooks_are_recognised_when_a_second_plan_comes(tmp_path):
    plan = place(nets(), sequence=NAMES, sticky=True, swaps={"vae": "drop"})
    with VirtualGPU("rtx-4090"):
        pipe = nets()
        run(plan.to_code(), pipe, tmp_path)
        with pytest.raises(InputError, match="another plan is in effect on vae"):
            apply(plan, pipe)


PLAN = ["plan", "sd15", "--budget", "8GiB", "--ram", "none", "--code"]


@pytest.fixture
def finding(monkeypatch):
    """Return a function that lets the command find a plan."""
    return lambda plan: monkeypatch.setattr(sizing, "plan_model", lambda *args, **options: plan)


@pytest.mark.parametrize("way", [name for name, _ in ways_on_a_gpu(nets())])
def test_what_the_command_prints_does_what_apply_does(tmp_path, finding, way):
    plan = place(nets(), **dict(ways_on_a_gpu(nets()))[way])
    finding(plan)
    code = CliRunner().invoke(app, PLAN, prog_name="vram").stdout
    assert code == plan.to_code()
    by_command = traced(plan, nets, lambda pipe: run(code, pipe, tmp_path))
    by_apply = traced(plan, nets, lambda pipe: put(plan, pipe, folder=tmp_path / "applied"))
    assert in_calls(by_command) == in_calls(by_apply)


@pytest.mark.parametrize("columns", [40, 200])
def test_code_on_a_terminal_is_as_long_as_it_is(finding, columns):
    streamed = {"transformer": Streamed(1)}
    plan = place(nets(), sequence=NAMES, sticky=True, swaps={"vae": "pinned"}, inside=streamed)
    finding(plan)
    with terminal(columns) as screen:
        app(PLAN, standalone_mode=False)
    assert screen == [plan.to_code()]
