"""Every placement put into effect and taken back: with real weights on the CPU, and on a virtual GPU."""

from __future__ import annotations

import gc
import zlib
from dataclasses import replace

import pytest
import replay_worlds
import safetensors.torch
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import hooks as accelerate_hooks
from diffusers import DiffusionPipeline
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.hooks.hooks import HookRegistry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from placed_worlds import NAMES, legal_schemes, nets, place, plan_of, state_of, ways
from tiny_flux import write_tiny_flux
from torch import nn
from torch.overrides import TorchFunctionMode

from profiler.applying import apply
from profiler.applying.apply import put
from profiler.applying.drift import drift_of
from profiler.applying.hooks.pack import Pack
from profiler.errors import InputError
from profiler.libraries import hooks as private
from profiler.patching import Patches
from profiler.pipelines import load_pipeline
from profiler.placements.grouped import Grouped
from profiler.placements.scheme import Scheme
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.usefixtures("one_thread")

CHECKS = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)


@settings(max_examples=60, deadline=None, suppress_health_check=CHECKS)
@given(st.data())
def test_undo_leaves_the_pipe_as_found_after_any_scheme(tmp_path, data):
    with VirtualGPU(capacity="2GiB") as gpu:
        pipe = nets()
        for name in data.draw(st.sets(st.sampled_from(NAMES))):
            pipe.components[name].to("cuda")
        scheme = data.draw(legal_schemes(pipe))
        before = state_of(pipe)
        applied = put(plan_of(pipe, scheme), pipe, folder=tmp_path)
        assert drift_of(plan_of(pipe, scheme), pipe) == ()
        for _ in range(data.draw(st.integers(0, 2))):
            pipe()
        applied.undo()
        assert state_of(pipe) == before
        assert list(tmp_path.iterdir()) == []
        assert gpu.host.pinned_bytes == 0


def on_cpu(how):
    """Return what comes nearest on the CPU: it has no streams, and accelerate's sequential offload fails there."""
    if isinstance(how, Grouped):
        return replace(how, stream=False, record_stream=False, low_cpu_mem=False)
    return Grouped() if isinstance(how, Sequential) else how


@settings(max_examples=40, deadline=None, suppress_health_check=CHECKS)
@given(st.data())
def test_any_scheme_gives_the_same_bits_on_the_cpu(tmp_path, data):
    pipe = nets()
    expected, before = pipe(), state_of(pipe)
    weights = {name: part.state_dict() for name, part in pipe.components.items()}
    drawn = data.draw(legal_schemes(pipe))
    inside = {name: on_cpu(how) for name, how in drawn.inside.items()}
    scheme = Scheme(drawn.sequence, drawn.excluded, drawn.sticky, inside, drawn.swaps)
    with put(plan_of(pipe, scheme), pipe, device="cpu", folder=tmp_path):
        assert torch.equal(pipe(), expected)
        assert torch.equal(pipe(), expected)
    assert state_of(pipe) == before
    for name, part in pipe.components.items():
        now = part.state_dict()
        assert all(torch.equal(now[key], value) for key, value in weights[name].items())


def flux(tmp_path, monkeypatch):
    pipe = load_pipeline(write_tiny_flux(tmp_path / "flux"), weights="random")
    return pipe, {"prompt": "a cat", "height": 16, "width": 16, "max_sequence_length": 8}


def of_replay_worlds(family):
    def make(tmp_path, monkeypatch):
        monkeypatch.setattr(replay_worlds, "_embeds", torch.randn)
        return replay_worlds.FAMILIES[family]()

    return make


def sdxl(tmp_path, monkeypatch):
    """With a VAE in float16, which is cast to float32 for every picture."""
    pipe, call = of_replay_worlds("sdxl_upcast")(tmp_path, monkeypatch)
    pipe.vae.to(torch.float16)
    return pipe, call


FAMILIES = {
    "sdxl": sdxl,
    "flux": flux,
    "controlnet": of_replay_worlds("controlnet"),
    "wan": of_replay_worlds("wan"),
}


def image(pipe, call):
    made = pipe(
        **{**call, "output_type": "pt"},
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    )
    return made[0]


class WeightsUsed(TorchFunctionMode):
    """Records a checksum of each weight that a layer computes with, in order."""

    LAYERS = (F.linear, F.conv2d, F.conv3d, F.embedding, F.group_norm, F.layer_norm)

    def __init__(self):
        super().__init__()
        self.sums = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.LAYERS:
            given = (*args, *(kwargs or {}).values())
            weights = [one.detach() for one in given if isinstance(one, nn.Parameter)]
            self.sums += [zlib.crc32(one.contiguous().view(torch.uint8).numpy()) for one in weights]
        return func(*args, **(kwargs or {}))


def on_disk(plan):
    return any(getattr(how, "disk", False) for how in plan.scheme.inside.values())


def rounded_alike(first, second):
    """Weights from a file begin anywhere in memory, and some CPUs take other kernels for that (AMD EPYC: 4e-7)."""
    return torch.allclose(first, second, rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_placement_gives_the_same_bits_on_the_cpu(tmp_path, monkeypatch, family):
    pipe, call = FAMILIES[family](tmp_path, monkeypatch)
    pipe.set_progress_bar_config(disable=True)
    with WeightsUsed() as weights:
        expected, before = image(pipe, call), state_of(pipe)
    assert len(weights.sums) > 20
    for name, scheme in ways(pipe):
        plan = place(pipe, **scheme)
        with put(plan, pipe, device="cpu", folder=tmp_path / "disk"):
            with WeightsUsed() as used:
                first = image(pipe, call)
            assert used.sums == weights.sums, name
            assert torch.equal(image(pipe, call), first), name
        assert torch.equal(first, expected) or (on_disk(plan) and rounded_alike(first, expected)), (
            name
        )
        assert state_of(pipe) == before, name
    assert torch.equal(image(pipe, call), expected)


ONE_OF_EACH = {
    "pinned, grouped, streamed": {
        "sequence": ["encoder", "vae"],
        "sticky": True,
        "swaps": {"encoder": "pinned"},
        "inside": {"transformer": Grouped(blocks=1, stream=True), "vae": Streamed(1)},
    },
    "dropped, sequential, on disk": {
        "sequence": ["encoder"],
        "sticky": True,
        "swaps": {"encoder": "drop"},
        "inside": {"transformer": Grouped(disk=True), "vae": Sequential()},
    },
    "streamed where it stays": {
        "excluded": ["transformer", "vae"],
        "sticky": True,
        "inside": {"transformer": Streamed(2)},
    },
    "all in groups": {"inside": dict.fromkeys(NAMES, Grouped(stream=True))},
    "all sequential": {"inside": dict.fromkeys(NAMES, Sequential())},
}

STEPS = [
    (HookRegistry, "register_hook"),
    (accelerate_hooks, "add_hook_to_module"),
    (accelerate_hooks.AlignDevicesHook, "init_hook"),
    (accelerate_hooks.CpuOffload, "init_hook"),
    (ModuleGroup, "offload_"),
    (safetensors.torch, "save_file"),
    (Pack, "take_in"),
    (torch.cuda, "empty_cache"),
    (torch.nn.Module, "_apply"),
]
"""What applying a plan goes through, of diffusers, accelerate and ours: each may fail, at its end as at its start."""


class BrokenError(Exception):
    pass


def failing(patches, at):
    """Let the step number `at` fail when it is done; return how many there were."""
    count = [0]

    def after(original):
        def step(*args, **kwargs):
            result = original(*args, **kwargs)
            count[0] += 1
            if count[0] == at:
                raise BrokenError
            return result

        return step

    for owner, name in STEPS:
        patches.replace(owner, name, after(getattr(owner, name)))
    return count


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_failure_at_any_step_restores_the_pipe(tmp_path, name):
    with VirtualGPU(capacity="2GiB") as gpu:
        pipe = nets()
        pipe.vae.to("cuda")
        before, plan = state_of(pipe), place(pipe, **ONE_OF_EACH[name])
        with Patches() as patches:
            steps = failing(patches, at=0)
            applied = put(plan, pipe, folder=tmp_path)
        applied.undo()
        assert steps[0] > 10
        for at in range(1, steps[0] + 1, 1 + steps[0] // 25):
            with Patches() as patches:
                failing(patches, at)
                with pytest.raises(BrokenError):
                    put(plan, pipe, folder=tmp_path)
            assert state_of(pipe) == before, at
            assert list(tmp_path.iterdir()) == [], at
        gc.collect()  # a failed step's frames, and diffusers' hooks, hold themselves
        torch.accelerator.empty_host_cache()
        assert gpu.host.pinned_bytes == 0


def moves_of(pipe, calls=2):
    """Return what moves in the last of some calls, by its component and group."""
    with trace(pipe) as t:
        for _ in range(calls):
            pipe()
    signs = {"onload": "+", "offload": "-"}
    told = [e for e in t.profile.events if e.kind in signs and e.call == calls - 1]
    return [f"{signs[e.kind]}{e.component} {e.group}".strip() for e in told]


def test_hooks_of_all_kinds_take_their_turns():
    with VirtualGPU(capacity="2GiB"):
        pipe = nets()
        put(place(pipe, **ONE_OF_EACH["pinned, grouped, streamed"]), pipe)
        blocks = [f"transformer blocks.{i}" for i in range(4)]
        step = ["+transformer norm", f"+{blocks[0]}"]
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            step += ([f"+{following}"] if following else []) + [f"-{block}"]
        step.append("-transformer norm")
        vae = "+vae blocks.0", "+vae blocks.2", "-vae blocks.0", "-vae blocks.2"
        assert moves_of(pipe) == ["+encoder", *step, *step, "-encoder", "+vae", *vae, "-vae"]


def test_end_of_a_call_leaves_what_stays_and_frees_what_was_only_fetched():
    with VirtualGPU(capacity="2GiB"):
        pipe = nets()
        plan = place(
            pipe,
            sequence=["encoder"],
            excluded=["transformer", "vae"],
            sticky=True,
            inside={"transformer": Streamed(2)},
        )
        put(plan, pipe)
        held = torch.cuda.memory_allocated()
        hook = pipe.transformer._hf_hook
        hook.pre_forward(pipe.transformer)
        assert torch.cuda.memory_allocated() > held
        pipe.encoder._hf_hook.pre_forward(pipe.encoder)
        pipe.maybe_free_model_hooks()
        assert torch.cuda.memory_allocated() == held
        assert pipe.vae.device.type == "cuda"


def test_one_call_of_the_pipelines_does_what_all_components_share(monkeypatch):
    told = []
    for name in (
        "enable_group_offload",
        "enable_sequential_cpu_offload",
        "enable_model_cpu_offload",
    ):
        real = getattr(DiffusionPipeline, name)
        monkeypatch.setattr(
            DiffusionPipeline,
            name,
            lambda self, *args, _real=real, _name=name, **kw: (
                told.append(_name),
                _real(self, *args, **kw),
            ),
        )
    with VirtualGPU(capacity="2GiB"):
        put(place(nets(), **ONE_OF_EACH["all in groups"]), nets())
        put(place(nets(), **ONE_OF_EACH["all sequential"]), nets())
        put(place(nets(), **ONE_OF_EACH["streamed where it stays"]), nets())
    assert told == [
        "enable_group_offload",
        "enable_sequential_cpu_offload",
        "enable_model_cpu_offload",
    ]


def test_hiding_components_does_not_touch_the_config():
    with VirtualGPU(capacity="2GiB"):
        pipe = nets()
        before = dict(pipe.config)
        with put(
            place(
                pipe,
                **ONE_OF_EACH["dropped, sequential, on disk"] | {"inside": {"vae": Sequential()}},
            ),
            pipe,
        ):
            assert dict(pipe.config) == before


def sequence_changed(pipe):
    pipe.model_cpu_offload_seq = "vae->encoder"


def enabled_again(pipe):
    private.remove_group_hooks(pipe.transformer)
    pipe.enable_model_cpu_offload()


def hooks_removed(pipe):
    pipe.remove_all_hooks()


def grouped_otherwise(pipe):
    private.remove_group_hooks(pipe.transformer)
    pipe.transformer.enable_group_offload(torch.device("cuda"), offload_type="leaf_level")


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (sequence_changed, ("the sequence is vae->encoder, not encoder->vae",)),
        (
            enabled_again,
            (
                "encoder does not leave the GPU by pinned, as the plan says",
                "transformer is not offloaded in groups: the plan is not in effect",
                "vae's blocks do not travel as the plan says",
            ),
        ),
        (
            hooks_removed,
            (
                "encoder carries no offload hook: the plan is not in effect",
                "vae carries no offload hook: the plan is not in effect",
            ),
        ),
        (grouped_otherwise, ("transformer is offloaded in other groups than the plan's",)),
    ],
)
def test_drift_of_each_kind_is_told(change, lines):
    with VirtualGPU(capacity="2GiB"):
        pipe = nets()
        plan = place(pipe, **ONE_OF_EACH["pinned, grouped, streamed"])
        put(plan, pipe)
        change(pipe)
        assert drift_of(plan, pipe) == lines


def test_a_plan_is_not_put_over_another():
    with VirtualGPU(capacity="2GiB"):
        pipe = nets()
        plan = place(pipe, sequence=NAMES, sticky=True, swaps={"vae": "drop"})
        applied = apply(plan, pipe)
        with pytest.raises(InputError, match="another plan is in effect on vae"):
            apply(plan, pipe)
        applied.undo()
        apply(plan, pipe)


def test_disk_needs_an_empty_folder(tmp_path):
    with VirtualGPU(capacity="2GiB"):
        pipe = nets()
        plan = place(pipe, inside=dict.fromkeys(NAMES, Grouped(disk=True)))
        with pytest.raises(InputError, match="say where with disk_folder="):
            plan.apply(pipe)
        (tmp_path / "vae").mkdir()
        stale = tmp_path / "vae" / "group_0.safetensors"
        stale.touch()
        with pytest.raises(InputError, match="vae is not empty"):
            plan.apply(pipe, disk_folder=tmp_path)
        stale.unlink()
        plan.apply(pipe, disk_folder=tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == set(NAMES)


def test_broken_rules_are_told_before_anything_changes():
    with VirtualGPU(capacity="2GiB"):
        pipe = nets()
        before = state_of(pipe)
        plan = plan_of(pipe, Scheme(inside={"vae": Streamed(7)}, swaps={"vae": "pinned"}))
        with pytest.raises(InputError, match="the plan must be sticky; vae: of its blocks none up"):
            apply(plan, pipe)
        with pytest.raises(InputError, match="the plan speaks of prior, magic"):
            apply(
                plan_of(pipe, Scheme(swaps={"vae": "magic"}, inside={"prior": Sequential()})), pipe
            )
        assert state_of(pipe) == before


MODIFIED = {"sequence": NAMES, "sticky": True, "modifiers": ("vae-tiling", "vae-slicing", "fp8")}


def test_modifiers_are_set():
    with VirtualGPU("rtx-4090"):
        pipe, _ = replay_worlds.FAMILIES["flux"]()
        pipe.transformer.to(torch.float16)
        names = [
            name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)
        ]
        plan = place(pipe, **{**MODIFIED, "sequence": names})
        apply(plan, pipe)
        assert (pipe.vae.use_tiling, pipe.vae.use_slicing) == (True, True)
        assert pipe.transformer.x_embedder.weight.dtype == torch.float8_e4m3fn
        assert drift_of(plan, pipe) == ()
        pipe.vae.disable_tiling()
        assert drift_of(plan, pipe) == ("the VAE's use_tiling is off, though the plan has it on",)


def test_undo_says_that_float8_stays():
    with VirtualGPU("rtx-4090"):
        pipe, call = replay_worlds.FAMILIES["flux"]()
        for part in (pipe.transformer, pipe.vae):
            part.to(torch.float16)
        plan = place(pipe, **{**MODIFIED, "sequence": ["transformer", "vae"]})
        applied = apply(plan, pipe)
        with pytest.warns(UserWarning, match="float8 stay so"):
            applied.undo()
        assert (pipe.vae.use_tiling, pipe.vae.use_slicing) == (False, False)
        assert "_all_hooks" not in vars(pipe)
        assert pipe.transformer.context_embedder.weight.dtype == torch.float8_e4m3fn
        again = state_of(pipe)
        with pytest.warns(UserWarning, match="float8 stay so"), apply(plan, pipe):
            pipe(num_inference_steps=1, **call)
        assert state_of(pipe) == again


def test_a_failure_after_casting_says_so(monkeypatch):
    with VirtualGPU("rtx-4090"):
        pipe, _ = replay_worlds.FAMILIES["flux"]()
        plan = place(pipe, **{**MODIFIED, "sequence": ["transformer", "vae"]})
        monkeypatch.setattr(DiffusionPipeline, "remove_all_hooks", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError) as failure:
            apply(plan, pipe)
        assert "float8 stay so" in failure.value.__notes__[0]


@pytest.mark.parametrize("how", ["drop", "pinned"])
def test_float8_weights_are_dropped_although_each_forward_casts_them(how):
    with VirtualGPU("rtx-4090"):
        pipe, call = replay_worlds.FAMILIES["sd15"]()
        for part in (pipe.unet, pipe.vae):
            part.half()
        scheme = {"sequence": ["unet", "vae"], "swaps": {"unet": how}, "sticky": True}
        apply(place(pipe, **scheme, modifiers=("fp8",)), pipe)
        pipe.set_progress_bar_config(disable=True)
        with trace(pipe) as t:
            pipe(num_inference_steps=2, **call)
        downs = [(e.component, e.bytes > 0) for e in t.profile.events if e.kind == "offload"]
        assert downs == [("unet", False), ("vae", True)]
