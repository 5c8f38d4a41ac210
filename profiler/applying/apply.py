"""`apply`: a plan put into effect by the real `enable_model_cpu_offload`, as a transaction, with a way back.

Only attributes of the pipeline's instance are set: `_exclude_from_cpu_offload` is one list on a class that many
pipelines share. Set-up copies what the plan keeps on the card; everything else moves when the pipeline is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from profiler import diffusers_private as private
from profiler.applying.checks import check
from profiler.applying.snapshot import Snapshot, snapshot
from profiler.applying.sticky import keep_excluded

if TYPE_CHECKING:
    from types import TracebackType

    from diffusers import DiffusionPipeline

    from profiler.planning import Plan


def apply(plan: Plan, pipe: Any, *, gpu_id: int | None = None, device: Any = None) -> Applied:
    """Put `plan` into effect on `pipe`, which is changed in place.

    Args:
        plan: A plan for this pipeline's class and components.
        pipe: The pipeline, in any placement that `enable_model_cpu_offload` accepts.
        gpu_id: As that method takes it: the accelerator's index, the one set before or 0 where it is None.
        device: As that method takes it: the accelerator, without an index if `gpu_id` is given.

    Returns:
        A handle whose `undo` restores the pipeline; also a context manager that does so at its end.

    Raises:
        InputError: if the plan cannot be put into effect; nothing has changed then.
    """
    check(plan, pipe, gpu_id=gpu_id, device=device)
    before = snapshot(pipe)
    try:
        targets = _prepare(plan, pipe)
        pipe.enable_model_cpu_offload(gpu_id=gpu_id, device=device)
        if plan.sticky:
            for target in targets:
                keep_excluded(target)
    except BaseException:
        before.restore()
        raise
    return Applied(plan, before)


class Applied:
    """A plan in effect; made by `apply`."""

    def __init__(self, plan: Plan, before: Snapshot) -> None:
        self.plan = plan
        self._before: Snapshot | None = before

    def undo(self) -> None:
        """Restore hooks, attributes and places as they were before `apply`. The second time does nothing."""
        if self._before is not None:
            before, self._before = self._before, None
            before.restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def sequence_for(plan: Plan, pipe: DiffusionPipeline) -> list[str]:
    """Return the names that go into `model_cpu_offload_seq`.

    8-bit components that diffusers leaves alone are named as well: otherwise it would try to move them.
    """
    modules = private.modules_of(pipe)
    skipped = [name for name, module in modules.items() if private.is_left_alone(module)]
    return [*plan.sequence, *(name for name in skipped if name not in plan.sequence)]


def _prepare(plan: Plan, pipe: DiffusionPipeline) -> tuple[DiffusionPipeline, ...]:
    """Set sequence and exclusions, and return the pipelines whose end of call decides who stays."""
    sequence = sequence_for(plan, pipe)
    inner = private.inner_pipelines(pipe)
    if not private.enables_by_itself(pipe):
        _set(pipe, sequence, plan.excluded)
        for one in inner:
            vars(one).pop(
                private.ALL_HOOKS, None
            )  # stale hooks would offload in the middle of the outer call
        return (pipe, *inner)
    outer = {id(module): name for name, module in private.modules_of(pipe).items()}
    for one in inner:
        own = {outer[id(m)]: name for name, m in private.modules_of(one).items() if id(m) in outer}
        _set(
            one,
            [own[name] for name in sequence if name in own],
            [own[name] for name in plan.excluded if name in own],
        )
    return inner


def _set(pipe: DiffusionPipeline, sequence: list[str], excluded: Any) -> None:
    setattr(pipe, private.SEQUENCE, "->".join(sequence))
    setattr(pipe, private.EXCLUDED, [name for name in excluded if name not in sequence])
