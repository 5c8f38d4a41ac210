"""`torch.autocast` on a virtual GPU: what torch casts, what it keeps of it, and what that takes."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel
from tiny_flux import TRANSFORMER
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from profiler.units import MIB
from profiler.virtual import VirtualGPU
from profiler.virtual.torch_api import autocast

functional = nn.functional


def low(tensor):
    return tensor.to(torch.get_autocast_dtype("cuda"))


# Each kind of cast, by functions and by methods, directly and inside of composite operators.
CALLS = {
    "linear": functional.linear,
    "matmul": lambda x, w: x @ w,
    "einsum": lambda x, w: torch.einsum("ij,jk->ik", x, w),
    "tensordot": lambda x, w: torch.tensordot(x, low(w), 1),
    "conv1d": lambda x, w: functional.conv1d(x.unsqueeze(0), w.unsqueeze(2)),
    "conv2d": lambda x, w: functional.conv2d(x.view(1, 8, 8, 1), w.view(8, 8, 1, 1)),
    "conv2d, padded": lambda x, w: functional.conv2d(
        x.view(1, 8, 8, 1), w.view(8, 8, 1, 1), padding="same"
    ),
    "attention": lambda x, w: functional.scaled_dot_product_attention(*[x.view(1, 1, 8, 8)] * 3),
    "layer_norm": lambda x, w: functional.layer_norm(low(x), (8,)),
    "group_norm": lambda x, w: functional.group_norm(low(x).unsqueeze(2), 2),
    "exp": lambda x, w: low(x).exp(),
    "pow": lambda x, w: low(x) ** 2,
    "upsample": lambda x, w: functional.interpolate(low(x).view(1, 1, 8, 8), scale_factor=2.0),
    "mse_loss": lambda x, w: functional.mse_loss(low(x), low(x)),
    "cdist": lambda x, w: torch.cdist(low(x), low(w)),
    "softmax": lambda x, w: torch.softmax(low(x), -1),
    "softmax, method": lambda x, w: low(x).softmax(-1),
    "log_softmax": lambda x, w: functional.log_softmax(low(x), -1),
    "log_softmax, asked for": lambda x, w: functional.log_softmax(x, -1, dtype=torch.float16),
    "sum": lambda x, w: low(x).sum(),
    "sum, of integers": lambda x, w: x.int().sum(),
    "cumsum": lambda x, w: low(x).cumsum(0),
    "norm": lambda x, w: torch.norm(low(x)),
    "norm, along": lambda x, w: torch.norm(low(x), 2, dim=1),
    "addcmul": lambda x, w: torch.addcmul(low(x), low(w), w),
    "bilinear": lambda x, w: functional.bilinear(x, low(x), torch.stack([w] * 3)),
    "add": lambda x, w: low(x) + w,
    "relu": lambda x, w: low(x).relu(),
    "cat": lambda x, w: torch.cat([low(x), w]),
    "doubles": lambda x, w: x.double() @ w.double(),
    "switched off inside": lambda x, w: within("cuda", functional.linear, x, w, enabled=False),
}


def within(device, function, *args, dtype=torch.float16, **options):
    with torch.autocast(device, dtype, **options):
        return function(*args)


def made(device, name, dtype):
    """Return dtype and shape of what a call gives under autocast for two tensors `[8, 8]` in single precision."""
    x, w = torch.empty(8, 8, device=device), torch.empty(8, 8, device=device)
    with torch.no_grad():
        result = within("cuda", CALLS[name], x, w, dtype=dtype)
    return [(one.dtype, one.shape) for one in torch.utils._pytree.tree_leaves(result)]


@pytest.fixture
def fake(monkeypatch):
    """Give torch's own fake CUDA tensors, for which its C++ casts as for real ones."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    return FakeTensorMode()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_dtypes_are_those_that_torch_gives(name, dtype, fake):
    with fake:
        right = made("cuda", name, dtype)
    with VirtualGPU("rtx-4090"):
        assert made("cuda", name, dtype) == right


def test_what_torch_refuses_is_refused(gpu):
    weight = torch.zeros(4, device="cuda")
    with pytest.raises(RuntimeError, match="unsafe to autocast"):
        within("cuda", functional.binary_cross_entropy, weight, weight)
    with pytest.raises(RuntimeError, match="Unexpected floating ScalarType"):
        within("cuda", torch.dot, weight.bfloat16(), weight.bfloat16())


def test_every_listed_operator_has_an_autocast_kernel_in_the_installed_torch():
    for kind, key in (("cuda", "AutocastCUDA"), ("cpu", "AutocastCPU")):
        for name in autocast.listed(kind):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key), name


@pytest.fixture
def gpu():
    with VirtualGPU("rtx-4090") as gpu:
        yield gpu


@pytest.fixture
def layer(gpu):
    """A layer with a weight of 4 MiB in single precision, 2 MiB as it is cast, and no bias."""
    layer = nn.Linear(1024, 1024, bias=False).to("cuda")
    layer(torch.zeros(1, 1024, device="cuda"))  # cuBLAS's workspace
    return layer


@pytest.fixture
def held(gpu, layer):
    """What is allocated beyond what was there."""
    before = gpu.allocator.allocated_bytes
    return lambda: gpu.allocator.allocated_bytes - before


def run(layer, rows=1):
    return layer(torch.zeros(rows, 1024, device="cuda"))


def test_a_cast_weight_is_kept_until_the_outermost_region_is_left(layer, held):
    with torch.autocast("cuda"):
        with torch.autocast("cuda", torch.float16):
            run(layer)
            run(layer)
        assert held() == 2 * MIB
        with torch.autocast("cuda", enabled=False):
            assert run(layer).dtype == torch.float32
        with torch.autocast("cpu"):
            assert run(layer).dtype == torch.float16
        assert held() == 2 * MIB
    assert held() == 0
    assert run(layer).dtype == torch.float32


@pytest.mark.parametrize("why", ["no cache", "no gradients", "inference", "half", "no leaf"])
def test_nothing_is_kept_where_torch_keeps_nothing(layer, held, why):
    weight = layer.weight
    if why == "no gradients":
        weight.requires_grad_(False)
    if why == "no leaf":
        weight = weight.unsqueeze(0)[0]
    if why == "half":
        weight = nn.Parameter(weight.half())
    before = held()
    with (
        torch.inference_mode(why == "inference"),
        torch.autocast("cuda", torch.float16, cache_enabled=why != "no cache"),
    ):
        functional.linear(torch.zeros(1, 1024, device="cuda"), weight)
        assert held() == before


def test_a_cast_stays_on_the_gpu_when_its_weight_is_sent_away(layer, held):
    with torch.autocast("cuda"):
        run(layer)
        layer.to("cpu")
        assert held() == (2 - 4) * MIB
        layer.to("cuda")
        run(layer)
        assert held() == 2 * MIB
        del layer.weight
        assert held() == (2 - 4) * MIB
    assert held() == -4 * MIB


def test_casts_take_time_and_memory_while_they_are_made(gpu, layer):
    """Rows of 4 KiB: 4096 take 16 MiB, cast 8, and as much as a result."""
    rows = torch.zeros(4096, 1024, device="cuda")
    peaks, seconds = [], []
    for enabled in (False, True):
        torch.cuda.synchronize()
        before, began = gpu.allocator.allocated_bytes, gpu.clock.host
        torch.cuda.reset_peak_memory_stats()
        within("cuda", layer, rows, enabled=enabled, cache_enabled=False)
        torch.cuda.synchronize()
        peaks.append((gpu.allocator.peak_bytes - before) // MIB)
        seconds.append(gpu.clock.host - began)
    assert peaks == [16, 8 + 2 + 8]
    casts = (16 + 8 + 4 + 2) * MIB / gpu.spec.memory_bytes_per_second
    assert seconds[1] > casts


def test_autocast_on_the_host_casts_there_and_only_there(gpu):
    weight = torch.zeros(8, 8)
    results = [
        within("cpu", functional.linear, one, one, dtype=torch.bfloat16)
        for one in (weight, weight.to("cuda"))
    ]
    assert [(one.device.type, one.dtype) for one in results] == [
        ("cpu", torch.bfloat16),
        ("cuda", torch.float32),
    ]


def test_a_region_around_the_virtual_gpu_counts_and_the_other_way_round(fake, monkeypatch):
    region = torch.autocast("cuda", torch.float16)
    with region, VirtualGPU("rtx-4090"):
        weight = torch.zeros(8, 8, device="cuda")
        assert functional.linear(weight, weight).dtype == torch.float16
    with VirtualGPU("rtx-4090"):
        weight = torch.zeros(8, 8, device="cuda")
        assert functional.linear(weight, weight).dtype == torch.float32


def test_torch_is_left_as_it_was():
    def state():
        key = torch._C.DispatchKey.AutocastXPU
        return (
            torch._C._dispatch_dump("aten::linear"),
            torch._C._dispatch_tls_is_dispatch_key_excluded(key),
            torch.set_autocast_enabled,
            torch.clear_autocast_cache,
        )

    before = state()
    with VirtualGPU("rtx-4090"):
        weight = torch.zeros(8, 8, device="cuda")
        within("cuda", functional.linear, weight, weight)
    assert state() == before


def test_a_model_of_diffusers_keeps_its_linear_layers_in_half_precision(gpu):
    options = {name: value for name, value in TRANSFORMER.items() if name[0] != "_"}
    model = FluxTransformer2DModel(**options).to("cuda")
    inputs = {
        "hidden_states": torch.zeros(1, 16, 64, device="cuda"),
        "encoder_hidden_states": torch.zeros(1, 8, 256, device="cuda"),
        "pooled_projections": torch.zeros(1, 256, device="cuda"),
        "timestep": torch.zeros(1, device="cuda"),
        "guidance": torch.zeros(1, device="cuda"),
        "img_ids": torch.zeros(16, 3, device="cuda"),
        "txt_ids": torch.zeros(8, 3, device="cuda"),
    }
    with torch.no_grad():
        model(**inputs)
        before = gpu.allocator.allocated_bytes
        for _ in range(3):
            with torch.autocast("cuda", torch.bfloat16):
                found = model(**inputs, return_dict=False)[0].dtype
                kept = gpu.allocator.allocated_bytes - before
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    cast = [tensor.numel() * 2 for module in linear for tensor in module.parameters()]
    assert (found, kept) == (torch.bfloat16, sum(-(-size // 512) * 512 for size in cast))
    assert gpu.allocator.allocated_bytes == before
