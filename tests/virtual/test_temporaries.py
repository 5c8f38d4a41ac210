"""Single operators allocate what PyTorch's own CUDA build allocates for them.

The figures are those of torch 2.13.0+cu130, run without a GPU against a stand-in for the CUDA runtime: the highest
bytes asked for above the operator's inputs. Workspaces of convolutions are left out there, and
here.
"""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from profiler.virtual import VirtualGPU, workspaces

HALF, SINGLE = torch.float16, torch.float32


def image(dtype):
    return torch.empty(1, 512, 64, 64, dtype=dtype, device="cuda")


def channels_last(dtype):
    return torch.empty(1, 64, 64, 512, dtype=dtype, device="cuda").permute(0, 3, 1, 2)


def handed_on_by_attention(dtype):
    """Channels last but for the stride of its one image, which torch looks at nevertheless."""
    return channels_last(dtype).as_strided((1, 512, 64, 64), (512, 1, 512 * 64, 512))


def tokens(dtype):
    return torch.empty(2, 640, 4096, dtype=dtype, device="cuda").transpose(1, 2)


def rows_cut(dtype):
    return torch.empty(2, 4096, 640, dtype=dtype, device="cuda")[:, 10:]


def columns_cut(dtype):
    return torch.empty(2, 4096, 1280, dtype=dtype, device="cuda")[:, :, :640]


def permuted(dtype):
    return torch.empty(2, 512, 1024, dtype=dtype, device="cuda").transpose(1, 2)


def linear(dtype):
    return torch.nn.Linear(640, 1280, device="cuda", dtype=dtype)


def layer_norm(dtype):
    return torch.nn.LayerNorm(512, device="cuda", dtype=dtype)


def convolution(dtype, **options):
    return torch.nn.Conv2d(512, 256, 3, padding=1, device="cuda", dtype=dtype, **options)


def turned_convolution(dtype):
    return convolution(dtype).to(memory_format=torch.channels_last)


def plain(function):
    return lambda dtype: function


CASES = {
    "linear of rows cut, half": (linear, rows_cut, HALF, 31_380_480),
    "linear of tokens, half": (linear, tokens, HALF, 31_457_280),
    "linear of tokens, single": (linear, tokens, SINGLE, 62_914_560),
    "linear of columns cut, half": (linear, columns_cut, HALF, 20_971_520),
    "layer norm of a transposed input, half": (layer_norm, permuted, HALF, 4_210_688),
    "layer norm of a transposed input, single": (layer_norm, permuted, SINGLE, 8_404_992),
    "convolution of channels last, half": (convolution, channels_last, HALF, 4_456_448),
    "convolution with a weight of channels last, half": (
        turned_convolution,
        image,
        HALF,
        6_291_456,
    ),
    "convolution with a weight of channels last, single": (
        turned_convolution,
        image,
        SINGLE,
        12_582_912,
    ),
    "softmax of channels last, half": (
        plain(lambda x: x.softmax(-1)),
        channels_last,
        HALF,
        8_388_608,
    ),
    "softmax in single of channels last, half": (
        plain(lambda x: functional.softmax(x, -1, dtype=SINGLE)),
        channels_last,
        HALF,
        12_582_912,
    ),
    "log softmax of channels last, single": (
        plain(lambda x: x.log_softmax(-1)),
        channels_last,
        SINGLE,
        16_777_216,
    ),
    "cumsum of channels last, half": (
        plain(lambda x: x.cumsum(-1)),
        channels_last,
        HALF,
        8_388_608,
    ),
    "topk of channels last, half": (
        plain(lambda x: x.topk(4, -1)),
        channels_last,
        HALF,
        5_505_024,
    ),
    "roll of channels last, half": (
        plain(lambda x: x.roll(1, 2)),
        channels_last,
        HALF,
        8_388_608,
    ),
    "reflection of channels last, half": (
        plain(lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect")),
        channels_last,
        HALF,
        8_654_848,
    ),
    "nearest upsampling of rows cut, half": (
        plain(lambda x: functional.interpolate(x[:, :, :32], scale_factor=2.0, mode="nearest")),
        image,
        HALF,
        4 * 2_097_152 + 2_097_152,
    ),
    "nearest upsampling of channels last, half": (
        plain(lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest")),
        channels_last,
        HALF,
        4 * 4_194_304,
    ),
    "nearest upsampling of what a VAE's attention hands on, half": (
        plain(lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest")),
        handed_on_by_attention,
        HALF,
        4 * 4_194_304 + 4_194_304,
    ),
    "a power, half": (plain(lambda x: 2.0**x), image, HALF, 4_194_304 + 8),
    "unfold, half": (plain(lambda x: functional.unfold(x, 3)), image, HALF, 39_620_608),
    "unfold of channels last, half": (
        plain(lambda x: functional.unfold(x, 3)),
        channels_last,
        HALF,
        43_814_912,
    ),
}


def peak_bytes(gpu, call, given):
    """Return the most bytes asked for during the call, above those before it."""
    torch.empty(64, 64, device="cuda") @ torch.empty(64, 64, device="cuda")  # cuBLAS's workspace
    before = gpu.allocator.all.requested_bytes.current
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        call(given)
    return gpu.allocator.all.requested_bytes.peak - before


@pytest.mark.parametrize("name", CASES)
def test_an_operator_takes_what_torch_s_cuda_build_takes(name):
    make, given, dtype, expected = CASES[name]
    nothing = patch.object(workspaces, "convolution", lambda *_: workspaces.NOTHING)
    with VirtualGPU("h100") as gpu, nothing:
        assert peak_bytes(gpu, make(dtype), given(dtype)) == expected


# Queries, keys and values `[1, 8, 1024, D]` in half precision on an RTX 4090, whose multiprocessors they do not fill.
ATTENTION = {
    (64, SDPBackend.FLASH_ATTENTION): 5_341_208,
    (128, SDPBackend.FLASH_ATTENTION): 10_584_088,
    (160, SDPBackend.FLASH_ATTENTION): 15_302_680,
    (160, SDPBackend.EFFICIENT_ATTENTION): 7_864_320,
}


@pytest.mark.parametrize(("head_size", "backend"), ATTENTION)
def test_attention_takes_its_accumulators(head_size, backend):
    with VirtualGPU("rtx-4090") as gpu, sdpa_kernel(backend):
        query = torch.empty(1, 8, 1024, head_size, dtype=HALF, device="cuda")
        mask = None
        if backend is SDPBackend.EFFICIENT_ATTENTION:
            mask = torch.empty(1, 1, 1024, 1024, dtype=HALF, device="cuda")
        taken = peak_bytes(
            gpu, lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=mask), query
        )
    assert taken == ATTENTION[head_size, backend]


@pytest.mark.parametrize(("dtype", "statistics"), [(HALF, 2 * 32 * 4), (SINGLE, 0)])
def test_group_norm_takes_a_scale_and_a_shift_and_in_half_precision_its_statistics(
    dtype, statistics
):
    """Besides output, mean and deviation: 2 x 512 numbers of 4 bytes, and 2 x 32."""
    with VirtualGPU("h100") as gpu:
        norm = torch.nn.GroupNorm(32, 512, device="cuda", dtype=dtype)
        taken = peak_bytes(gpu, norm, image(dtype))
        plain_bytes = image(dtype).nbytes + 2 * 32 * dtype.itemsize
    assert taken == plain_bytes + 2 * 2048 + statistics


def test_a_convolution_that_cudnn_does_not_serve_takes_its_columns():
    """In bfloat16 on Turing: output `[1, 256, 64, 64]`, and columns `[512 * 9, 64 * 64]`."""
    with VirtualGPU("t4") as gpu:
        taken = peak_bytes(gpu, convolution(torch.bfloat16), image(torch.bfloat16))
    assert taken == 256 * 4096 * 2 + 512 * 9 * 4096 * 2


def test_what_is_read_goes_through_a_few_pinned_bytes():
    with VirtualGPU("h100") as gpu:
        one = torch.ones(1, device="cuda")
        before = gpu.host.pinned_bytes
        assert [one.item(), one.item()] == [1.0, 1.0]
        assert gpu.host.pinned_bytes - before == 4
        (torch.arange(3, device="cuda") == 1).nonzero()  # their number, an int: the same block
        assert gpu.host.pinned_bytes - before == 4
        assert (torch.arange(3, device="cuda") == 1).any()
        assert gpu.host.pinned_bytes - before == 5


def test_a_tensor_made_of_numbers_on_the_gpu_reads_each_of_them():
    """Two of 8 bytes, as torch's CUDA build does."""
    with VirtualGPU("h100"):
        one, other = torch.arange(2, device="cuda")
        before = torch.cuda.host_memory_stats()["active_bytes.allocated"]
        assert torch.tensor([one, other]).tolist() == [0, 1]
        assert torch.cuda.host_memory_stats()["active_bytes.allocated"] - before == 16


def test_what_does_not_fit_leaves_nothing_behind():
    with VirtualGPU("h100", capacity="2GiB") as gpu:
        given = torch.empty(1 << 28, dtype=HALF, device="cuda").view(2, -1).t()
        before = gpu.allocator.allocated_bytes
        with pytest.raises(torch.cuda.OutOfMemoryError):
            functional.layer_norm(given, (2,)).float()
        assert gpu.allocator.allocated_bytes == before
