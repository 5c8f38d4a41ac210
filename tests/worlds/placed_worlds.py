"""Plans made by hand for real tiny pipelines, random schemes that are legal, and all that applying may change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from hypothesis import strategies as st
from torch import nn

from profiler.applying.facts import facts_of
from profiler.libraries import hooks as private
from profiler.placements.evictions import SWAPS
from profiler.placements.grouped import Grouped
from profiler.placements.rules import violations
from profiler.placements.scheme import Scheme, scheme_for
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed
from profiler.placements.table import placement_record
from profiler.planning import Plan
from profiler.planning.plan import Alternative, Margin, Predicted, Proof, Smallest

_NOTHING = Predicted(peak_allocated_bytes=0, device_bytes=0, h2d_weight_bytes=0, d2h_weight_bytes=0)
_STOCK = Alternative(sequence=(), excluded=(), sticky=False, predicted=_NOTHING)


def plan_of(pipe: DiffusionPipeline, scheme: Scheme, modifiers: tuple[str, ...] = ()) -> Plan:
    """Return a plan that places `pipe` as `scheme` says, and promises nothing."""
    names = tuple(private.modules_of(pipe))
    return Plan(
        pipeline_class=type(pipe).__name__,
        sequence=scheme.sequence,
        excluded=tuple(name for name in names if name in scheme.excluded),
        sticky=scheme.sticky,
        placements=scheme.placements(names),
        inside={name: placement_record(inside) for name, inside in scheme.inside.items()},
        swaps=dict(scheme.swaps),
        modifiers=modifiers,
        predicted=_NOTHING,
        stock=_STOCK,
        margin=Margin(
            context_bytes=0,
            peak_allocated_bytes=0,
            slack_bytes=0,
            error_band_bytes=0,
            device_bytes=0,
            budget_bytes=1 << 40,
        ),
        proof=Proof(objective="bytes", cost=0, bound=0, gap=0, nodes=0, candidates=1),
        smallest=Smallest(
            budget_bytes=0,
            component="",
            moment="",
            weight_bytes=0,
            other_bytes=0,
            plan=_STOCK,
        ),
    )


def place(pipe: DiffusionPipeline, **scheme: Any) -> Plan:
    """Return the plan of a scheme that diffusers would set up on `pipe`."""
    modifiers = scheme.pop("modifiers", ())
    return plan_of(pipe, scheme_for(tuple(private.modules_of(pipe)), **scheme), modifiers)


INSIDES = st.one_of(
    st.none(),
    st.none(),
    st.builds(
        Grouped,
        blocks=st.integers(0, 2),
        stream=st.booleans(),
        record_stream=st.booleans(),
        low_cpu_mem=st.booleans(),
        disk=st.booleans(),
    ),
    st.just(Sequential()),
    st.builds(Streamed, st.integers(0, 3)),
)


@st.composite
def legal_schemes(draw, pipe: DiffusionPipeline, insides: Any = INSIDES) -> Scheme:
    """Any scheme of the vocabulary for `pipe` that breaks no rule: what breaks one is left out."""
    facts = facts_of(pipe)
    names = tuple(facts)
    inside = {name: how for name in names if (how := draw(insides)) is not None}
    order = [name for name in draw(st.permutations(names)) if not _is_split(inside.get(name))]
    length = draw(st.integers(0, len(order)))
    excluded = [name for name in order[length:] if draw(st.booleans())]
    swaps = {name: draw(st.sampled_from(SWAPS)) for name in names}
    scheme = scheme_for(
        names,
        sequence=order[:length],
        excluded=excluded,
        sticky=draw(st.booleans()),
        inside=inside,
        swaps=swaps,
    )
    return _without_what_breaks(scheme, facts)


def _is_split(inside: Any) -> bool:
    return isinstance(inside, Grouped | Sequential)


def _without_what_breaks(scheme: Scheme, facts: Any) -> Scheme:
    names = tuple(facts)
    told = violations(scheme, facts)
    while told:
        rule, name, _ = told[0]
        inside, swaps, sticky = dict(scheme.inside), dict(scheme.swaps), scheme.sticky
        if rule == "hooks-need-sticky":
            sticky = True
        elif rule in ("swap-needs-hook", "split-alone"):
            del swaps[name]
        else:
            del inside[name]
        scheme = scheme_for(
            names,
            sequence=scheme.sequence,
            excluded=scheme.excluded,
            sticky=sticky,
            inside=inside,
            swaps=swaps,
        )
        told = violations(scheme, facts)
    return scheme


def state_of(pipe: DiffusionPipeline) -> dict[Any, Any]:
    """Return everything that applying may change: attributes, hooks in registries, tensors and where they are."""
    state: dict[Any, Any] = {"pipe": _own(pipe, private.PIPELINE_STATE)}
    for name, module in private.modules_of(pipe).items():
        for path, part in module.named_modules():
            registry = private.registry_of(part)
            state[name, path] = (
                _own(part, private.MODULE_STATE),
                registry and (list(registry.hooks.items()), registry.order, registry.references),
                {key: id(tensor) for key, tensor in part._parameters.items()},
                {key: value for key, value in vars(part).items() if isinstance(value, int | tuple)},
            )
        state[name, "tensors"] = [
            (key, str(tensor.device), tensor.dtype, tensor.is_pinned(), tensor.stride())
            for key, tensor in module.state_dict().items()
        ]
    return state


def _own(owner: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in vars(owner).items() if key in names}


class Block(nn.Module):
    """A block with weights of its own, a leaf that group and sequential offload know, and integers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("index", torch.arange(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale


class Net(ModelMixin):
    """A component with something before its blocks."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x + self.bias)
        for block in self.blocks:
            x = block(x)
        return x


class NetPipeline(DiffusionPipeline):
    """Calls the encoder once, the transformer in two steps, and the decoder once."""

    model_cpu_offload_seq = "encoder->transformer->vae"

    def __init__(self, encoder: Net, transformer: Net, vae: Net) -> None:
        super().__init__()
        self.register_modules(encoder=encoder, transformer=transformer, vae=vae)

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        width = self.encoder.bias.numel()
        x = torch.linspace(-1, 1, 2 * width, device=self._execution_device).view(2, width)
        x = self.encoder(x)
        for _ in range(2):
            x = self.transformer(x)
        x = self.vae(x)
        self.maybe_free_model_hooks()
        return x


NAMES = ("encoder", "transformer", "vae")


def nets(width: int = 8) -> NetPipeline:
    """Return a pipeline on the CPU whose components have 2, 4 and 3 blocks."""
    return NetPipeline(Net(width, 2), Net(width, 4), Net(width, 3))


def ways(pipe: DiffusionPipeline) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a scheme of each kind that runs without a GPU, and some that mix them, by a name."""
    names = [name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]
    denoiser = "unet" if "unet" in names else "transformer"
    rest = [name for name in names if name != denoiser]
    yield "resident", {"excluded": names}
    for how in ("copy", "drop", "pinned"):
        yield how, {"sequence": names, "sticky": True, "swaps": dict.fromkeys(names, how)}
    yield "outside", {"sticky": True, "swaps": dict.fromkeys(names, "drop")}
    for count in (0, 1):
        streamed = {denoiser: Streamed(count)}
        yield f"streamed {count}", {"excluded": names, "inside": streamed}
        yield f"streamed {count} in turn", {"sequence": names, "sticky": True, "inside": streamed}
    yield "all in leaves", {"inside": dict.fromkeys(names, Grouped())}
    yield "all in blocks", {"inside": dict.fromkeys(names, Grouped(blocks=1))}
    facts = facts_of(pipe)
    on_disk = {name: Grouped(disk=not (one.tied or one.upcast)) for name, one in facts.items()}
    yield "all on disk", {"inside": on_disk}
    for how in (Grouped(), Grouped(blocks=2), Grouped(disk=True)):
        mixed = {"sequence": rest, "sticky": True, "swaps": dict.fromkeys(rest, "drop")}
        yield f"beside {how}", {**mixed, "inside": {denoiser: how}}
    split = {denoiser: Grouped(), rest[0]: Grouped(blocks=1)}
    yield "each its own way", {"excluded": rest[1:], "inside": split}


def ways_on_a_gpu(pipe: DiffusionPipeline) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield those, and the ones that need streams or a device that is not the CPU."""
    yield from ways(pipe)
    names = list(private.modules_of(pipe))
    denoiser = "unet" if "unet" in names else "transformer"
    rest = [name for name in names if name != denoiser]
    mixed = {"sequence": rest, "sticky": True, "swaps": dict.fromkeys(rest, "pinned")}
    yield "all sequential", {"inside": dict.fromkeys(names, Sequential())}
    for how in (
        Sequential(),
        Grouped(stream=True),
        Grouped(stream=True, record_stream=True),
        Grouped(stream=True, low_cpu_mem=True),
        Grouped(blocks=1, stream=True),
        Grouped(stream=True, disk=True),
    ):
        yield f"beside {how}", {**mixed, "inside": {denoiser: how}}
