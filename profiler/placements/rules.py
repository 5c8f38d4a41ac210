"""Rules for which placements can be combined, each with its reason.

Each placement brings its own rules. Whatever no rule forbids is allowed. The rules are those of diffusers 0.42.1,
accelerate 1.15.0 and our own hooks. A test per rule shows what the libraries do if it is broken: some raise, others
silently do something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.placements.evictions import COPY
from profiler.placements.scheme import OFFLOAD, RESIDENT, Scheme
from profiler.placements.table import PLACEMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from profiler.placements.placement import Facts, PlacementRule


class Case(NamedTuple):
    """A requested scheme, and the facts of the pipeline that it is for."""

    scheme: Scheme
    modifiers: tuple[str, ...]
    facts: Mapping[str, Facts]
    enables_by_itself: bool  # the pipeline has an `enable_model_cpu_offload` of its own


class Rule(NamedTuple):
    """One rule."""

    name: str
    sentence: str
    broken_by: Callable[[Case], Iterable[str]]
    """Yields the components that break the rule; "" for the pipeline as a whole."""


class Violation(NamedTuple):
    """A rule, and the component that breaks it."""

    rule: str
    component: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.component}: {self.sentence}" if self.component else self.sentence


def violations(
    scheme: Scheme,
    facts: Mapping[str, Facts],
    *,
    modifiers: tuple[str, ...] = (),
    enables_by_itself: bool = False,
) -> tuple[Violation, ...]:
    """Return the rules that `scheme` breaks; none if diffusers and our hooks can put it into effect.

    Args:
        scheme: The placement of a pipeline whose components are those of `facts`.
        facts: Facts by component.
        modifiers: Some of `placements.MODIFIERS`.
        enables_by_itself: Whether the pipeline's class has an `enable_model_cpu_offload` of its own.
    """
    case = Case(scheme, modifiers, facts, enables_by_itself)
    return tuple(
        Violation(rule.name, name, rule.sentence) for rule in RULES for name in rule.broken_by(case)
    )


def _split_with_hooks(case: Case) -> Iterator[str]:
    scheme = case.scheme
    for name in case.facts:
        placed = name in scheme.sequence or name in scheme.excluded or scheme.swap(name) != COPY
        if scheme.split(name) is not None and placed:
            yield name


def _not_sticky(case: Case) -> Iterator[str]:
    scheme = case.scheme
    ours = bool(scheme.inside) or any(how != COPY for how in scheme.swaps.values())
    if ours and scheme.hooked(tuple(case.facts)) and not scheme.sticky:
        yield ""


def _keeps_copies(case: Case) -> Iterator[str]:
    for name, facts in case.facts.items():
        inside = case.scheme.inside.get(name)
        if facts.upcast and inside is not None and inside.keeps_copies:
            yield name


def _of_placement(kind: str, rule: PlacementRule) -> Rule:
    """Return the rule of one placement as an entry of the table."""

    def broken_by(case: Case) -> Iterator[str]:
        for name, facts in case.facts.items():
            inside = case.scheme.inside.get(name)
            if inside is not None and inside.kind == kind and rule.broken_by(inside, facts):
                yield name

    return Rule(rule.name, rule.sentence, broken_by)


def _swaps_nothing(case: Case) -> Iterator[str]:
    hooked = case.scheme.hooked(tuple(case.facts))
    for name in case.facts:
        split = case.scheme.split(name) is not None  # reported by another rule
        if case.scheme.swap(name) != COPY and name not in hooked and not split:
            yield name


def _more_than_tensors(case: Case) -> Iterator[str]:
    for name, facts in case.facts.items():
        ours = case.scheme.streamed(name) is not None or case.scheme.swap(name) != COPY
        if ours and facts.quantized:
            yield name


def _moves_the_immovable(case: Case) -> Iterator[str]:
    for name, facts in case.facts.items():
        stays = case.scheme.placement(name) == RESIDENT and name not in case.scheme.inside
        if not facts.movable and not stays:
            yield name


def _nothing_to_ask(case: Case) -> Iterator[str]:
    for name, facts in case.facts.items():
        if case.scheme.placement(name) == OFFLOAD and not facts.has_parameters:
            yield name


def _own_way(case: Case) -> Iterator[str]:
    if case.enables_by_itself and (case.scheme.inside or case.scheme.swaps):
        yield ""


def _nobody(case: Case, modifier: str, fact: Callable[[Facts], bool]) -> Iterator[str]:
    if modifier in case.modifiers and not any(map(fact, case.facts.values())):
        yield ""


RULES = (
    Rule(
        "split-alone",
        "group and sequential offload refuse model-offload hooks, so such a component is neither in the sequence nor "
        "excluded nor swapped",
        _split_with_hooks,
    ),
    Rule(
        "hooks-need-sticky",
        "diffusers' end of a call enables model offload anew, which raises beside group offload and takes all other "
        "hooks off: the plan must be sticky",
        _not_sticky,
    ),
    *(_of_placement(kind, rule) for kind, one in PLACEMENTS.items() for rule in one.rules),
    Rule(
        "cast-keeps-copies",
        "its pipeline casts it within a call: the copies that a stream sends and files on disk keep the dtype from "
        "before, and blocks that travel lose their page-locked memory",
        _keeps_copies,
    ),
    Rule(
        "swap-needs-hook",
        "it does not leave the GPU by a model-offload hook, so there is no way to choose",
        _swaps_nothing,
    ),
    Rule(
        "plain-weights",
        "its quantisation library keeps tensors beside the weights, which only a copy takes along",
        _more_than_tensors,
    ),
    Rule(
        "immovable",
        "this bitsandbytes cannot move 8-bit weights: they stay on the GPU",
        _moves_the_immovable,
    ),
    Rule(
        "sequence-needs-parameters",
        "a component without parameters cannot be in the sequence: its successor asks the first where it is",
        _nothing_to_ask,
    ),
    Rule(
        "own-enable",
        "the pipeline places its components by an enable_model_cpu_offload of its own, which knows no other placement",
        _own_way,
    ),
    Rule(
        "fp8-needs-denoiser",
        "there is no denoiser that layerwise casting can store in float8",
        lambda case: _nobody(case, "fp8", lambda facts: facts.castable),
    ),
    Rule(
        "tiling-needs-vae",
        "there is no VAE that works in tiles",
        lambda case: _nobody(case, "vae-tiling", lambda facts: facts.tiles),
    ),
    Rule(
        "slicing-needs-vae",
        "there is no VAE that works picture by picture",
        lambda case: _nobody(case, "vae-slicing", lambda facts: facts.slices),
    ),
)
"""All rules, in the order in which they are reported."""
