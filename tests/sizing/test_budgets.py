"""Budgets as they are typed, and free host memory within control groups."""

from __future__ import annotations

import pytest

from profiler.errors import InputError
from profiler.gpus import nvml
from profiler.gpus.hardware import gpu_spec
from profiler.gpus.nvml import GpuMemory, Holder
from profiler.sizing import budgets
from profiler.sizing.budgets import Budget, free_host_bytes, gpu_budget
from profiler.units import GIB, MIB


def test_a_size_is_itself():
    assert gpu_budget("8GiB") == Budget(8 * GIB, "")


def test_a_gpu_is_all_of_it():
    chosen = gpu_spec("rtx-4090")
    assert gpu_budget("rtx-4090") == Budget(
        chosen.capacity_bytes, f"all of {chosen.name}", chosen.key
    )


@pytest.fixture
def desktop(monkeypatch):
    holders = (Holder(7, "Xorg", 500 * MIB), Holder(9, "", None))
    memory = GpuMemory("RTX 4090", 24 * GIB, 20 * GIB, holders)
    monkeypatch.setattr(nvml, "gpu_memory", lambda: memory)


def test_a_minus_is_what_is_free_less_that(desktop):
    assert gpu_budget("-2GiB") == Budget(
        18 * GIB,
        "20.00 GiB free on RTX 4090 now beside Xorg (7) 500.0 MiB, a process (9), less 2.00 GiB",
    )


def test_a_margin_above_what_is_free_is_refused(desktop):
    with pytest.raises(InputError, match="is free: 20"):
        gpu_budget("-21GiB")


def test_without_a_driver_nobody_knows_what_is_free(monkeypatch):
    monkeypatch.setattr(nvml, "gpu_memory", lambda: None)
    with pytest.raises(InputError, match="no driver is here to ask"):
        gpu_budget("-2GiB")


def test_anything_else_is_refused():
    with pytest.raises(InputError, match="vram list gpus"):
        gpu_budget("my-card")


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1000", "memory.current": "600", "memory.stat": "inactive_file 150"}, 550),
        ({"memory.max": "1000", "memory.current": "1200"}, 0),
        ({"memory.max": "max", "memory.current": "600"}, None),
        ({"memory/memory.limit_in_bytes": "900", "memory/memory.usage_in_bytes": "100"}, 800),
        ({}, None),
    ],
)
def test_a_control_group_bounds_free_memory(tmp_path, monkeypatch, files, free):
    machine_bytes = budgets.psutil.virtual_memory().available
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(budgets, "_CGROUPS", tmp_path)
    monkeypatch.setattr(budgets, "_V1", tmp_path / "memory")
    expected = machine_bytes if free is None else free
    assert abs(free_host_bytes() - expected) <= (GIB if free is None else 0)
