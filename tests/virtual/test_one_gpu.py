"""A virtual GPU is the only one: every other device is refused, wherever a device is taken, as CUDA refuses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch
from tiny_flux import write_tiny_flux
from torch import nn

import profiler
from profiler.pipelines import load_pipeline
from profiler.virtual import VirtualGPU

cuda = torch.cuda


@pytest.fixture
def gpu():
    with VirtualGPU("rtx-4090") as gpu:
        yield gpu


def on(device, make):
    with torch.device(device):
        return make()


PLACES = {
    "to": lambda x, d: x.to(d),
    "to, by name": lambda x, d: x.to(device=d),
    "to, of a dtype": lambda x, d: x.to(d, torch.float16),
    "a factory": lambda x, d: torch.empty(2, device=d),
    "a factory like another": lambda x, d: torch.zeros_like(x, device=d),
    "a factory of a tensor": lambda x, d: x.new_zeros(2, device=d),
    "a tensor of numbers": lambda x, d: torch.tensor([1.0], device=d),
    "random numbers": lambda x, d: torch.randn(2, device=d),
    "a generator": lambda x, d: torch.Generator(d),
    "a default": lambda x, d: on(d, lambda: torch.zeros(2)),
    "a new layer": lambda x, d: nn.Linear(2, 2, device=d),
    "a layer's to": lambda x, d: nn.Linear(2, 2).to(d),
    "a layer that is emptied": lambda x, d: nn.Linear(2, 2).to_empty(device=d),
    "a dispatched model": lambda x, d: accelerate.dispatch_model(
        nn.Sequential(nn.Linear(2, 2)), {"": d}, force_hooks=True
    )(torch.zeros(1, 2)),
}
OF_CUDA = {
    "cuda": lambda x: x.cuda(1),
    "set_device": lambda x: cuda.set_device(1),
    "device": lambda x: cuda.device(1),
    "synchronize": lambda x: cuda.synchronize("cuda:1"),
    "stream": lambda x: cuda.Stream(device=1),
    "current_stream": lambda x: cuda.current_stream(1),
    "memory_allocated": lambda x: cuda.memory_allocated(1),
    "max_memory_reserved": lambda x: cuda.max_memory_reserved("cuda:1"),
    "memory_stats": lambda x: cuda.memory_stats(torch.device("cuda", 1)),
    "mem_get_info": lambda x: cuda.mem_get_info(device=1),
    "reset_peak": lambda x: cuda.reset_peak_memory_stats(1),
    "fraction": lambda x: cuda.set_per_process_memory_fraction(0.5, 1),
    "accelerator": lambda x: torch.accelerator.set_device_index(1),
    "accelerator, memory": lambda x: torch.accelerator.memory_allocated(1),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_second_gpu_is_an_invalid_ordinal(gpu, place):
    x = torch.zeros(2, device="cuda")
    before = gpu.allocator.allocated_bytes
    with pytest.raises(torch.AcceleratorError, match="invalid device ordinal"):
        PLACES[place](x, "cuda:1")
    assert gpu.allocator.allocated_bytes == before


@pytest.mark.parametrize("name", OF_CUDA)
def test_what_torch_cuda_is_asked_of_a_second_gpu_is_refused(gpu, name):
    with pytest.raises(torch.AcceleratorError, match="invalid device ordinal"):
        OF_CUDA[name](torch.zeros(2, device="cuda"))


@pytest.mark.parametrize("place", sorted({*PLACES} - {"a dispatched model"}))
@pytest.mark.parametrize("kind", ["mps", "hip", "xla"])
def test_another_kind_of_device_is_refused(gpu, kind, place):
    with pytest.raises(RuntimeError, match=f"not linked with support for {kind} devices"):
        PLACES[place](torch.zeros(2, device="cuda"), kind)


def test_the_properties_of_a_second_gpu_are_asked_for_in_vain(gpu):
    for ask in (cuda.get_device_name, cuda.get_device_capability, cuda.get_device_properties):
        with pytest.raises(AssertionError, match="Invalid device id"):
            ask(1)
    with pytest.raises(ValueError, match="Expected a cuda device, but got: cpu"):
        cuda.memory_allocated("cpu")


def test_the_one_gpu_goes_by_all_its_names(gpu):
    held = torch.zeros(2, device="cuda")
    for name in (None, 0, "cuda", "cuda:0", held.device):
        assert cuda.memory_allocated(name) == 512
        assert cuda.get_device_properties(name).name == gpu.spec.name
    for name in (0, -1, "cuda:0"):
        with cuda.device(name), cuda.device_of(held):
            assert torch.accelerator.current_device_index() == 0


def test_the_state_of_random_numbers_is_kept_around_what_forks_it(gpu):
    state = cuda.get_rng_state()
    with torch.random.fork_rng():
        torch.rand(2, device="cuda")
    cuda.set_rng_state_all([state])
    assert cuda.get_rng_state_all()[0].equal(state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "place",
    [
        lambda pipe: pipe.to("cuda:1"),
        lambda pipe: pipe.enable_model_cpu_offload(gpu_id=1),
        lambda pipe: pipe.enable_sequential_cpu_offload(device="cuda:1"),
        lambda pipe: pipe.enable_group_offload(
            onload_device=torch.device("cuda:1"), offload_type="leaf_level"
        ),
    ],
    ids=["to", "model offload", "sequential offload", "group offload"],
)
def test_a_pipeline_on_a_second_gpu_fails_before_it_counts_for_the_first(gpu, tmp_path, place):
    pipe = load_pipeline(str(write_tiny_flux(tmp_path)), dtype="bfloat16")

    def run():
        place(pipe)
        pipe("a cat", num_inference_steps=1, height=64, width=64)

    with pytest.raises(torch.AcceleratorError, match="invalid device ordinal"):
        run()
    assert cuda.max_memory_allocated() == 0


def test_tables_of_functions_that_torch_makes_inside_hold_its_own():
    """Torch makes them once, at their first use."""
    code = """
import torch
from torch import overrides
from profiler import VirtualGPU

with VirtualGPU("rtx-4060"):
    tables = [make() for make in (
        overrides.get_ignored_functions, overrides.get_testing_overrides, overrides.get_overridable_functions)]
ignored, testing, overridable = tables
assert torch.as_tensor in ignored
assert torch.nn.functional.scaled_dot_product_attention in testing
assert torch.nn.functional.scaled_dot_product_attention in overridable[torch.nn.functional]
"""
    run_afresh(code)


def test_a_device_context_that_began_inside_serves_torch_s_own_factories_afterwards():
    """Torch keeps the set of them from its first use on, so a fresh process has to find out."""
    code = """
import torch
from profiler import VirtualGPU

with VirtualGPU("rtx-4060"), torch.device("meta"):
    torch.ones(1)
real = torch.ones(2)
with torch.device("meta"):
    found = [make(real).device.type for make in (torch.as_tensor, torch.asarray)]
    found.append(torch.tensor([1.0]).device.type)
assert found == ["meta"] * 3, found
"""
    run_afresh(code)


def run_afresh(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(profiler.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
