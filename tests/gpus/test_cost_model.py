"""The cost model of time: its constants, and the arithmetic by hand on one of round numbers."""

import math
from dataclasses import fields, replace

import pytest

from profiler.errors import InputError
from profiler.gpus.cost_model import (
    ATTENTION,
    CONVOLUTION,
    MEMORY,
    NINE_OF_TEN,
    PRODUCT,
    Shares,
    Spreads,
    Work,
    shares_of,
)
from profiler.gpus.hardware import gpu_spec, gpu_specs

ROUND = replace(
    gpu_spec("a100-80gb").cost,
    product=0.5,
    convolution=0.5,
    attention=0.4,
    cudnn_attention=0.8,
    single=0.8,
    single_attention=0.25,
    narrow_heads=0.5,
    memory=0.5,
    memory_kernel_seconds=1.0,
    product_kernel_seconds=2.0,
    spreads=Spreads(0.3, 0.4, 0.0),
)
RATES = {"float32": 10.0, "tfloat32": 40.0, "float16": 80.0, "float8": 160.0}


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (Work(MEMORY, 0, 100), 100 / 5 + 1),
        (Work(PRODUCT, 400, 10, "float16"), 400 / 40 + 2),
        (Work(PRODUCT, 400, 1000, "float16"), 1000 / 5 + 2),  # memory bounds it
        (Work(PRODUCT, 400, 10, "tfloat32"), 400 / 20 + 2),
        (Work(PRODUCT, 400, 10, "float8"), 400 / 80 + 2),
        (Work(PRODUCT, 400, 10, "float32"), 400 / 8 + 2),  # without tensor cores
        (Work(PRODUCT, 400, 10, "complex64"), 400 / 8 + 2),  # which no sheet lists
        (Work(CONVOLUTION, 400, 10, "float16"), 400 / 20 + 2),
        (Work(ATTENTION, 400, 10, "float16", head=128), 400 / 32 + 2),
        (Work(ATTENTION, 400, 10, "float16", head=64), 400 / 16 + 2),
        (Work(ATTENTION, 400, 10, "float16", head=128, by_cudnn=True), 400 / 64 + 2),
        (Work(ATTENTION, 400, 10, "float32", head=128), 400 / 2.5 + 2),
    ],
)
def test_a_kernel_takes_the_longer_of_its_operations_and_its_bytes(work, seconds):
    assert ROUND.kernel_seconds(work, RATES, 10.0) == pytest.approx(seconds)


def test_without_tensor_cores_all_precisions_are_of_one_kind():
    rates = {"float32": 10.0, "float16": 10.0}
    work = Work(PRODUCT, 400, 10, "float16")
    assert ROUND.kernel_seconds(work, rates, 10.0) == pytest.approx(400 / 5 + 2)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("gtx-1070", "pascal"),
        ("p100", "pascal"),
        ("v100", "volta"),
        ("t4", "turing"),
        ("rtx-2080-ti", "turing-cut"),
        ("a100", "ampere"),
        ("rtx-3090", "ampere-rtx-cut"),
        ("a10g", "ampere-rtx-cut"),
        ("rtx-a5000", "ampere-rtx"),
        ("rtx-4090", "ada-cut"),
        ("l20", "ada-cut"),
        ("l40s", "ada"),
        ("h100", "hopper"),
        ("h800", "hopper"),
        ("h20", "hopper-cut"),
        ("b200", "blackwell"),
        ("rtx-5090", "blackwell-rtx-cut"),
        ("rtx-pro-6000", "blackwell-rtx"),
    ],
)
def test_the_group_follows_generation_and_how_far_tensor_cores_are_cut(name, group):
    assert gpu_spec(name).cost.group == group


@pytest.mark.parametrize("one", gpu_specs(), ids=lambda one: one.key)
def test_every_gpu_has_sensible_constants(one):
    cost = one.cost
    fractions = ("product", "attention", "cudnn_attention", "convolution", "single", "memory")
    assert all(0.2 < getattr(cost, name) < 1.2 for name in fractions)
    times = [field.name for field in fields(cost) if field.name.endswith("_seconds")]
    assert all(1e-6 < getattr(cost, name) < 2e-3 for name in times)
    assert 1e9 < cost.d2h_bytes_per_second < cost.h2d_bytes_per_second < 20e9


def test_the_shares_of_a_call_add_up():
    assert shares_of(10.0, 6.0, 3.0) == Shares(pytest.approx(0.1), 0.6, 0.3)
    assert shares_of(10.0, 9.0, 3.0) == Shares(0.0, 0.7, 0.3)  # the host beside copies
    assert shares_of(10.0, 1.0, 20.0) == Shares(0.0, 0.0, 1.0)
    assert shares_of(0.0, 0.0, 0.0) == Shares(0.0, 0.0, 0.0)


def test_the_band_adds_what_is_independent_as_variances():
    above, below = ROUND.band(Shares(0.5, 0.5, 0.0))
    factor = math.exp(NINE_OF_TEN * math.sqrt(0.15**2 + 0.2**2))
    assert (above, below) == pytest.approx((factor - 1, 1 - 1 / factor))
    assert ROUND.band(Shares(0.0, 0.0, 1.0)) == (0.0, 0.0)


def test_a_known_processor_narrows_the_band_of_launches_alone():
    one = gpu_spec("rtx-4090")
    known = one.with_host_launch(25)
    assert known.cost.launch_seconds == pytest.approx(25e-6)
    assert known.cost.spreads == one.cost.spreads._replace(launches=one.cost.spreads.kernels)


@pytest.mark.parametrize("given", [0, -3, 1e9, float("nan"), "fast", None])
def test_a_launch_that_is_no_time_is_refused(given):
    with pytest.raises(InputError, match="microseconds"):
        gpu_spec("rtx-4090").with_host_launch(given)
