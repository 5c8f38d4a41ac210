"""A plan's recorded order of uses as an offload strategy for diffusers' `ComponentsManager`.

`set_offload_strategy` takes any `(hooks, model_id, model, execution_device) -> hooks`: it is called when a model that
is not on the GPU is about to run, and returns those on the GPU to offload (diffusers 0.42.1,
`modular_pipelines/components_manager.py`). diffusers' own strategy knows sizes, and reserves 3 GB for activations. This
one knows the order in which components are used and what each use needs: it offloads those whose next use is farthest
away (Belady 1966, "A study of replacement algorithms for a virtual-storage computer", from knowledge) until the rest
fits the plan's budget.

The strategy is not called before models that are on the GPU run, so the models that stay must fit together with the
largest need of any of their uses, not only of the next one. Then, by the plan's figures, no order of calls exceeds the
budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from profiler.allocator.settings import round_block
from profiler.errors import FindingError, InputError
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiler.planning.plan import Plan
    from profiler.planning.replaying.uses import Use

_NEVER = 1 << 60  # distance in uses of a model that the plan does not know


class OffloadStrategy:
    """The strategy of one `ComponentsManager`; it follows the calls by the models it is called for.

    Args:
        uses: The uses of one call; after the last the first comes again.
        limit_bytes: The bytes that may be allocated at once.
    """

    def __init__(self, uses: Sequence[Use], limit_bytes: int) -> None:
        self._uses = tuple(uses)
        self._limit_bytes = limit_bytes
        self._needs: dict[str, int] = {}  # the largest of any use, by component
        for use in uses:
            self._needs[use.component] = max(self._needs.get(use.component, 0), use.other_bytes)
        self._at = -1  # the use that is running, as far as is known

    def __repr__(self) -> str:
        """Return the components in their order, and the limit of allocated bytes."""
        order = " -> ".join(use.component for use in self._uses)
        return f"<OffloadStrategy: {order}, within {format_bytes(self._limit_bytes)} allocated>"

    def __call__(
        self, hooks: list[Any], model_id: str, model: torch.nn.Module, execution_device: Any
    ) -> list[Any]:
        """Return those of `hooks`, whose models are on the GPU, to offload before `model` is onloaded."""
        name = component_name(model_id)
        self._at = self._next_use(name)
        running = self._running(name)
        kept = {name: self._weight_bytes(name, model)}
        going: list[Any] = []
        for hook in sorted(hooks, key=lambda hook: self._rank(hook, running)):
            own = component_name(hook.model_id)
            with_it = kept | {own: kept.get(own, 0) + self._weight_bytes(own, hook.model)}
            if own in running or self.needed_bytes(with_it) <= self._limit_bytes:
                kept = with_it
            else:
                going.append(hook)
        return going

    def needed_bytes(self, weights: dict[str, int]) -> int:
        """Return the most that is allocated while these are on the GPU; a model without uses has the largest need."""
        most = max(self._needs.values())
        return sum(weights.values()) + max(self._needs.get(name, most) for name in weights)

    def _running(self, name: str) -> tuple[str, ...]:
        known = any(use.component == name for use in self._uses)
        return self._uses[self._at].within if known else ()

    def _next_use(self, name: str) -> int:
        """Return the next use of a component: the uses in between were of models that are on the GPU."""
        count = len(self._uses)
        later = ((self._at + 1 + step) % count for step in range(count))
        return next((at for at in later if self._uses[at].component == name), self._at)

    def _rank(self, hook: Any, running: tuple[str, ...]) -> int:
        """Return the distance in uses to a model's next use; 0 for a running model."""
        name, count = component_name(hook.model_id), len(self._uses)
        if name in running:
            return 0
        ahead = (step for step in range(1, count + 1))
        return next(
            (step for step in ahead if self._uses[(self._at + step) % count].component == name),
            _NEVER,
        )

    def _weight_bytes(self, name: str, model: torch.nn.Module) -> int:
        """Return the bytes of a model: as it is, or in its largest dtype if that is more."""
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
        now = sum(round_block(t.nbytes) for t in tensors)
        known = (use.weight_bytes for use in self._uses if use.component == name)
        return max(now, next(known, 0))


def component_name(model_id: str) -> str:
    """Return the component's name from a manager's model id, which is `name_` and a number."""
    return model_id.rpartition("_")[0]


def offload_strategy(plan: Plan) -> OffloadStrategy:
    """Return the strategy that keeps `plan`'s budget.

    Raises:
        InputError: if the plan was written before plans kept the order of uses.
        FindingError: if the budget does not hold a component as a whole, while it is used.
    """
    if not plan.uses:
        raise InputError("the plan does not say in which order components are used: plan again")
    limit_bytes = plan.margin.allocatable_bytes
    strategy = OffloadStrategy(plan.uses, limit_bytes)
    weights = {use.component: use.weight_bytes for use in plan.uses}
    for use in plan.uses:
        together = dict.fromkeys((use.component, *use.within), 0)
        needed_bytes = strategy.needed_bytes({name: weights.get(name, 0) for name in together})
        if needed_bytes > limit_bytes:
            raise FindingError(
                f"{' and '.join(together)} need {format_bytes(needed_bytes)} on the GPU, and the budget of "
                f"{format_bytes(plan.budget_bytes)} leaves {format_bytes(limit_bytes)}: a ComponentsManager moves "
                "whole components; apply the plan to the pipeline, or plan for a larger budget"
            )
    return strategy
