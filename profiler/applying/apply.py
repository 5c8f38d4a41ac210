"""`apply`: put a plan into effect on a real pipeline, as a transaction that can be undone.

Whatever diffusers can do is done by its own calls: model offload first, while components that it would refuse, or move
too much of, are hidden from it; then our own hooks replace accelerate's; then components are split, one by one.

Only attributes of instances are set: `_exclude_from_cpu_offload` is one list on a class that many pipelines share.
Set-up copies the components that the plan keeps on the GPU; all others move when the pipeline is called.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Self

from profiler.applying.checks import check
from profiler.applying.hooks.attachment import Attachment, Target
from profiler.applying.hooks.restoring import all_or_nothing
from profiler.applying.hooks.sticky import keep_excluded, share_end
from profiler.applying.hooks.swaps import swap
from profiler.applying.hooks.table import ATTACHMENTS, TO_ALL
from profiler.applying.run_differences import differences
from profiler.applying.snapshot import Snapshot, flags_of, snapshot
from profiler.checking.given import check_given, check_pipelines
from profiler.libraries import hooks as private
from profiler.libraries.modes import DENOISERS
from profiler.libraries.modular import is_modular
from profiler.libraries.placing import cast_denoisers, lower_vae_peak
from profiler.libraries.releases import warn_of_untested
from profiler.pipelines.sibling import check_shared
from profiler.placements.scheme import RESIDENT, Scheme
from profiler.planning import Plan
from profiler.record.settings import VAE, VAE_TILING

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from types import TracebackType

    import torch
    from diffusers import DiffusionPipeline

_STAYS_FP8 = "weights that were stored as float8 stay so: load the pipeline again to have them back"


def apply(
    plan: Plan,
    pipe: Any,
    *,
    gpu_id: int | None = None,
    device: Any = None,
    disk_folder: str | os.PathLike[str] | None = None,
    also: Sequence[Any] = (),
) -> Applied:
    """Put `plan` into effect on `pipe`, which is changed in place.

    Args:
        plan: A plan for this pipeline's class and components.
        pipe: The pipeline, in any placement that `enable_model_cpu_offload` accepts.
        gpu_id: As that method takes it: the accelerator's index; None for the one set before, or 0.
        device: As that method takes it: the accelerator, without an index if `gpu_id` is given.
        disk_folder: The folder for groups that the plan keeps on disk, with a subfolder for each component.
        also: Other pipelines over components of `pipe`, such as image to image: their calls then end in the same way.

    Returns:
        A handle whose `undo` restores the pipeline; it is also a context manager that undoes the plan at its end.

    Raises:
        InputError: if the plan cannot be put into effect; nothing has changed then.
    """
    warn_of_untested()
    check_given(plan, Plan, to="apply()", instead="it is called as apply(plan, pipe)")
    check_pipelines(also, to="apply(also=...)")
    folder = None if disk_folder is None else Path(disk_folder)
    check(plan, pipe, gpu_id=gpu_id, device=device, disk_folder=folder)
    for other in also:
        check_shared(pipe, other)
    differing = differences(plan, pipe)
    if differing:
        warnings.warn(
            f"the plan was made for another run, and its figures do not hold: {'; '.join(differing)}",
            stacklevel=3,
        )
    return put(plan, pipe, gpu_id=gpu_id, device=device, folder=folder, also=also)


def put(
    plan: Plan,
    pipe: DiffusionPipeline,
    *,
    gpu_id: int | None = None,
    device: Any = None,
    folder: Path | None = None,
    also: Sequence[DiffusionPipeline] = (),
) -> Applied:
    """Do what `apply` does after its checks. If it fails half-way, the pipeline is restored."""
    try:
        _cast(plan, pipe)
        before = snapshot(pipe, also)
    except BaseException as error:
        _tell_what_stays(plan, error)
        raise
    try:
        _lower_vae(plan, pipe, before)
        _place(plan, pipe, before, _Where(gpu_id, device, folder))
        for other in also:
            share_end(pipe, other)
        return Applied(plan, before)
    except BaseException as error:
        clear_frames(error.__traceback__)  # which hold memory that is to be released
        before.restore()
        _tell_what_stays(plan, error)
        raise


class _Where:
    """The device, and the folder for weights on disk."""

    def __init__(self, gpu_id: int | None, device: Any, folder: Path | None) -> None:
        self.gpu_id, self.device = gpu_id, device
        self._folder = folder

    def gpu_device(self, pipe: DiffusionPipeline) -> torch.device:
        """Return the device as `enable_model_cpu_offload` names it."""
        return private.offload_device(pipe, self.gpu_id, self.device)

    def folder(self, name: str, how: Any) -> Path | None:
        """Return the folder of a component; None if it is not kept on disk."""
        return self._folder / name if how.on_disk and self._folder is not None else None


class Applied:
    """A plan in effect; made by `apply`."""

    def __init__(self, plan: Plan, before: Snapshot) -> None:
        self.plan = plan
        self._before: Snapshot | None = before

    def __repr__(self) -> str:
        """Return the plan, and whether it is still in effect."""
        state = "taken back" if self._before is None else "in effect"
        return f"<Applied, {state}: {self.plan!r}>"

    def undo(self) -> None:
        """Restore hooks, attributes and devices as they were before `apply`. A second call does nothing.

        A Ctrl-C meanwhile waits until that is done. If an error ends it, for example because the GPU has no room for
        what returns to it, another `undo` does the rest.

        Hooks attached since are removed as well. Weights that the plan stored as float8 stay so, since that lost bits;
        a warning says so.
        """
        if self._before is not None:
            self._before.restore()
            self._before = None
            if "fp8" in self.plan.modifiers:
                warnings.warn(_STAYS_FP8, stacklevel=2)

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

    8-bit components that diffusers leaves alone are included: otherwise it would try to move them.
    """
    modules = private.modules_of(pipe)
    skipped = [name for name, module in modules.items() if private.is_left_alone(module)]
    return [*plan.sequence, *(name for name in skipped if name not in plan.sequence)]


def _cast(plan: Plan, pipe: DiffusionPipeline) -> None:
    """Store the denoisers as float8, if the plan says so and they are not yet."""
    if "fp8" not in plan.modifiers:
        return
    denoisers = [pipe.components[name] for name in DENOISERS if pipe.components.get(name)]
    if not any(private.is_layerwise_cast(part) for one in denoisers for part in one.modules()):
        cast_denoisers(pipe)


def _tell_what_stays(plan: Plan, error: BaseException) -> None:
    if "fp8" in plan.modifiers:
        error.add_note(_STAYS_FP8)


def _lower_vae(plan: Plan, pipe: DiffusionPipeline, before: Snapshot) -> None:
    tiling, slicing = ("vae-tiling" in plan.modifiers, "vae-slicing" in plan.modifiers)
    if not (tiling or slicing):
        return
    flags = flags_of(pipe.vae)
    try:
        lower_vae_peak(pipe, tiling=tiling, slicing=slicing)
        for one in plan.settings:
            if one.what == VAE_TILING and one.component == VAE:
                vars(pipe.vae).update(one.value)
    finally:
        before.note_flags(pipe.vae, flags)


def _place(plan: Plan, pipe: DiffusionPipeline, before: Snapshot, where: _Where) -> None:
    scheme = plan.scheme
    alone = {
        name: private.modules_of(pipe)[name]
        for name, inside in scheme.inside.items()
        if scheme.streamed(name) is None or scheme.placement(name) == RESIDENT
    }
    if alone:
        # The next steps need modules without hooks on the CPU, as the pipeline's own methods leave them.
        _unhook(pipe)
        for module in alone.values():
            module.to("cpu")
    before.keep_objects(
        module for name, module in alone.items() if _attachment(scheme, name).REPLACES_TENSORS
    )
    if is_modular(pipe):
        _place_modular(scheme, pipe, where)
        return
    if _all_alike(scheme, pipe):
        _place_alike(scheme, pipe, where, list(alone.values()))
        return
    with before.hidden(alone):
        targets = _prepare(plan, pipe)
        pipe.enable_model_cpu_offload(gpu_id=where.gpu_id, device=where.device)
        swap(pipe, {name: how for name, how in plan.swaps.items() if not scheme.streamed(name)})
    _attach(scheme, pipe, where)
    if plan.sticky:
        for target in targets:
            keep_excluded(target)


def _unhook(pipe: Any) -> None:
    if not is_modular(pipe):
        pipe.remove_all_hooks()
        return
    for module in private.modules_of(pipe).values():
        private.remove_hooks(module)


def _place_modular(scheme: Scheme, pipe: Any, where: _Where) -> None:
    """Place the components one by one: a modular pipeline has no model offload."""
    _unhook(pipe)
    for name, module in private.modules_of(pipe).items():
        if name not in scheme.inside:
            module.to(where.gpu_device(pipe))
    _attach(scheme, pipe, where)


def _attach(scheme: Scheme, pipe: Any, where: _Where) -> None:
    """Split components; those that stream blocks come first, since they replace a model-offload hook."""
    device, modules = where.gpu_device(pipe), private.modules_of(pipe)
    for name, how in sorted(scheme.inside.items(), key=lambda one: not one[1].leaves_rest):
        stays = scheme.placement(name) == RESIDENT
        folder = where.folder(name, how)
        target = Target(pipe, name, modules[name], device, folder, scheme.swap(name), stays)
        _attachment(scheme, name).attach(target, how)


def _all_alike(scheme: Scheme, pipe: DiffusionPipeline) -> bool:
    """Tell whether one call of the pipeline suffices: all components are split in the same way, in memory."""
    ways = {scheme.split(name) for name in private.modules_of(pipe)}
    how = next(iter(ways))
    return len(ways) == 1 and how is not None and how.kind in TO_ALL and not how.on_disk


def _place_alike(
    scheme: Scheme, pipe: DiffusionPipeline, where: _Where, modules: list[torch.nn.Module]
) -> None:
    how = next(iter(scheme.inside.values()))
    setattr(pipe, private.EXCLUDED, [])
    with all_or_nothing(modules):
        TO_ALL[how.kind].attach_to_all(pipe, how, where.gpu_id, where.device)


def _attachment(scheme: Scheme, name: str) -> Attachment:
    return ATTACHMENTS[scheme.inside[name].kind]


def _prepare(plan: Plan, pipe: DiffusionPipeline) -> tuple[DiffusionPipeline, ...]:
    """Set sequence and exclusions, and return the pipelines whose end of a call decides which components stay."""
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
