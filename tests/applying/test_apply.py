"""Plans put into effect on real pipelines, on the virtual GPU, and taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import Act, Script, TinyPipeline, build, pipeline_class

from profiler.applying import apply
from profiler.errors import InputError
from profiler.libraries import hooks as private
from profiler.planning import plan_offload
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

# fp16: a 2 KB, b 8 KB, c 4 KB, each with a buffer of 24 bytes (512 on the GPU). Activations are small.
SCRIPT = Script(
    {"a": (1000,), "b": (4000,), "c": (2000,)},
    (
        Act("run", "a", 100, 100),
        Act("run", "b", 3000, 100),
        Act("run", "b", 3000, 100),
        Act("encode", "c", 1000, 100),
    ),
)


@pytest.fixture
def gpu(best_plan):
    with VirtualGPU(capacity="2GiB") as virtual:
        yield virtual


@pytest.fixture(scope="module")
def best_plan():
    with VirtualGPU(capacity="2GiB"):
        pipe = build(SCRIPT)
        pipe.enable_model_cpu_offload()
        with trace(pipe) as t:
            pipe()
    return plan_offload(t.profile, 2 << 30)


@pytest.fixture
def plan_keeping(best_plan):
    """Return how to make a plan for SCRIPT that keeps some names on the GPU and offloads the others in their order."""

    def make(*names, sticky=True, pipeline_class="TinyPipeline"):
        return replace(
            best_plan,
            sequence=tuple(name for name in SCRIPT.components if name not in names),
            excluded=names,
            sticky=sticky,
            placements={
                name: "resident" if name in names else "offload" for name in SCRIPT.components
            },
            pipeline_class=pipeline_class,
        )

    return make


def state_of(pipe):
    """Return everything that offloading may change: attributes of the pipe and its parts, and places of tensors."""
    parts = {}
    for name, module in private.modules_of(pipe).items():
        for path, part in module.named_modules():
            parts[name, path] = {
                key: value for key, value in vars(part).items() if key in private.MODULE_STATE
            }
        parts[name, "devices"] = [str(tensor.device) for tensor in module.state_dict().values()]
    own = {key: value for key, value in vars(pipe).items() if key in private.PIPELINE_STATE}
    return own, parts


def moves_of(events):
    return [(e.call, e.kind, e.component) for e in events if e.kind in ("onload", "offload")]


def run(pipe, calls=1):
    with trace(pipe) as t:
        for _ in range(calls):
            pipe()
    return t.profile.events


def test_plan_is_set_on_the_instance_alone(gpu, plan_keeping):
    shared = DiffusionPipeline._exclude_from_cpu_offload
    pipe = build(SCRIPT)
    apply(plan_keeping("b"), pipe)
    assert pipe.model_cpu_offload_seq == "a->c"
    assert pipe._exclude_from_cpu_offload == ["b"]
    assert type(pipe).model_cpu_offload_seq == "a->b->c->d"
    assert type(pipe)._exclude_from_cpu_offload is shared == []


def test_sticky_component_does_not_move_and_calls_are_alike(gpu, plan_keeping):
    pipe = build(SCRIPT)
    apply(plan_keeping("b"), pipe)
    events = run(pipe, calls=3)
    one_call = [("onload", "a"), ("offload", "a"), ("onload", "c"), ("offload", "c")]
    assert moves_of(events) == [(call, *move) for call in range(3) for move in one_call]
    clock = dict.fromkeys(
        ("start_seconds", "seconds", "transfer_seconds", "exposed_transfer_seconds"), 0
    )
    plain = [e._replace(call=0, ordinal=0, **clock) for e in events]
    third = len(plain) // 3
    assert plain[:third] == plain[third : 2 * third] == plain[2 * third :]


def test_stock_exclusion_travels(gpu, plan_keeping):
    pipe = build(SCRIPT)
    apply(plan_keeping("b", sticky=False), pipe)
    assert [move for move in moves_of(run(pipe)) if move[2] == "b"] == [
        (0, "offload", "b"),
        (0, "onload", "b"),
    ]


def untouched(pipe):
    return None


def on_the_gpu(pipe):
    pipe.to("cuda")


def stock(pipe):
    pipe.enable_model_cpu_offload()
    pipe.a(0, 0)


def excluded(pipe):
    pipe._exclude_from_cpu_offload = ["c"]
    pipe.model_cpu_offload_seq = "b->a"
    pipe.enable_model_cpu_offload()


def split(pipe):
    pipe.b.to("cuda")
    pipe.a.inner.to("cuda")


@pytest.mark.parametrize("prepare", [untouched, on_the_gpu, stock, excluded, split])
def test_undo_restores_the_pipe(gpu, prepare, plan_keeping):
    pipe = build(Script({"a": (100, 200), "b": (4000,), "c": (2000,)}, SCRIPT.acts))
    prepare(pipe)
    before = state_of(pipe)
    applied = apply(plan_keeping("b"), pipe)
    assert state_of(pipe) != before
    pipe()
    applied.undo()
    assert state_of(pipe) == before
    applied.undo()
    assert state_of(pipe) == before


def test_undo_brings_sequential_offload_back(gpu, plan_keeping):
    pipe = build(SCRIPT)
    pipe.enable_sequential_cpu_offload()
    apply(plan_keeping("b"), pipe).undo()
    assert private.is_sequentially_offloaded(pipe.a)
    assert {str(p.device) for p in pipe.b.parameters()} == {"meta"}
    assert "model_cpu_offload_seq" not in vars(pipe)


def test_plan_in_effect_for_a_block(gpu, plan_keeping):
    pipe = build(SCRIPT)
    before = state_of(pipe)
    with apply(plan_keeping("b"), pipe):
        pipe()
    assert state_of(pipe) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_half_way_restores_the_pipe(gpu, monkeypatch, error, plan_keeping):
    pipe = build(SCRIPT)
    pipe.b.to("cuda")
    before = state_of(pipe)
    real = DiffusionPipeline.enable_model_cpu_offload

    def fails_at_the_end(self, *args, **kwargs):
        real(self, *args, **kwargs)
        raise error("the link broke")

    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", fails_at_the_end)
    with pytest.raises(error, match="the link broke"):
        apply(plan_keeping("b"), pipe)
    assert state_of(pipe) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_id": 0, "device": "cuda:0"}, "gpu_id=0 and the index in device='cuda:0'"),
        ({"device": "cpu"}, "needs an accelerator"),
        ({"device": "abacus"}, "'abacus' is no device"),
    ],
)
def test_impossible_devices_are_refused(gpu, options, message, plan_keeping):
    pipe = build(SCRIPT)
    plan, before = plan_keeping("b"), state_of(pipe)
    with pytest.raises(InputError, match=message):
        apply(plan, pipe, **options)
    assert state_of(pipe) == before


@pytest.mark.parametrize(
    "options", [{}, {"gpu_id": 0}, {"device": "cuda"}, {"device": torch.device("cuda:0")}]
)
def test_devices_are_passed_on(gpu, options, plan_keeping):
    pipe = build(SCRIPT)
    apply(plan_keeping("b"), pipe, **options)
    assert str(pipe._offload_device) == "cuda:0"


def test_without_an_accelerator_nothing_is_applied(plan_keeping):
    plan = plan_keeping("b")
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    with pytest.raises(InputError, match="no accelerator"):
        apply(plan, build(SCRIPT))


def test_foreign_pipelines_are_refused(gpu, plan_keeping):
    plan = plan_keeping("b")
    with pytest.raises(InputError, match="not a Linear"):
        apply(plan, torch.nn.Linear(1, 1))
    other = type("OtherPipeline", (pipeline_class(("a",)),), {})(a=build(SCRIPT).a)
    with pytest.raises(InputError, match="made for TinyPipeline, not for OtherPipeline"):
        apply(plan, other)


def test_other_components_are_refused(gpu, plan_keeping):
    plan = plan_keeping("b")
    with pytest.raises(InputError, match="does not know d"):
        apply(plan, build(Script({**SCRIPT.components, "d": (8,)}, ())))
    with pytest.raises(InputError, match="has no c"):
        apply(plan, build(Script({"a": (8,), "b": (8,)}, ())))


def test_one_module_under_two_names_is_refused(gpu, plan_keeping):
    pipe = build(SCRIPT)
    pipe.register_modules(c=pipe.a)
    with pytest.raises(InputError, match="a and c are one module"):
        apply(plan_keeping("b"), pipe)


def test_group_offload_is_refused(gpu, plan_keeping):
    from diffusers.hooks import apply_group_offloading

    pipe = build(SCRIPT)
    apply_group_offloading(pipe.a, torch.device("cuda"), offload_type="leaf_level")
    with pytest.raises(InputError, match="group offload is active on a"):
        apply(plan_keeping("b"), pipe)


def test_device_map_is_refused(gpu, plan_keeping):
    pipe = build(SCRIPT)
    pipe.hf_device_map = {"a": 0, "b": "cpu"}
    with pytest.raises(InputError, match="reset_device_map"):
        apply(plan_keeping("b"), pipe)


def test_eight_bit_components_are_named_so_that_diffusers_skips_them(
    gpu, monkeypatch, plan_keeping
):
    pipe = build(SCRIPT)
    monkeypatch.setattr(private, "is_left_alone", lambda module: module is pipe.b)
    apply(plan_keeping("b"), pipe)
    assert pipe.model_cpu_offload_seq == "a->c->b"
    assert pipe._exclude_from_cpu_offload == []


def test_code_does_what_apply_does(gpu, plan_keeping):
    for plan in (plan_keeping("b"), plan_keeping("b", sticky=False), plan_keeping("a", "b", "c")):
        by_code, by_apply = build(SCRIPT), build(SCRIPT)
        exec(plan.to_code(), {"pipe": by_code})
        apply(plan, by_apply)
        assert moves_of(run(by_code, 2)) == moves_of(run(by_apply, 2))


def test_caches_are_reset_as_in_stock(gpu, plan_keeping):
    pipe = build(SCRIPT)
    resets = []
    pipe.b._reset_stateful_cache = lambda: resets.append("b")
    apply(plan_keeping("b"), pipe)
    pipe()
    assert resets == ["b"]


def test_components_shared_with_another_pipeline_come_back_to_it(gpu, plan_keeping):
    first = build(SCRIPT)
    first.enable_model_cpu_offload()
    second = type(first)(**first.components)
    before = state_of(first)
    apply(plan_keeping("b"), second).undo()
    assert state_of(first) == before


class Combined(TinyPipeline):
    """As StableCascadeCombinedPipeline: model offload is that of its inner pipelines, which use other names."""

    def __init__(self, a, b, c) -> None:
        DiffusionPipeline.__init__(self)
        self.register_modules(a=a, b=b, c=c)
        self.prior_pipe = pipeline_class(("a", "b"))(a=a, b=b)
        self.decoder_pipe = pipeline_class(("a",))(a=c)
        self.prior_pipe.script = Script({}, SCRIPT.acts[:3])
        self.decoder_pipe.script = Script({}, (Act("run", "a", 100, 100),))

    def enable_model_cpu_offload(self, gpu_id=None, device=None):
        self.prior_pipe.enable_model_cpu_offload(gpu_id=gpu_id, device=device)
        self.decoder_pipe.enable_model_cpu_offload(gpu_id=gpu_id, device=device)

    def __call__(self):
        self.prior_pipe()
        self.decoder_pipe()
        self.maybe_free_model_hooks()


def test_inner_pipelines_get_the_plan(gpu, plan_keeping):
    parts = build(SCRIPT).components
    pipe = Combined(**parts)
    before = [state_of(one) for one in (pipe, pipe.prior_pipe, pipe.decoder_pipe)]
    plan = plan_keeping("b", pipeline_class="Combined")
    applied = apply(plan, pipe)
    events = run(pipe, calls=2)
    one_call = [("onload", "a"), ("offload", "a"), ("onload", "c"), ("offload", "c")]
    assert moves_of(events) == [(call, *move) for call in range(2) for move in one_call]
    applied.undo()
    assert [state_of(one) for one in (pipe, pipe.prior_pipe, pipe.decoder_pipe)] == before


def test_pipelines_with_an_offload_of_their_own_are_refused(gpu, plan_keeping):
    class Own(TinyPipeline):
        def __init__(self, a, b, c) -> None:
            DiffusionPipeline.__init__(self)
            self.register_modules(a=a, b=b, c=c)

        def enable_model_cpu_offload(self, gpu_id=None, device="cuda"):
            raise AssertionError

    plan = plan_keeping("b", pipeline_class="Own")
    with pytest.raises(InputError, match="enable_model_cpu_offload of its own"):
        apply(plan, Own(**build(SCRIPT).components))
