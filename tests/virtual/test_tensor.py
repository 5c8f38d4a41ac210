"""Virtual tensors behave as torch's own: devices, views, values, moves; compared with real tensors."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from profiler.pipelines.building import build_module
from profiler.virtual import VirtualGPU

CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpu():
    with VirtualGPU("rtx-4090") as gpu:
        yield gpu


def test_memory_is_freed_with_the_last_view(gpu):
    whole = torch.empty(1 << 20, device="cuda")
    view = whole[10:20]
    assert torch.cuda.memory_allocated() == 4 << 20
    del whole
    assert torch.cuda.memory_allocated() == 4 << 20
    del view
    assert torch.cuda.memory_allocated() == 0


def test_the_default_dtype_decides_factories_and_what_promotes_integers(gpu):
    counts = torch.ones(3, dtype=torch.int64, device="cuda")
    made = []
    try:
        for dtype in (torch.float32, torch.float16, torch.float32):
            torch.set_default_dtype(dtype)
            made.append(
                (torch.empty(3, device="cuda").dtype, (counts / 2).dtype, counts.add(0.5).dtype)
            )
    finally:
        torch.set_default_dtype(torch.float32)
    assert made == [(dtype,) * 3 for dtype in (torch.float32, torch.float16, torch.float32)]


def test_a_cast_holds_old_and_new_at_once(gpu):
    tensor = torch.empty(1 << 20, device="cuda")
    tensor = tensor.half()
    assert (torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()) == (2 << 20, 6 << 20)


def test_values_are_followed_through_views_and_writes(gpu):
    numbers = torch.zeros(2, 3, device="cuda")
    row = numbers[1]
    row += 2
    numbers[0, 1] = 7
    assert numbers.tolist() == [[0, 7, 0], [2, 2, 2]]
    assert row.sum().item() == 6
    assert numbers.cpu().numpy().tolist() == [[0, 7, 0], [2, 2, 2]]


def test_an_unknown_write_makes_the_value_unknown_and_asking_for_it_is_counted(gpu):
    numbers = torch.zeros(3, device="cuda")
    numbers.add_(torch.randn(3, device="cuda"))
    assert numbers.tolist() == [0, 0, 0]
    assert dict(gpu.values.assumed) == {("tolist", "zeros"): 1}
    numbers.fill_(5)
    assert numbers.tolist() == [5, 5, 5]


def test_or_and_and_are_known_where_one_side_decides(gpu):
    unknown = torch.randn(4, device="cuda") > 0
    true = torch.ones(4, dtype=torch.bool, device="cuda")
    assert (unknown | true).tolist() == [True] * 4
    assert (~true & unknown).tolist() == [False] * 4
    assert torch.logical_or(true, unknown).tolist() == [True] * 4
    assert (unknown & torch.zeros(4, dtype=torch.long, device="cuda")).tolist() == [0] * 4
    assert not gpu.values.assumed
    some = torch.tensor([True, False, True, True], device="cuda")
    for left in (unknown | some, unknown & true, unknown & some):
        left.tolist()
    assert sum(gpu.values.assumed.values()) == 3


def test_generated_text_ends_at_its_longest(gpu):
    """Whether a token ends it nobody knows; the limit of tokens is known."""
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=50, eos_token_id=5)
    model = build_module(GPT2LMHeadModel, config.to_dict(), torch.float32).to("cuda")

    made = model.generate(torch.ones(1, 7, dtype=torch.long, device="cuda"), max_new_tokens=4)

    assert made.shape == (1, 11)


def test_a_mask_selects_what_it_selects_and_everything_where_it_is_unknown(gpu):
    numbers = torch.arange(4, device="cuda")
    assert numbers[torch.tensor([True, False, True, False], device="cuda")].tolist() == [0, 2]
    unknown = torch.randn(4, device="cuda") > 0
    assert numbers[unknown].shape == (4,)
    assert gpu.values.assumed["nonzero", "every element taken to be nonzero"] == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_lists_of_indices_leave_a_tensor_where_it_is(gpu, device):
    table = torch.arange(6, device=device).reshape(2, 3)
    picked = table[:, [2, 0]]
    assert (picked.device.type, picked.shape) == (device, (2, 2))
    table[[0, 1], [0, 1]] = 7
    assert table.device.type == device


def test_tensors_on_two_devices_are_refused_in_the_words_of_torch(gpu):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.ones(3, device="cuda") + torch.ones(3)
    assert (torch.ones(3, device="cuda") + torch.tensor(1.0)).device == CUDA


def test_copies_are_counted_exactly_once_each_way(gpu):
    host = torch.empty(1000, dtype=torch.float32)
    device = host.to("cuda", torch.float16)  # cast on the host, then sent
    device.float().cpu()
    assert (gpu.h2d_bytes, gpu.d2h_bytes) == (2000, 4000)


def test_modules_move_cast_and_go_to_meta_as_parameters(gpu):
    layer = nn.Linear(256, 256).to("cuda", torch.float16)
    assert (layer.weight.device, layer.weight.dtype, type(layer.weight.data_ptr())) == (
        CUDA,
        torch.float16,
        int,
    )
    assert isinstance(layer.weight, nn.Parameter)
    # 256 * 256 * 2 and 256 * 2 bytes
    assert torch.cuda.memory_allocated() == 131072 + 512
    layer.to("meta")
    assert (layer.weight.is_meta, torch.cuda.memory_allocated()) == (True, 0)


def test_pinned_memory_is_rounded_up_to_a_power_of_two_and_kept_when_freed(gpu):
    pinned = torch.empty(1025, dtype=torch.uint8).pin_memory()
    assert (pinned.is_pinned(), gpu.host.pinned_bytes) == (True, 2048)
    assert pinned.pin_memory() is pinned
    del pinned
    stats = torch.cuda.host_memory_stats()
    shown = ("allocated_bytes.current", "active_bytes.current", "active_bytes.peak")
    assert [stats[name] for name in shown] == [2048, 0, 2048]
    torch.accelerator.empty_host_cache()
    assert gpu.host.pinned_bytes == torch.cuda.host_memory_stats()["allocated_bytes.current"] == 0


def test_factories_and_non_blocking_copies_to_the_host_pin(gpu):
    made = torch.empty(3000, dtype=torch.uint8, pin_memory=True)  # 4096
    spec = torch.empty(100, device="cuda")
    sent = spec.to("cpu", non_blocking=True)  # 400 bytes, rounded to 512
    waited = spec.to("cpu")
    assert [tensor.is_pinned() for tensor in (made, sent, waited)] == [True, True, False]
    assert gpu.host.pinned_bytes == 4096 + 512


def test_only_copies_between_pinned_memory_and_the_gpu_let_the_host_go_on(gpu):
    """The time a gibibyte takes: 1/25 s at 25 GB/s from pinned memory, and longer from pageable memory."""
    gib = 1 << 30
    pageable = torch.empty(gib, dtype=torch.uint8)
    pinned = pageable.pin_memory()
    spec = torch.empty(gib, dtype=torch.uint8, device="cuda")
    host = {}
    for name, source, non_blocking in (
        ("pinned", pinned, True),
        ("pinned, waits", pinned, False),
        ("pageable", pageable, True),
    ):
        torch.cuda.synchronize()
        began = gpu.clock.host
        spec.copy_(source, non_blocking)
        host[name] = gpu.clock.host - began
    link = gpu.spec
    assert host == pytest.approx(
        {
            "pinned": 0.0,
            "pinned, waits": gib / link.pinned_bytes_per_second,
            "pageable": gib / link.h2d_bytes_per_second,
        },
        abs=3e-5,  # what a copy takes besides
    )


def test_a_pinned_tensor_is_reused_when_its_copy_is_done(gpu):
    pinned = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    spec = pinned.to("cuda", non_blocking=True)
    del pinned
    torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    assert gpu.host.pinned_bytes == 2 << 30
    torch.cuda.synchronize()
    both = [torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    assert (gpu.host.pinned_bytes, len(both), spec.is_cuda) == (2 << 30, 2, True)


def test_weights_cast_on_the_way_to_the_host_wait_there_in_both_dtypes(gpu):
    """A blocking copy sends what is there and casts on the host: 2 bytes an element cross, 2 + 4 lie there at most."""
    spec = torch.empty(1 << 20, dtype=torch.float16, device="cuda")
    gpu.host.take_peak()
    sent = spec.to("cpu", torch.float32)
    assert (gpu.d2h_bytes, gpu.host.take_peak(), gpu.host.pageable_bytes) == (
        2 << 20,
        6 << 20,
        4 << 20,
    )
    assert torch.cuda.max_memory_allocated() == 2 << 20
    assert sent.dtype == torch.float32


def test_more_than_the_capacity_raises_the_error_of_torch():
    with VirtualGPU("rtx-4090", capacity="2GiB"):
        kept = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        with pytest.raises(
            torch.cuda.OutOfMemoryError,
            match=r"CUDA out of memory\. Tried to allocate 1024\.00 MiB",
        ):
            torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        assert torch.cuda.memory_allocated() == kept.numel()


def test_a_memory_fraction_bounds_what_is_reserved():
    with VirtualGPU("rtx-4090", capacity="8GiB"):
        torch.cuda.set_per_process_memory_fraction(0.25)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(3 << 30, dtype=torch.uint8, device="cuda")


def test_other_threads_see_the_torch_that_is_installed():
    seen = {}
    real = torch.cuda.is_available()

    def look():
        seen["available"] = torch.cuda.is_available()
        seen["tensor"] = type(torch.ones(2))
        seen["made"] = type(torch.tensor([1.0]))
        seen["generator"] = type(torch.Generator())

    with VirtualGPU("rtx-4090"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert torch.cuda.is_available()
    assert seen == {
        "available": real,
        "tensor": torch.Tensor,
        "made": torch.Tensor,
        "generator": torch.Generator,
    }


def test_a_virtual_tensor_outside_its_gpu_says_so():
    with VirtualGPU("rtx-4090"):
        tensor = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="only inside the VirtualGPU that made it"):
        tensor + 1


def test_streams_and_events_measure_the_model_s_time(gpu):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    big = torch.empty(4096, 4096, dtype=torch.float16, device="cuda")
    big @ big  # so that the next one finds its memory
    begin.record()
    big @ big
    end.record()
    torch.cuda.synchronize()
    # 2 * 4096^3 operations at what products reach of the GPU's rate
    rate = gpu.spec.flops_per_second["float16"] * gpu.spec.cost.product
    assert begin.elapsed_time(end) == pytest.approx(1000 * 2 * 4096**3 / rate, rel=0.05)


def test_a_generator_claims_the_gpu_and_moves_nothing(gpu):
    generator = torch.Generator("cuda").manual_seed(0)
    noise = torch.randn(4, generator=generator, device="cuda")
    assert (generator.device, noise.device, isinstance(generator, torch.Generator)) == (
        CUDA,
        CUDA,
        True,
    )


OPERATORS = {
    "transpose": lambda t: t.transpose(0, 1),
    "contiguous": lambda t: t.transpose(0, 1).contiguous(),
    "slice": lambda t: t[1:],
    "narrow": lambda t: t.narrow(1, 0, 1),
    "expand": lambda t: t.unsqueeze(0).expand(3, *t.shape),
    "sum": lambda t: t.sum(-1, keepdim=True),
    "softmax": lambda t: t.softmax(-1),
    "mul": lambda t: t * 2 + 1,
    "cat": lambda t: torch.cat([t, t], -1),
    "half": lambda t: t.half(),
    "cumsum": lambda t: t.cumsum(0),
    "flip": lambda t: t.flip(0),
    "sort": lambda t: t.sort(-1).values,
    "chunk": lambda t: t.chunk(2, -1)[0],
    "clamp": lambda t: t.clamp(0, 3),
    "in place": lambda t: t.clone().mul_(3).add_(1),
    "write a row": lambda t: t.clone().index_fill_(0, torch.tensor([0], device=t.device), 9.0),
}


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(2, 5), st.integers(2, 5)),
    st.lists(st.sampled_from(sorted(OPERATORS)), min_size=1, max_size=5),
)
def test_shapes_strides_dtypes_and_values_equal_real_torch(shape, names):
    real = torch.arange(shape[0] * shape[1], dtype=torch.float32).reshape(shape)
    with VirtualGPU("rtx-4090"):
        virtual = torch.arange(shape[0] * shape[1], dtype=torch.float32, device="cuda").reshape(
            shape
        )
        for name in names:
            if real.dim() != 2 or min(real.shape) < 2:
                break
            virtual = OPERATORS[name](virtual)
            real = _outside(OPERATORS[name], real)
        assert (virtual.shape, virtual.stride(), virtual.dtype) == (
            real.shape,
            real.stride(),
            real.dtype,
        )
        found = virtual.tolist()
    np.testing.assert_allclose(found, real.tolist(), rtol=1e-3)


def _outside(function, tensor):
    """Compute with real tensors while a virtual GPU is active: on another thread."""
    box = []
    thread = threading.Thread(target=lambda: box.append(function(tensor)))
    thread.start()
    thread.join()
    return box[0]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_is_one_kernel_that_holds_its_input_and_output(gpu, mode):
    """Torch's Python decompositions, which take it apart in single precision, are for other ends."""
    image = torch.empty(1, 64, 128, 128, dtype=torch.bfloat16, device="cuda")  # 2 MiB
    nn.functional.interpolate(image, scale_factor=2.0, mode=mode)
    assert torch.cuda.max_memory_allocated() == (2 + 8) << 20


def test_a_convolution_takes_another_plan_if_its_workspace_does_not_fit():
    """Input and output are 128 MiB each, and so are their copies; the rule knows of no plan but one without."""
    peaks = []
    for capacity in ("2GiB", "900MiB"):  # 450 MiB of context, so 1598 or 450 MiB for tensors
        with VirtualGPU("rtx-4090", capacity=capacity) as gpu:
            half = {"dtype": torch.float16, "device": "cuda"}
            image, weight = (
                torch.empty(1, 32, 2048, 1024, **half),
                torch.empty(32, 32, 3, 3, **half),
            )
            nn.functional.conv2d(image, weight, padding=1)
            told = sorted(asked for asked, _ in gpu.values.assumed)
            peaks.append((torch.cuda.max_memory_allocated() >> 20, told))
    assert peaks == [(512, ["rule"]), (256, ["rule", "workspace"])]
