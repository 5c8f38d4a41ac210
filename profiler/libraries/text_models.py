"""What transformers' releases do differently when a model is built: where, and what stays in single precision."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

try:  # since 5.0
    from transformers.initialization import no_init_weights
except ImportError:
    from transformers.modeling_utils import no_init_weights  # type: ignore[no-redef]

__all__ = [
    "EXTRA_TOKENS",
    "IN_BATCHES",
    "kept_in_float32",
    "materialization",
    "no_init_weights",
]

IN_BATCHES = hasattr(PreTrainedTokenizerFast, "_batch_encode_plus")
"""Whether a tokenizer turns every text into a batch of one first, as before 5.0."""

EXTRA_TOKENS = "additional_special_tokens" if IN_BATCHES else "extra_special_tokens"
"""What special tokens without a role of their own are called; renamed in 5.0."""


def kept_in_float32(model: Any, dtype: torch.dtype) -> tuple[str, ...]:
    """Return patterns of the names of parameters that `from_pretrained(dtype=dtype)` keeps in float32.

    Source: `_get_dtype_plan` of `PreTrainedModel`, since 5.2. Releases 5.0 and 5.1 kept all of a class's names whatever
    the dtype (`dtype_plan`), 4.57 chose as 5.2 does (`from_pretrained`).
    """
    if hasattr(model, "_get_dtype_plan"):
        return tuple(model._get_dtype_plan(dtype))
    if getattr(model, "dtype_plan", None) is not None:
        return tuple(model.dtype_plan)
    found: list[str] = []
    if dtype == torch.float16:
        found += model._keep_in_fp32_modules or ()
    if dtype in (torch.float16, torch.bfloat16):
        found += model._keep_in_fp32_modules_strict or ()
    return tuple(found)


def materialization() -> tuple[Any, str] | None:
    """Return the module and name of the function that makes each loaded tensor; None before 5.0."""
    try:
        from transformers import core_model_loading
    except ImportError:
        return None
    return core_model_loading, "spawn_materialize"
