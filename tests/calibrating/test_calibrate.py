"""`vram calibrate` in dry mode: a pipeline's operations, measured on a virtual GPU that stands in for a real one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.calibrating import calibrate
from profiler.calibrating.kernels import measure
from profiler.calibrating.operations import TensorLike, operations_of, recorded
from profiler.cli.app import app
from profiler.errors import InputError
from profiler.gpus import calibration
from profiler.gpus.calibration_table import KernelCost, load, save
from profiler.gpus.hardware import gpu_spec
from profiler.libraries.modes import Mode
from profiler.pipelines import load_pipeline
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import profile_model
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.kernels import Kernel

H200 = gpu_spec("h200")


@pytest.fixture
def tiny(tmp_path):
    folder = write_tiny_pipeline(tmp_path / "tiny")
    return Scenario(model=str(folder), gpu="h200", mode=Mode(name="resident"), dtype="float16")


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "tables"
    folder.mkdir()
    monkeypatch.setenv(calibration.PLACE, str(folder))
    calibration.forget()
    yield folder
    calibration.forget()


def test_every_convolution_of_the_pipeline_is_found_with_its_layout(tiny):
    found = operations_of(tiny, H200)
    kinds = {operation.func._overloadpacket for operation in found.values()}
    assert torch.ops.aten.convolution in kinds
    assert torch.ops.aten.addmm in kinds
    assert torch.ops.aten._scaled_dot_product_cudnn_attention in kinds  # on Hopper
    convolutions = {
        (operation.args[0].shape[1], operation.args[1].shape[0])
        for operation in found.values()
        if operation.func._overloadpacket is torch.ops.aten.convolution
    }
    pipe = load_pipeline(tiny.model, dtype="float16")
    layers = {
        (layer.in_channels, layer.out_channels)
        for part in (pipe.unet, pipe.vae.decoder, pipe.vae.post_quant_conv)
        for layer in part.modules()
        if isinstance(layer, torch.nn.Conv2d)
    }
    assert convolutions == layers


def test_a_made_operation_has_the_signature_that_it_was_found_under(tiny):
    """The name under which a table keeps a cost is the one under which a prediction asks for it."""
    found = operations_of(tiny, H200)
    with VirtualGPU(H200) as gpu, recorded(gpu) as again:
        for operation in found.values():
            measure(operation)
    assert set(again) >= set(found)


def test_a_dry_run_measures_what_the_virtual_gpu_charges(tiny, tmp_path):
    """The stand-in's own rule must come out of the measurement: peak less what was there and what came back."""
    done = calibrate([tiny], output=tmp_path / "t.toml", dry=True, gpu="h200")
    charged = {}
    for signature, operation in operations_of(tiny, H200).items():
        args, kwargs = _on_meta(operation)
        kernel = Kernel(H200, operation.func, args, kwargs, operation.func(*args, **kwargs))
        charged[signature] = kernel.workspace()
    found = {signature: cost.workspace_bytes for signature, cost in done.table.kernels.items()}
    assert found == charged
    assert any(found.values())
    assert load(tmp_path / "t.toml") == done.table
    assert done.table.dry
    assert done.table.failed == {}


def _on_meta(operation):
    on_meta = [
        replace(one, device="meta") if isinstance(one, TensorLike) else one
        for one in operation.args
    ]
    return replace(operation, args=tuple(on_meta)).made()


def test_a_second_run_measures_nothing_again_and_goes_on(tiny, tmp_path):
    path = tmp_path / "t.toml"
    stopped = calibrate([tiny], output=path, dry=True, gpu="h200", budget_seconds=0)
    assert (stopped.measured, stopped.left) == (0, (tiny.model,))
    first = calibrate([tiny], output=path, dry=True, gpu="h200")
    second = calibrate([tiny], output=path, dry=True, gpu="h200")
    assert first.measured == len(first.table.kernels) > 20
    assert (second.measured, second.table.kernels) == (0, first.table.kernels)


def test_a_table_of_another_gpu_is_not_continued(tiny, tmp_path):
    path = tmp_path / "t.toml"
    calibrate([], output=path, dry=True, gpu="h200")
    before = path.read_bytes()
    with pytest.raises(InputError, match="measured with GPU NVIDIA H200"):
        calibrate([tiny], output=path, dry=True, gpu="rtx-4090")
    assert path.read_bytes() == before


def test_a_prediction_takes_what_the_table_holds_and_says_so(tiny, place):
    """Each convolution made to take 64 MiB more: so does the peak."""
    without = profile_model(tiny)
    dry = calibrate([tiny], dry=True, gpu="h200").table
    extra_bytes = 64 << 20
    kernels = {
        signature: KernelCost(workspace_bytes=extra_bytes, seconds=cost.seconds)
        for signature, cost in dry.kernels.items()
        if signature.startswith("aten.convolution")
    }
    made_up = replace(dry, dry=False, kernels=kernels, context_bytes={"bare": 777 << 20})
    save(made_up, place / made_up.file_name)
    calibration.forget()
    profile = profile_model(tiny)
    assert profile.totals.peak_allocated_bytes > without.totals.peak_allocated_bytes + (60 << 20)
    assert profile.gpu.context_bytes == 777 << 20
    told = [one for one in profile.assumptions if "NVIDIA H200" in one.what]
    assert [(one.count, one.effect) for one in told] == [
        (len(kernels), "measured on a GPU, in place of the rule")
    ]


def test_the_command_prints_one_object(tiny, tmp_path):
    path = tmp_path / "t.toml"
    words = ["calibrate", "--dry", "--gpu", "h200", "--models", tiny.model, "-o", str(path)]
    done = CliRunner().invoke(app, [*words, "--json"], prog_name="vram")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["operations"] == told["measured"] == len(load(path).kernels)
    assert (told["dry"], told["left"], told["skipped"]) == (True, [], {})
    again = CliRunner().invoke(app, words, prog_name="vram")
    assert "0 of them measured now" in again.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "torch sees no GPU to measure"),
        (["--dry", "--gpu", "h2000"], "no GPU is called"),
        (["--dry", "--models", "tiny", "-o", "missing/t.toml"], "the folder"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["calibrate", *words], prog_name="vram")
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_is_told_and_the_others_are_measured(tiny):
    unknown = Scenario(model="sdxl-bse")
    done = calibrate([unknown, tiny], dry=True, gpu="h200")
    assert list(done.skipped) == ["sdxl-bse"]
    assert done.measured > 20
