"""AMD's GPUs as ROCm's PyTorch has them: what torch says of itself and of them, and that it is put back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from replay_worlds import FAMILIES
from transformers.utils import import_utils

from profiler.cudnn.answers import answer
from profiler.cudnn.convolution import Convolution
from profiler.gpus.hardware import Platform, gpu_spec, gpu_spec_of_properties, gpu_specs
from profiler.libraries.out_of_memory import Shortage, parse
from profiler.tracing import profile_pipeline
from profiler.units import GIB, KIB, MIB
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.attention import EXPERIMENTAL, backend
from profiler.virtual.workspaces import convolution

DECODER = Convolution.parse("f16 nchw 1,128,512,512 128,128,3,3 1,128,512,512 1,1 1,1 1,1 1")
AMD = [one for one in gpu_specs() if one.platform == "rocm"]


def test_torch_answers_as_its_build_for_rocm_and_is_put_back():
    before = torch.version.hip, torch.version.cuda, import_utils.is_rocm_platform()
    with VirtualGPU("mi300x"):
        properties = torch.cuda.get_device_properties(0)
        inside = (
            torch.version.hip is not None,
            torch.version.cuda,
            import_utils.is_rocm_platform(),
            torch.cuda.is_bf16_supported(),
            torch.cuda.is_tf32_supported(),
            torch.cuda.get_device_name(),
            torch.cuda.get_device_capability(),
            torch.cuda.get_arch_list(),
            properties.gcnArchName,
            properties.warp_size,
            properties.multi_processor_count,
            properties.total_memory,
        )
    assert inside == (
        True,
        None,
        True,
        True,
        True,
        "AMD Instinct MI300X",
        (9, 4),
        ["gfx942"],
        "gfx942:sramecc+:xnack-",
        64,
        304,
        196592 * MIB,
    )
    assert (torch.version.hip, torch.version.cuda, import_utils.is_rocm_platform()) == before


def test_a_gpu_of_nvidias_leaves_the_version_alone():
    with VirtualGPU("rtx-4090"):
        assert torch.version.hip is None
        assert not import_utils.is_rocm_platform()


def test_radeon_has_no_tf32_and_waves_of_32():
    with VirtualGPU("rx-7900-xtx"):
        assert not torch.cuda.is_tf32_supported()
        properties = torch.cuda.get_device_properties(0)
    assert (properties.gcnArchName, properties.warp_size) == ("gfx1100", 32)


@pytest.mark.parametrize(
    ("variables", "large_bytes"),
    [
        ({"PYTORCH_HIP_ALLOC_CONF": "large_segment_size_mb:32"}, 32),
        # CUDA's name comes first, HIP's second.
        ({"PYTORCH_HIP_ALLOC_CONF": "large_segment_size_mb:32", "PYTORCH_ALLOC_CONF": ""}, 32),
        (
            {
                "PYTORCH_CUDA_ALLOC_CONF": "large_segment_size_mb:64",
                "PYTORCH_HIP_ALLOC_CONF": "large_segment_size_mb:32",
            },
            64,
        ),
    ],
)
def test_the_allocator_reads_hips_variable_between_the_two(monkeypatch, variables, large_bytes):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with VirtualGPU("mi300x") as gpu:
        torch.empty(2 * MIB, dtype=torch.uint8, device="cuda")
        assert gpu.allocator.reserved_bytes == large_bytes * MIB


def test_hips_variable_means_nothing_on_a_gpu_of_nvidias(monkeypatch):
    monkeypatch.setenv("PYTORCH_HIP_ALLOC_CONF", "no such thing")
    with VirtualGPU("rtx-4090") as gpu:
        torch.empty(2 * MIB, dtype=torch.uint8, device="cuda")
        assert gpu.allocator.reserved_bytes == 20 * MIB


def test_products_hold_the_workspaces_of_both_libraries():
    """128 MiB for rocBLAS and 76 MiB for hipBLASLt; of an RX 7900 XTX 32 and 76."""
    held = {}
    for name in ("mi300x", "rx-7900-xtx"):
        with VirtualGPU(name) as gpu:
            a = torch.empty(64, 64, device="cuda")
            a @ a
            held[name] = gpu.workspace_bytes
    assert held == {"mi300x": (128 + 76) * MIB, "rx-7900-xtx": (32 + 76) * MIB}
    # Of the two blocks the variable sets rocBLAS's.
    assert gpu_spec("mi300x").blas_workspace_bytes(":1024:2") == 2048 * KIB + 76 * MIB


@pytest.mark.parametrize("one", AMD, ids=lambda one: one.key)
def test_no_answer_of_cudnn_is_taken_for_another_library(one):
    assert answer(one, DECODER, deterministic=False, tf32=True) is None
    with VirtualGPU(one):
        pass  # and it can be entered


def test_a_convolution_takes_between_nothing_and_its_columns():
    """Copies of input, weight and output, 64 MiB + 288 KiB + 64 MiB; columns of 128 x 3 x 3 values for each pixel."""
    image = torch.empty(1, 128, 512, 512, dtype=torch.float16, device="meta")
    weight = torch.empty(128, 128, 3, 3, dtype=torch.float16, device="meta")
    args = (image, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    taken = convolution(gpu_spec("mi300x"), args, image)
    assert (taken.least, int(taken), taken.most) == (
        0,
        2 * 64 * MIB + 288 * KIB,
        128 * 9 * 512 * 512 * 2,
    )


def chosen(name, dtype=torch.float16, size=64):
    query = torch.empty(1, 8, 256, size, dtype=dtype, device="meta")
    return backend(gpu_spec(name), query, query, query, None, is_causal=False, enable_gqa=False)


def test_attention_is_never_cudnns_and_on_radeon_fused_only_if_asked_for(monkeypatch):
    monkeypatch.delenv(EXPERIMENTAL, raising=False)
    assert [
        chosen(name) for name in ("h200", "mi300x", "mi210", "rx-7900-xtx", "apple-m2-16gb")
    ] == [
        "cudnn",
        "flash",
        "flash",
        "math",
        "math",
    ]
    assert chosen("mi300x", size=512) == "flash"  # AOTriton's kernels are wider than CUDA's
    assert chosen("mi300x", dtype=torch.float32) == "efficient"
    monkeypatch.setenv(EXPERIMENTAL, "1")
    assert chosen("rx-7900-xtx") == "flash"
    assert chosen("rx-7900-xtx", size=512) == "efficient"


def test_running_out_of_memory_is_worded_as_hip_words_it():
    with (
        VirtualGPU("mi300x", capacity="2GiB"),
        pytest.raises(torch.cuda.OutOfMemoryError) as caught,
    ):
        torch.empty(3 * GIB, dtype=torch.uint8, device="cuda")
    text = str(caught.value)
    assert text.startswith(
        "HIP out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total capacity of 2.00 GiB"
    )
    assert "non-PyTorch" not in text
    assert parse(text) == Shortage(3 * GIB, round(1.41 * GIB), 0, 0)


def test_a_prediction_says_that_nothing_of_it_was_measured_and_is_wider_for_that():
    own = gpu_spec("mi300x")
    profiles = []
    for spec in (replace(own, assumed=Platform()), own):
        with VirtualGPU(spec):
            pipe, call = FAMILIES["sd15"]()
            profiles.append(profile_pipeline(pipe, mode="model", num_inference_steps=2, **call))
    plain, said = profiles
    (assumed,) = [one for one in said.assumptions if one not in plain.assumptions]
    assert assumed.what.startswith("ROCm: ")
    assert "none of it was measured on an AMD GPU" in assumed.effect
    assert said.error_band == pytest.approx(plain.error_band + 0.1)
    assert said.error_band_below == pytest.approx(plain.error_band_below + 0.1)


def test_a_gpu_that_torch_calls_gfx_is_compared_with_amds_alone():
    class Properties:
        name = "AMD Instinct MI999"
        major, minor = 9, 4
        total_memory = 200 * GIB
        multi_processor_count = 152
        L2_cache_size = 4 * MIB
        gcnArchName = "gfx942:sramecc+:xnack-"  # noqa: N815  # as torch has it

    found = gpu_spec_of_properties(Properties())
    assert (found.platform, found.architecture, found.generation) == ("rocm", "gfx942", "cdna3")
    assert found.sources[0] == "estimate: AMD Instinct MI300X scaled by 0.50"
