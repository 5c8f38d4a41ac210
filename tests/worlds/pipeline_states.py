"""Everything about a pipeline that a tracer, or lending it, could leave changed."""

from __future__ import annotations

from torch import nn


def state_of(pipe):
    """Return everything about a pipeline that a tracer could leave changed, by name."""
    state = {"pipe": sorted(vars(pipe)), "class": sorted(vars(type(pipe)))}
    for name, part in pipe.components.items():
        state[name] = sorted(vars(part)) if hasattr(part, "__dict__") else part
        if isinstance(part, nn.Module):
            for path, module in part.named_modules():
                state[f"{name}.{path}"] = module_state(module)
    return state


def module_state(module):
    """Return a module's attributes, hooks, and where its tensors are."""
    hook = vars(module).get("_hf_hook")
    registry = vars(module).get("_diffusers_hook")
    return {
        "attributes": {key: _plainly(value) for key, value in vars(module).items()},
        "hooks": (type(hook).__name__, sorted(vars(hook)) if hook else None),
        "registry": list(registry.hooks) if registry else None,
        "tensors": [
            (key, tuple(tensor.shape), tensor.dtype, str(tensor.device), tensor.requires_grad)
            for key, tensor in (
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            )
        ],
    }


def _plainly(value):
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, dict):
        return sorted(map(str, value))
    return value if isinstance(value, int | str | bool | None) else type(value).__name__
