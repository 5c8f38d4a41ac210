"""Attention by plain operators (PyTorch's math backend): what torch runs, and what that takes of a virtual GPU."""

from __future__ import annotations

import pytest
import torch
from tiny_flux import write_tiny_flux
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile

from profiler.pipelines import load_pipeline
from profiler.units import MIB
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.attention_math import attend_by_math

NO_WORK = ("aten::to", "aten::resolve_conj")
VARIANTS = {
    "plain": {},
    "causal": {"is_causal": True},
    "masked": {"mask": torch.zeros(2, 1, 6, 6)},
    "scaled": {"scale": 0.5},
    "negatively scaled": {"scale": -0.5},
    "grouped": {"enable_gqa": True},
    "grouped, causal, dropped": {"enable_gqa": True, "is_causal": True, "dropout_p": 0.5},
}


def innermost(run):
    """Return the names of a profile's operators that call no other."""
    events = [event for event in run.events() if not event.cpu_children]
    return [event.name for event in events if event.name not in NO_WORK]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_operators_are_those_that_torch_runs_itself(variant, dtype):
    """Compared on real tensors of the CPU: allocations and kernels, in order."""
    options = dict(VARIANTS[variant])
    mask = options.pop("mask", None)
    mask = None if mask is None else mask.to(dtype)
    query = torch.zeros(2, 4, 6, 8, dtype=dtype)
    key = torch.zeros(2, 2, 6, 8, dtype=dtype) if "enable_gqa" in options else query.clone()
    drop, causal = options.pop("dropout_p", 0.0), options.pop("is_causal", False)

    with torch.no_grad(), profile() as theirs:
        torch.ops.aten._scaled_dot_product_attention_math.default(
            query, key, key, mask, drop, causal, **options
        )
    with torch.no_grad(), profile() as ours:
        attend_by_math(query, key, key, mask, dropout_p=drop, is_causal=causal, **options)

    assert innermost(ours) == innermost(theirs)


@pytest.mark.parametrize(
    ("gpu", "dtype", "forced"),
    [
        ("t4", torch.bfloat16, False),  # no fused kernel serves bfloat16 below sm_80
        ("v100", torch.bfloat16, False),
        ("rtx-4090", torch.float16, True),
    ],
)
def test_causal_attention_holds_its_mask_and_the_scores_twice(gpu, dtype, forced):
    """Queries `[1, 8, 512, 64]` in half precision take half a MiB, and 1 MiB as they are computed with."""
    scores, mask = 8 * MIB, MIB  # 8 heads, 512 x 512, 4 bytes
    singles = 4 * MIB  # queries, keys and values in single precision, and the queries scaled
    # In the safe softmax: scores and softmax, a bool for each score and each row, and a zero.
    softmax = 2 * scores + scores // 4 + 8 * 512 + 512
    with VirtualGPU(gpu) as virtual:
        query = torch.zeros(1, 8, 512, 64, device="cuda", dtype=dtype)
        torch.ops.aten.mm(query[0, 0], query[0, 0].T)  # cuBLAS's workspace
        before = virtual.allocator.allocated_bytes
        torch.cuda.reset_peak_memory_stats()
        with sdpa_kernel(
            [SDPBackend.MATH] if forced else list(SDPBackend.__members__.values())[1:]
        ):
            out = torch.nn.functional.scaled_dot_product_attention(
                query, query, query, is_causal=True
            )
        assert (out.device.type, out.dtype, out.shape) == ("cuda", dtype, query.shape)
        assert virtual.allocator.peak_bytes - before == singles + mask + softmax


def test_a_safe_softmax_is_taken_apart_whoever_calls_it():
    with VirtualGPU("rtx-4090") as gpu:
        scores = torch.zeros(1024, 1024, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        torch.ops.aten._safe_softmax(scores, -1)
        assert gpu.allocator.peak_bytes == 2 * 4 * MIB + MIB + 1024 + 512


def test_dropout_on_the_gpu_is_one_kernel_with_a_mask():
    with VirtualGPU("rtx-4090") as gpu:
        layer = torch.nn.Dropout(0.5)
        layer(torch.zeros(1024, 1024, device="cuda"))
        assert gpu.allocator.peak_bytes == 2 * 4 * MIB + MIB
        assert not any(name == "operator" for name, _ in gpu.values.assumed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gpu", ["t4", "v100", "rtx-2080-ti"])
def test_a_pipeline_in_bfloat16_runs_where_bfloat16_has_no_fused_attention(gpu, tmp_path):
    """FLUX.1: its CLIP attends causally, its T5 with a bias, its transformer without either."""
    with VirtualGPU(gpu):
        pipe = load_pipeline(str(write_tiny_flux(tmp_path)), dtype="bfloat16").to("cuda")
        embeds, pooled, _ = pipe.encode_prompt("a prompt", "a prompt", max_sequence_length=32)
        image = pipe(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            height=64,
            width=64,
            num_inference_steps=1,
            output_type="pt",
        ).images

    made = [(tensor.device.type, tensor.dtype) for tensor in (embeds, pooled, image)]
    assert made == [("cuda", torch.bfloat16)] * 3
