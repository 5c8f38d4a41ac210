"""The table of what can be combined, and for each rule what diffusers or accelerate does where it is broken."""

from __future__ import annotations

import types
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers import DiffusionPipeline, ModelMixin, StableCascadeCombinedPipeline
from diffusers.hooks import apply_group_offloading
from placed_worlds import Net, nets, plan_of
from replay_worlds import FAMILIES
from torch import nn

from profiler.applying.apply import put
from profiler.applying.facts import facts_of
from profiler.applying.hooks.drop import DropOffload
from profiler.applying.hooks.swaps import swap
from profiler.errors import InputError
from profiler.libraries import hooks as private
from profiler.libraries.placing import cast_denoisers, lower_vae_peak
from profiler.placements.grouped import Grouped
from profiler.placements.placement import Facts
from profiler.placements.rules import RULES, violations
from profiler.placements.scheme import Scheme
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed
from profiler.virtual import VirtualGPU

CUDA = torch.device("cuda", 0)
FACTS = {
    "encoder": Facts(blocks=2),
    "transformer": Facts(blocks=4, castable=True),
    "vae": Facts(blocks=3, tiles=True, slices=True),
}
SHOWN = {}


def broken(rule, *cases, **facts):
    """Register the cases that break a rule, and the test that shows what happens then, under its name."""

    def register(test):
        SHOWN[rule] = (cases, facts, test)
        return test

    return register


def inside(**how):
    return Scheme(inside=how)


@broken(
    "split-alone",
    (Scheme(("transformer",), sticky=True, inside={"transformer": Grouped()}), ["transformer"]),
    (
        Scheme(excluded=frozenset(["vae"]), sticky=True, inside={"vae": Sequential()}),
        ["vae"],
    ),
    (Scheme(sticky=True, inside={"vae": Sequential()}, swaps={"vae": "drop"}), ["vae"]),
)
def split_components_refuse_hooks():
    pipe = nets()
    apply_group_offloading(pipe.transformer, CUDA, offload_type="leaf_level")
    with pytest.raises(ValueError, match="contains components with group offloading enabled"):
        pipe.enable_model_cpu_offload()
    pipe = nets()
    pipe.enable_model_cpu_offload()
    with pytest.raises(ValueError, match="alternative offloading strategy from Accelerate"):
        apply_group_offloading(pipe.transformer, CUDA, offload_type="leaf_level")
    pipe = nets()
    cpu_offload(pipe.transformer, CUDA)
    pipe.enable_model_cpu_offload()
    assert not private.is_sequentially_offloaded(pipe.transformer)  # silently


@broken(
    "hooks-need-sticky",
    (Scheme(("encoder",), inside={"vae": Sequential()}), [""]),
    (Scheme(("encoder", "vae"), frozenset(["transformer"]), swaps={"vae": "drop"}), [""]),
    (Scheme(("vae",), inside={"vae": Streamed(0)}), [""]),
)
def stock_end_of_a_call_undoes_all_others():
    pipe = nets()
    pipe.enable_model_cpu_offload()
    swap(pipe, {"encoder": "drop"})
    assert isinstance(pipe.encoder._hf_hook, DropOffload)
    pipe.maybe_free_model_hooks()
    assert not isinstance(pipe.encoder._hf_hook, DropOffload)
    private.remove_hooks(pipe.vae)
    apply_group_offloading(pipe.vae, CUDA, offload_type="leaf_level")
    with pytest.raises(ValueError, match="contains components with group offloading enabled"):
        pipe.maybe_free_model_hooks()


@broken("stream-takes-one-block", (inside(vae=Grouped(blocks=2, stream=True)), ["vae"]))
def a_stream_makes_groups_of_one():
    pipe = nets()
    apply_group_offloading(
        pipe.vae, CUDA, offload_type="block_level", num_blocks_per_group=2, use_stream=True
    )
    groups = private.groups_of(pipe.vae)
    assert {len(group.modules) for group in groups if group.stream is not None} == {1}


@broken("record-stream-needs-stream", (inside(vae=Grouped(record_stream=True)), ["vae"]))
def record_stream_raises():
    with pytest.raises(ValueError, match="`record_stream` cannot be True when"):
        apply_group_offloading(nets().vae, CUDA, offload_type="leaf_level", record_stream=True)


@broken(
    "low-cpu-mem-needs-stream",
    (inside(vae=Grouped(low_cpu_mem=True)), ["vae"]),
    (inside(vae=Grouped(low_cpu_mem=True, stream=True, disk=True)), ["vae"]),
)
def low_cpu_mem_is_ignored():
    pipe = nets()
    apply_group_offloading(pipe.vae, CUDA, offload_type="leaf_level", low_cpu_mem_usage=True)
    assert not any(group.cpu_param_dict for group in private.groups_of(pipe.vae))


@broken(
    "groupable",
    (inside(vae=Grouped()), ["vae"]),
    vae=Facts(groupable=False),
)
def some_classes_refuse_groups():
    class Refusing(Net):
        _supports_group_offloading = False

    model = Refusing(8, 2)
    with pytest.raises(ValueError, match="Refusing does not support group offloading"):
        model.enable_group_offload(CUDA, offload_type="leaf_level")
    pipe = nets()
    pipe.register_modules(vae=model)
    assert {name: one.groupable for name, one in facts_of(pipe).items()} == {
        "encoder": True,
        "transformer": True,
        "vae": False,
    }


class Tied(ModelMixin):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


@broken("disk-loses-ties", (inside(vae=Grouped(disk=True)), ["vae"]), vae=Facts(tied=True))
def tied_weights_are_lost_on_disk(folder):
    """On the CPU, with real numbers: the second group of a tied weight saves what the first one left of it."""
    model, x = Tied(), torch.ones(1, 4)
    torch.use_deterministic_algorithms(True)  # fills what is not written with NaN
    try:
        with torch.no_grad():
            assert model(x).isfinite().all()
            apply_group_offloading(
                model,
                torch.device("cpu"),
                offload_type="leaf_level",
                offload_to_disk_path=str(folder),
            )
            assert model(x).isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)
    pipe = nets()
    pipe.register_modules(vae=Tied())
    assert [name for name, one in facts_of(pipe).items() if one.tied] == ["vae"]


@broken(
    "cast-keeps-copies",
    (inside(vae=Grouped(stream=True)), ["vae"]),
    (inside(vae=Grouped(disk=True)), ["vae"]),
    (inside(vae=Streamed(1)), ["vae"]),
    vae=Facts(blocks=3, upcast=True),
)
def copies_keep_the_dtype_from_before():
    def computes_in_half(how):
        """Tell whether a float32 component computes in float16 after it is split and then cast."""
        with TemporaryDirectory() as folder:
            pipe = nets()
            put(plan_of(pipe, Scheme(sticky=True, inside={"vae": how})), pipe, folder=Path(folder))
            pipe.vae.to(torch.float16)
            try:
                found = pipe.vae(torch.zeros(2, 8, dtype=torch.float16, device="cuda"))
            except RuntimeError:  # where only some parts kept their dtype
                return False
            return found.dtype == torch.float16

    for how in (Grouped(), Grouped(1), Sequential()):
        assert computes_in_half(how)
    for how in (Grouped(stream=True), Grouped(1, stream=True), Grouped(disk=True)):
        assert not computes_in_half(how)
    pipe = nets()
    put(plan_of(pipe, Scheme(sticky=True, inside={"vae": Streamed(0)})), pipe)
    assert pipe.vae.blocks[0].linear.weight.is_pinned()
    pipe.vae.to(torch.float16)
    assert not pipe.vae.blocks[0].linear.weight.is_pinned()
    pipe, _ = FAMILIES["sdxl"]()
    assert not facts_of(pipe)["vae"].upcast  # which is in float32
    pipe.vae.to(torch.float16)
    assert {name: one.upcast for name, one in facts_of(pipe).items()} == {
        "vae": True,
        "unet": False,
    }


@broken(
    "streamed-blocks",
    (inside(vae=Streamed(3)), ["vae"]),
    (inside(vae=Streamed(-1)), ["vae"]),
    (inside(encoder=Streamed(0)), ["encoder"]),
    encoder=Facts(blocks=0),
)
def blocks_are_counted():
    assert {name: one.blocks for name, one in facts_of(nets()).items()} == {
        "encoder": 2,
        "transformer": 4,
        "vae": 3,
    }


@broken(
    "first-parameter-stays",
    (inside(vae=Streamed(0)), ["vae"]),
    (inside(vae=Streamed(2)), []),  # of three blocks the second travels
    vae=Facts(blocks=3, first_block=0),
)
def accelerate_asks_the_first_parameter():
    """A successor's hook takes a component for gone whose first parameter is."""

    class BlocksFirst(ModelMixin):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.last = nn.Linear(4, 4)

    before, after = BlocksFirst(), nets().vae
    _, hook = cpu_offload_with_hook(before, CUDA)
    cpu_offload_with_hook(after, CUDA, prev_module_hook=hook)
    before.to("cuda").blocks[0].to("cpu")
    after(torch.ones(1, 8))
    assert before.last.weight.device.type == "cuda"
    pipe = nets()
    pipe.register_modules(vae=BlocksFirst())
    assert [one.first_block for one in facts_of(pipe).values()] == [None, None, 0]


@broken(
    "swap-needs-hook",
    (Scheme(excluded=frozenset(["vae"]), sticky=True, swaps={"vae": "pinned"}), ["vae"]),
)
def excluded_components_have_no_hook():
    pipe = nets()
    pipe._exclude_from_cpu_offload, pipe.model_cpu_offload_seq = ["vae"], "encoder"
    pipe.enable_model_cpu_offload()
    assert not hasattr(pipe.vae, "_hf_hook")


@broken(
    "plain-weights",
    (Scheme(("vae",), sticky=True, swaps={"vae": "drop"}), ["vae"]),
    (Scheme(("vae",), sticky=True, inside={"vae": Streamed(0)}), ["vae"]),
    vae=Facts(blocks=3, quantized=True),
)
def quantised_weights_are_more_than_tensors():
    bitsandbytes = pytest.importorskip(
        "bitsandbytes", reason="the library that quantises is not installed"
    )
    model = nn.ModuleList([bitsandbytes.nn.Linear4bit(64, 64)]).to("cuda")
    state = model[0].weight.quant_state
    model[0].weight.data = torch.empty_like(model[0].weight.data, device="cpu")  # as `drop` does
    assert state.absmax.device.type == "cuda"
    pipe = nets()
    pipe.register_modules(vae=model)
    assert [one.quantized for one in facts_of(pipe).values()] == [False, False, True]


@broken(
    "immovable",
    (Scheme(("vae",)), ["vae"]),
    (inside(vae=Grouped()), ["vae"]),
    (Scheme(excluded=frozenset(["vae"])), []),
    vae=Facts(movable=False),
)
def eight_bit_weights_are_left_alone(monkeypatch):
    pipe = nets()
    pipe.vae.is_loaded_in_8bit = True
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.is_bitsandbytes_version", old_version)
    monkeypatch.setattr(private, "is_bitsandbytes_version", old_version)
    pipe.vae.quantization_method = "bitsandbytes"
    monkeypatch.setattr(
        "diffusers.pipelines.pipeline_utils._check_bnb_status",
        lambda module: (module is pipe.vae, False, module is pipe.vae),
    )
    pipe.enable_model_cpu_offload()
    assert [hasattr(part, "_hf_hook") for part in (pipe.encoder, pipe.vae)] == [True, False]
    assert [one.movable for one in facts_of(pipe).values()] == [True, True, False]


def old_version(operation, version):
    return operation == "<"


@broken(
    "sequence-needs-parameters",
    (Scheme(("encoder", "vae")), ["encoder"]),
    encoder=Facts(has_parameters=False),
)
def a_successor_asks_for_parameters():
    class Bare(ModelMixin):
        dtype, device = torch.float32, torch.device("cpu")

    pipe = nets()
    pipe.register_modules(encoder=Bare())
    pipe.model_cpu_offload_seq = "encoder->transformer"
    pipe.enable_model_cpu_offload()
    with pytest.raises(StopIteration):
        pipe.transformer._hf_hook.pre_forward(pipe.transformer)
    assert not facts_of(pipe)["encoder"].has_parameters


@broken("own-enable", (Scheme(("vae",), sticky=True, swaps={"vae": "drop"}), [""]))
def some_pipelines_enable_in_their_own_way():
    own = StableCascadeCombinedPipeline.enable_model_cpu_offload
    assert own is not DiffusionPipeline.enable_model_cpu_offload
    assert private.enables_by_itself(object.__new__(StableCascadeCombinedPipeline))
    assert not private.enables_by_itself(nets())


@broken("fp8-needs-denoiser", (Scheme(), [""], ("fp8",)), transformer=Facts())
def nothing_to_store_in_float8():
    pipe = types.SimpleNamespace(transformer=nn.Linear(1, 1))
    with pytest.raises(InputError, match="no denoiser"):
        cast_denoisers(pipe)
    assert [one.castable for one in facts_of(nets()).values()] == [False, True, False]


@broken("tiling-needs-vae", (Scheme(), [""], ("vae-tiling",)), vae=Facts())
def nothing_to_tile():
    with pytest.raises(InputError, match="no VAE with enable_tiling"):
        lower_vae_peak(nets(), tiling=True, slicing=False)


@broken("slicing-needs-vae", (Scheme(), [""], ("vae-slicing",)), vae=Facts())
def nothing_to_slice():
    with pytest.raises(InputError, match="no VAE with enable_slicing"):
        lower_vae_peak(nets(), tiling=False, slicing=True)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_names_who_breaks_it(rule):
    cases, facts, _ = SHOWN[rule.name]
    for scheme, breaking, *modifiers in cases:
        told = violations(
            scheme,
            {**FACTS, **facts},
            modifiers=modifiers[0] if modifiers else (),
            enables_by_itself=rule.name == "own-enable",
        )
        assert [one for one in told if one.rule == rule.name] == [
            (rule.name, name, rule.sentence) for name in breaking
        ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_is_what_the_libraries_do(rule, request, tmp_path):
    shown = SHOWN[rule.name][2]
    if rule.name == "disk-loses-ties":
        shown(tmp_path)
        return
    with VirtualGPU(capacity="2GiB"):
        if rule.name == "immovable":
            shown(request.getfixturevalue("monkeypatch"))
        else:
            shown()


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(),
        Scheme(("encoder", "vae"), frozenset(["transformer"])),
        Scheme(("vae",), frozenset(["transformer"]), inside={}, sticky=True, swaps={"vae": "drop"}),
        inside(encoder=Sequential(), transformer=Grouped(stream=True), vae=Grouped(blocks=2)),
        Scheme(excluded=frozenset(FACTS), inside={"transformer": Streamed(1)}),
        Scheme(("vae",), sticky=True, inside={"vae": Streamed(2)}, swaps={"vae": "pinned"}),
    ],
)
def test_what_breaks_no_rule_is_legal(scheme):
    assert violations(scheme, FACTS) == ()
