"""Tiny real pipelines: a `DiffusionPipeline` that acts out a script, with components of odd sizes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.accelerate_utils import apply_forward_hook
from hypothesis import strategies as st
from torch import nn

from profiler.applying.hooks.sticky import keep_excluded

NAMES = ("a", "b", "c", "d")
DTYPES = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Act:
    """One thing that the pipeline does in a call."""

    kind: str  # run, encode, cast, keep, drop
    component: str = ""
    scratch: int = 0  # bytes allocated inside, and freed
    kept: int = 0  # bytes of the result, which the pipeline keeps until it drops it
    dtype: str = ""
    inside: tuple[Act, ...] = ()  # done within the component's forward


@dataclass(frozen=True)
class Script:
    """Components (the number of elements of each tensor), and what a call does with them."""

    components: dict[str, tuple[int, ...]]
    acts: tuple[Act, ...]


class TinyModel(nn.Module):
    """A component with parameters and an integer buffer, and one submodule."""

    def __init__(self, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = nn.Module()
        for index, count in enumerate(counts):
            owner = self.inner if index % 2 else self
            owner.register_parameter(f"p{index}", nn.Parameter(torch.empty(count)))
        self.register_buffer("positions", torch.arange(3))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, scratch: int, kept: int, inside=None) -> torch.Tensor:
        scratch_tensor = torch.empty(scratch, dtype=torch.uint8, device="cuda")
        if inside is not None:
            inside()
        del scratch_tensor
        return torch.empty(kept, dtype=torch.uint8, device="cuda")

    @apply_forward_hook
    def encode(self, scratch: int, kept: int) -> torch.Tensor:
        return TinyModel.forward(self, scratch, kept)


class TinyPipeline(DiffusionPipeline):
    """Acts out its script."""

    model_cpu_offload_seq = "a->b->c->d"
    script: Script

    def __init__(self, **modules) -> None:
        super().__init__()
        self.register_modules(**modules)

    @torch.no_grad()
    def __call__(self):
        kept = []
        self._play(self.script.acts, kept)
        kept.clear()
        self.maybe_free_model_hooks()

    def _play(self, acts, kept) -> None:
        for act in acts:
            module = getattr(self, act.component, None)
            if act.kind == "drop":
                if kept:
                    kept.pop()
            elif act.kind == "cast":
                module.to(DTYPES[act.dtype])
            elif act.kind == "encode":
                kept.append(module.encode(act.scratch, act.kept))
            else:
                inside = (lambda act=act: self._play(act.inside, kept)) if act.inside else None
                kept.append(module(act.scratch, act.kept, inside))


def pipeline_class(names) -> type[TinyPipeline]:
    """Return a pipeline class whose constructor takes components of these names, as diffusers reads it."""

    def construct(self, **modules) -> None:
        TinyPipeline.__init__(self, **modules)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    construct.__signature__ = inspect.Signature(parameters)
    return type("TinyPipeline", (TinyPipeline,), {"__init__": construct})


def build(script: Script) -> TinyPipeline:
    """Return the pipeline of a script, in half precision, on the CPU."""
    modules = {name: TinyModel(counts).half() for name, counts in script.components.items()}
    pipe = pipeline_class(script.components)(**modules)
    pipe.script = script
    return pipe


def set_up(pipe, scheme) -> None:
    """Put a scheme into effect, by diffusers' own call."""
    pipe.model_cpu_offload_seq = "->".join(scheme.sequence)
    pipe._exclude_from_cpu_offload = sorted(scheme.excluded)
    pipe.enable_model_cpu_offload()
    if scheme.sticky:
        keep_excluded(pipe)


@st.composite
def scripts(draw):
    """Random components, called in any order, nested, repeated, with casts and results kept or dropped."""
    counts = st.lists(st.integers(31, 3000), min_size=1, max_size=4).map(tuple)
    names = NAMES[: draw(st.integers(1, 4))]
    components = {name: draw(counts) for name in names}
    return Script(components, draw(_acts(names, depth=0)))


def _acts(names, *, depth):
    sizes = {"scratch": st.integers(0, 9000), "kept": st.integers(0, 3000)}
    component = st.sampled_from(names)
    kinds = [
        st.builds(Act, st.just("run"), component, **sizes),
        st.builds(Act, st.just("encode"), component, **sizes),
        st.builds(Act, st.just("cast"), component, dtype=st.sampled_from(sorted(DTYPES))),
        st.just(Act("drop")),
    ]
    if depth == 0 and len(names) > 1:
        kinds.append(st.sampled_from(names).flatmap(lambda name: _nested(name, names, sizes)))
    return st.lists(st.one_of(kinds), max_size=6).map(tuple)


def _nested(name, names, sizes):
    """Return runs of a component that use others inside, not itself: the tracer sees only the outermost entry."""
    inside = _acts(tuple(other for other in names if other != name), depth=1)
    return st.builds(Act, st.just("run"), st.just(name), **sizes, inside=inside)
