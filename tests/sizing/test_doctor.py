"""`vram doctor`: each thing that it looks for, put there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
from typer.testing import CliRunner

import profiler
from profiler.cli.app import app
from profiler.gpus import nvml
from profiler.sizing import doctor
from profiler.units import GIB


def found(name, folder=None):
    return [check for check in doctor.examine(folder) if check.name == name]


@pytest.fixture
def put_gpu(monkeypatch):
    """Return a function that puts a GPU of 24 GiB, 20 of them free, into the driver, with these processes."""

    def put(*processes):
        def answers(value):
            return lambda *_: value

        total, free = 24 * GIB, 20 * GIB
        running = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in processes]
        for name, value in {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=total, free=free),
            "nvmlDeviceGetName": "NVIDIA Test",
            "nvmlDeviceGetComputeRunningProcesses": running,
            "nvmlDeviceGetGraphicsRunningProcesses": [],
        }.items():
            monkeypatch.setattr(pynvml, name, answers(value))

    return put


def test_the_libraries_of_this_environment_are_those_that_are_tested(tmp_path):
    checks = {check.name: check for check in doctor.examine(tmp_path)}
    for name in ("torch", "diffusers", "accelerate", "transformers"):
        assert checks[name].status == doctor.OK
        assert checks[name].told == f"{name} {importlib.metadata.version(name)}"


@pytest.mark.parametrize("version", ["0.36.0", "0.43.0", "1.0"])
def test_another_version_is_a_problem_with_the_command_that_mends_it(monkeypatch, version):
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: version if name == "diffusers" else real(name)
    )
    (check,) = found("diffusers")
    assert check.status == doctor.PROBLEM
    assert check.fix == 'pip install "diffusers>=0.37.0,<0.43"'


def test_a_library_that_is_not_there_is_a_problem(monkeypatch):
    real = importlib.metadata.version

    def missing(name):
        if name == "accelerate":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert found("accelerate")[0].status == doctor.PROBLEM


@pytest.mark.parametrize("path", ["profiler.py", "reports.py", "reports/__init__.py"])
def test_a_file_that_hides_the_package_is_found_and_really_hides_it(tmp_path, path):
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    (check,) = found("shadowed", tmp_path)
    assert check.status == doctor.PROBLEM
    name = path.partition("/")[0]
    assert check.fix == f"rename {tmp_path / name}"
    code = "import profiler, reports; profiler.VirtualGPU; reports.write_html"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(profiler.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    if name == "profiler.py":
        assert f"{file} is imported in place of the package profiler: rename it" in done.stderr


def test_our_own_folder_hides_nothing():
    folder = Path(profiler.__file__).parents[1]
    assert [check.status for check in found("shadowed", folder)] == [doctor.OK]


def test_without_a_driver_nothing_is_wrong(monkeypatch):
    def no_driver(*_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert nvml.gpu_memory() is None
    assert [check.status for check in found("card")] == [doctor.NOTE]
    assert found("memory") == []


def test_who_holds_the_gpu_is_named_the_largest_first_and_not_ourselves(put_gpu):
    put_gpu((os.getppid(), GIB), (2**22 + 1, 2 * GIB), (os.getpid(), GIB))
    (check,) = found("memory")
    assert check.told.startswith(
        "20.00 GiB of 24.00 GiB are free; held by process (4194305) 2.00 GiB, "
    )
    assert f"({os.getppid()}) 1.00 GiB" in check.told
    assert f"({os.getpid()})" not in check.told


def test_a_gpu_that_torch_does_not_see_is_a_problem(put_gpu, monkeypatch):
    put_gpu()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (check,) = found("card")
    assert check.status == doctor.PROBLEM
    assert check.told.startswith("the driver sees NVIDIA Test, and this torch")


def test_windows_is_told_about_spilling(monkeypatch):
    assert found("spilling") == []
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert found("spilling")[0].status == doctor.NOTE


def test_the_command_says_it_and_exits_by_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nvml, "gpu_memory", lambda: None)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0
    names = [check["name"] for check in json.loads(done.stdout)["checks"]]
    assert names[:6] == ["python", "torch", "diffusers", "accelerate", "transformers", "shadowed"]
    (tmp_path / "profiler.py").write_text("")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 3
    assert f"rename {tmp_path / 'profiler.py'}" in " ".join(done.stdout.split())
