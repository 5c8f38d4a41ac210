"""The groups that we say group offload makes, against the hooks that diffusers places on real models at full size."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import apply_group_offloading

from profiler.libraries.modules import components_of, describe, tensors_of
from profiler.pipelines import load_pipeline
from profiler.placements.group_structure import structure_of
from profiler.placements.grouped import Grouped
from profiler.virtual import VirtualGPU

WAYS = (
    Grouped(1),
    Grouped(2),
    Grouped(3),
    Grouped(),
    Grouped(1, stream=True),
    Grouped(stream=True),
)


def placed(module):
    """Return what diffusers' hooks say, in the words of `Structure`."""
    tensors = {id(tensor): index for index, tensor in enumerate(tensors_of(module))}
    parts = {id(part): index for index, part in enumerate(module.modules())}
    paths = {id(part): path for path, part in module.named_modules()}
    hooks, lazy = {}, []
    for part in module.modules():
        registry = vars(part).get("_diffusers_hook")
        hook = registry.get_hook("group_offloading") if registry is not None else None
        if hook is None:
            continue
        group = hook.group
        held = [t for one in group.modules for t in (*one.parameters(), *one.buffers())]
        sent = dict.fromkeys(tensors[id(t)] for t in (*held, *group.parameters, *group.buffers))
        hooks[parts[id(part)]] = (
            paths[id(group.modules[0] if group.modules else group.onload_leader)],
            tuple(sent),
            parts[id(group.onload_leader)],
            parts[id(group.offload_leader)],
            group.stream is not None,
        )
        if registry.get_hook("lazy_prefetch_group_offloading") is not None:
            lazy.append(parts[id(part)])
    return hooks, lazy


def told(structure):
    hooks = {}
    for part, number in structure.hooks.items():
        group = structure.groups[number]
        leaders = (group.onload_leader, group.offload_leader)
        hooks[part] = (group.path, group.tensors, *leaders, group.streams)
    return hooks, sorted(structure.lazy)


@pytest.mark.parametrize("model", ["sdxl-base", "flux1-dev", "wan2.1-t2v-1.3b", "cogvideox-5b"])
def test_groups_are_those_of_diffusers(model):
    for grouped in WAYS:
        with VirtualGPU("h100"):
            for name, module in components_of(load_pipeline(model)).items():
                component = describe(name, module)
                apply_group_offloading(
                    module,
                    torch.device("cuda"),
                    offload_type="block_level" if grouped.blocks else "leaf_level",
                    num_blocks_per_group=grouped.blocks or None,
                    use_stream=grouped.stream,
                )
                assert told(
                    structure_of(component, grouped.blocks, stream=grouped.stream)
                ) == placed(module), (name, grouped)
