"""Calibration tables: what is written is read, the right one is asked, and a broken one says so."""

from dataclasses import replace

import pytest

from profiler.errors import InputError
from profiler.gpus import calibration
from profiler.gpus.calibration import as_measured, kernel_cost, table_of, workspace_bytes
from profiler.gpus.calibration_table import Calibration, CopyCost, KernelCost, load, save
from profiler.gpus.hardware import gpu_spec
from profiler.units import MIB

SIGNATURE = "aten.mm.default(float16[2,3], float16[3,4])"
# Made up, to try the format.
TABLE = Calibration(
    gpu="NVIDIA H200",
    compute_capability=(9, 0),
    total_memory_bytes=150109945856,
    date="2026-01-02",
    versions={"torch": "2.13.0", "driver": ""},
    context_bytes={"bare": 500 * MIB, "with_blas": 520 * MIB},
    launch_seconds=4e-06,
    copies=(
        CopyCost(way="h2d", pinned=True, bytes=100, seconds=2.0),
        CopyCost(way="h2d", pinned=True, bytes=1000, seconds=10.0),
        CopyCost(way="h2d", pinned=False, bytes=30, seconds=1.0),
        CopyCost(way="d2h", pinned=False, bytes=20, seconds=1.0),
    ),
    kernels={
        SIGNATURE: KernelCost(workspace_bytes=4096, seconds=1e-05),
        "attention(a)": KernelCost(workspace_bytes=0, seconds=0.5, backend="flash"),
    },
    failed={'odd "name"\\': "said\nso"},
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder of tables that predictions read."""
    monkeypatch.setenv(calibration.PLACE, str(tmp_path))
    calibration.forget()
    yield tmp_path
    calibration.forget()


def test_a_table_comes_back_as_it_was_saved(tmp_path):
    save(TABLE, tmp_path / "table.toml")
    # TOML has no line breaks in such a string: they become spaces.
    assert load(tmp_path / "table.toml") == replace(TABLE, failed={'odd "name"\\': "said so"})


def test_the_table_of_the_gpu_is_used_and_no_other(place):
    save(TABLE, place / TABLE.file_name)
    assert TABLE.file_name == "sm_90-nvidia-h200.toml"
    found = {
        key: (workspace_bytes(gpu_spec(key), SIGNATURE), kernel_cost(gpu_spec(key), SIGNATURE))
        for key in ("h200", "h100", "rtx-4090")
    }
    assert found == {
        "h200": (4096, TABLE.kernels[SIGNATURE]),
        "h100": (4096, None),  # the same architecture: its workspace, not its seconds
        "rtx-4090": (None, None),
    }
    assert workspace_bytes(gpu_spec("h200"), "aten.mm.default(other)") is None


def test_a_measured_gpu_has_the_measured_context_and_rates(place):
    save(TABLE, place / TABLE.file_name)
    here = as_measured(gpu_spec("h200"))
    assert here.context_bytes == 520 * MIB
    assert (here.pinned_bytes_per_second, here.h2d_bytes_per_second) == (100.0, 30.0)
    assert here.d2h_bytes_per_second == 20.0
    assert here.sources[-1] == "measured: NVIDIA H200, 2026-01-02 (torch 2.13.0)"
    assert as_measured(gpu_spec("h100")) == gpu_spec("h100")


def test_a_dry_table_is_never_used(place):
    save(replace(TABLE, dry=True), place / TABLE.file_name)
    assert table_of(gpu_spec("h200")) is None
    assert workspace_bytes(gpu_spec("h200"), SIGNATURE) is None


def test_a_named_file_is_a_place_and_empty_means_none(tmp_path, monkeypatch):
    save(TABLE, tmp_path / "mine.toml")
    calibration.forget()
    monkeypatch.setenv(calibration.PLACE, str(tmp_path / "mine.toml"))
    assert table_of(gpu_spec("h200")) == load(tmp_path / "mine.toml")
    monkeypatch.setenv(calibration.PLACE, "")
    assert table_of(gpu_spec("h200")) is None
    calibration.forget()


@pytest.mark.parametrize(
    "text", ["not toml [", "", "schema_version = 1", "schema_version = 99", 'schema_version = "1"']
)
def test_what_is_no_table_is_a_clear_error(tmp_path, text):
    path = tmp_path / "table.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"table\.toml is (no|a) calibration table"):
        load(path)
