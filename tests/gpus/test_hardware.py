"""The GPUs: what each is called, and that the facts of all of them hang together."""

import pytest

from profiler.errors import InputError
from profiler.gpus.hardware import (
    DEFAULT_GPU,
    choose_gpu_spec,
    gpu_spec,
    gpu_spec_of_properties,
    gpu_specs,
)
from profiler.units import GIB, MIB

ALL = pytest.mark.parametrize("one", gpu_specs(), ids=lambda one: one.key)


@pytest.mark.parametrize(
    "name",
    ["rtx-4090", "4090", "RTX 4090", "rtx_4090", "NVIDIA GeForce RTX 4090", "GeForce RTX 4090"],
)
def test_gpu_is_found_by_key_and_by_what_the_driver_calls_it(name):
    assert gpu_spec(name).key == "rtx-4090"


def test_short_names_mean_the_common_variant():
    found = [gpu_spec(name).key for name in ("h100", "a100", "v100", "h200")]
    assert found == ["h100-sxm", "a100-80gb", "v100", "h200"]


def test_unknown_gpu_names_close_ones():
    with pytest.raises(InputError, match=r"no GPU is called 'rtx-409': did you mean rtx-4090"):
        gpu_spec("rtx-409")


def test_gpu_like_no_other_points_to_the_list():
    with pytest.raises(InputError, match="vram list gpus"):
        gpu_spec("banana")


def test_capacity_replaces_the_gpus_own_and_nothing_else():
    changed = choose_gpu_spec("h100", "8GiB")
    own = gpu_spec("h100")
    assert changed.capacity_bytes == 8 * GIB
    assert changed.with_capacity(own.capacity_bytes) == own


def test_capacity_is_whatever_lies_above_the_context():
    """A plan for the smallest of budgets is confirmed on a GPU with not much more than the context."""
    own = gpu_spec("h100")
    assert own.with_capacity(own.context_bytes + MIB).capacity_bytes == own.context_bytes + MIB
    with pytest.raises(InputError, match=r"leaves nothing beside the CUDA context \(600\.0 MiB\)"):
        own.with_capacity(own.context_bytes)


def test_capacity_alone_takes_the_default_gpu():
    assert choose_gpu_spec(capacity="8GiB") == gpu_spec(DEFAULT_GPU).with_capacity("8GiB")


@pytest.mark.parametrize("capacity", ["8 apples", "100MiB"])
def test_capacity_that_is_none_is_refused(capacity):
    with pytest.raises(InputError):
        choose_gpu_spec("h100", capacity)


def test_gpus_reach_from_four_to_288_gigabytes():
    sizes = [round(one.capacity_bytes / GIB) for one in gpu_specs()]
    assert len(sizes) >= 100
    assert (sizes[0], sizes[-1]) == (4, 288)  # an RTX 3050 Laptop GPU, an MI355X
    assert sizes == sorted(sizes)


def test_one_gpu_whole():
    """The figures that decide a prediction, against the data sheet by hand."""
    one = gpu_spec("h100")
    # 81090 MiB x 2^20; 32 MiB of cuBLAS workspace on Hopper; 3.35 TB/s; 989.4 TFLOPS dense bf16
    assert (
        one.name,
        one.capacity_bytes,
        one.architecture,
        one.cublas_workspace_bytes,
        one.memory_bytes_per_second,
        one.flops_per_second["bfloat16"],
        one.multi_processor_count,
    ) == ("NVIDIA H100 80GB HBM3", 85_029_027_840, "sm_90", 33_554_432, 3.35e12, 989.4e12, 132)


@ALL
def test_every_fact_names_its_source(one):
    assert len(one.sources) == 4
    assert all(len(source) > 10 for source in one.sources)


@ALL
def test_rates_hang_together(one):
    rates = one.flops_per_second
    assert rates["float32"] <= rates["tfloat32"] <= rates["float16"] <= rates["float8"]
    assert one.d2h_bytes_per_second <= one.h2d_bytes_per_second < one.pinned_bytes_per_second
    assert one.pinned_bytes_per_second < one.memory_bytes_per_second


@ALL
def test_capacity_is_what_a_driver_shows(one):
    """No GPU shows a round number of GiB: the driver keeps some for itself."""
    assert 3 * GIB < one.capacity_bytes < 288 * GIB
    assert 256 * MIB < one.context_bytes + one.slack_bytes < one.capacity_bytes / 4


@pytest.mark.parametrize(
    "one",
    [
        one
        for one in gpu_specs()
        if "GeForce" in one.name and one.generation not in ("pascal", "turing")
    ],
    ids=lambda one: one.key,
)
def test_half_precision_of_a_geforce_gpu_is_twice_its_fp32_rate(one):
    """With fp32 accumulation, from Ampere on."""
    ratio = one.flops_per_second["float16"] / one.flops_per_second["float32"]
    assert ratio == pytest.approx(2.0, rel=0.02)


def test_no_two_gpus_share_a_name():
    names = [name for one in gpu_specs() for name in (one.key, *one.aliases)]
    assert len(names) == len(set(names))


class _Properties:
    """What torch says of a GPU."""

    name = "NVIDIA H200"
    major, minor = 9, 0
    total_memory = 141 * GIB
    multi_processor_count = 132
    L2_cache_size = 60 * MIB


def test_a_known_gpu_keeps_its_facts_and_takes_the_drivers_memory():
    found = gpu_spec_of_properties(_Properties())
    assert found == gpu_spec("h200").with_capacity(141 * GIB)


def test_an_unknown_gpu_is_the_nearest_known_one_scaled_and_says_so():
    class Unknown(_Properties):
        name = "NVIDIA H999 Half"
        multi_processor_count = 66

    found = gpu_spec_of_properties(Unknown())
    near = gpu_spec("h20")  # 78 multiprocessors, the nearest of its generation
    assert (found.key, found.name) == ("nvidia-h999-half", "NVIDIA H999 Half")
    assert found.capacity_bytes == 141 * GIB
    assert found.context_bytes == near.context_bytes
    assert found.memory_bytes_per_second == pytest.approx(near.memory_bytes_per_second * 66 / 78)
    assert found.sources[0] == "estimate: NVIDIA H20 scaled by 0.85"
