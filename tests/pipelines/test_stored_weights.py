"""What loading real files takes, as the system counts it, against what is predicted from their headers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from safetensors.torch import save_file
from tiny_folder import write_tiny_pipeline
from torch.testing._internal.two_tensor import TwoTensor
from transformers import T5Config, T5EncoderModel

from profiler.errors import InputError
from profiler.pipelines.stored_weights import pipeline_loading
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import profile_model
from profiler.units import MIB
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="reads resident sets from Linux's /proc"
)

# Loads each folder in a child of its own, and prints by how many bytes its resident set grew at most.
MEASURE = """
import json, os, sys
import torch, accelerate
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file
from torch.testing._internal.two_tensor import TwoTensor
from transformers import T5EncoderModel

def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

for kind, folder, dtype in json.loads(sys.argv[1]):
    if os.fork() == 0:
        open("/proc/self/clear_refs", "w").write("5")
        before = resident("VmRSS")
        model = globals()[kind].from_pretrained(folder, dtype=getattr(torch, dtype))
        for tensor in model.state_dict().values():
            tensor.view(torch.uint8).max()  # touch every page
        print(json.dumps([kind, folder, dtype, resident("VmHWM") - before]), flush=True)
        os._exit(0)
    os.wait()
"""


def flux():
    return FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=64,
        num_attention_heads=16,
        joint_attention_dim=256,
        pooled_projection_dim=64,
        axes_dims_rope=(16, 24, 24),
    )


def t5():
    return T5EncoderModel(
        T5Config(d_model=1024, d_ff=4096, num_layers=4, num_heads=16, d_kv=64, vocab_size=4000)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Single-precision weights: a denoiser in one file and in several, and a text encoder."""
    root = tmp_path_factory.mktemp("weights")
    flux().save_pretrained(root / "one" / "part")
    flux().save_pretrained(root / "several" / "part", max_shard_size="80MB")
    t5().save_pretrained(root / "encoder" / "part")
    t5().save_pretrained(root / "encoder-in-several" / "part", max_shard_size="80MB")
    return root


def test_the_resident_set_grows_as_predicted(folders):
    cases = [
        ("FluxTransformer2DModel", flux, "one", "float32"),
        ("FluxTransformer2DModel", flux, "one", "float16"),
        ("FluxTransformer2DModel", flux, "several", "float16"),
        ("T5EncoderModel", t5, "encoder", "float32"),
        ("T5EncoderModel", t5, "encoder", "bfloat16"),
        ("T5EncoderModel", t5, "encoder-in-several", "bfloat16"),
    ]
    asked = [(kind, str(folders / name / "part"), dtype) for kind, _, name, dtype in cases]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(asked)],
        capture_output=True,
        text=True,
        check=True,
    )
    measured = [json.loads(line)[3] for line in done.stdout.splitlines() if line.startswith("[")]
    predicted = []
    for _, make, name, dtype in cases:
        with torch.device("meta"):
            module = make().to(getattr(torch, dtype))
        predicted.append(pipeline_loading(str(folders / name), {"part": module}).peak_bytes)
    # 48 MiB for what the libraries allocate on the way: threads, tables, what `malloc` keeps.
    apart = [m - p for m, p in zip(measured, predicted, strict=True)]
    assert all(-4 * MIB < difference < 48 * MIB for difference in apart), (measured, predicted)
    assert min(predicted) > 100 * MIB


def test_without_files_the_weights_are_taken_to_be_stored_as_they_are_loaded(tmp_path):
    module = torch.nn.Linear(16, 16, bias=False).half()
    loading = pipeline_loading(str(tmp_path), {"part": module})
    assert loading == (16 * 16 * 2, 16 * 16 * 2)


@pytest.fixture
def stored_weight(tmp_path):
    """A folder with 64 x 64 numbers in single precision, the weight of `part`."""
    (tmp_path / "part").mkdir()
    save_file({"weight": torch.zeros(64, 64)}, tmp_path / "part" / "model.safetensors")
    return str(tmp_path)


def quantised_layer():
    """A stand-in for torchao's: its weight is made of two tensors, each as large as the weight that it seems to be."""
    layer = torch.nn.Linear(64, 64).half()
    parts = [torch.zeros(64, 64, dtype=torch.float16) for _ in range(2)]
    layer.weight = torch.nn.Parameter(TwoTensor(*parts), requires_grad=False)
    return layer


def test_a_quantised_weight_is_copied_and_frees_its_file(stored_weight):
    loading = pipeline_loading(stored_weight, {"part": quantised_layer()})
    assert loading == (64 * 64 * 4 + 2 * 64 * 64 * 2, 2 * 64 * 64 * 2)


def test_without_files_quantised_weights_are_taken_to_be_stored_as_the_others(tmp_path):
    loading = pipeline_loading(str(tmp_path), {"part": quantised_layer()})
    # 64 x 64 + 64 numbers of 2 bytes in the file, whose bias stays a view of it, and two copies of the weight.
    everything = (64 * 64 + 64) * 2 + 2 * 64 * 64 * 2
    assert loading == (everything, everything)


def test_what_goes_to_the_gpu_leaves_nothing_on_the_host(stored_weight):
    with VirtualGPU("rtx-4090"):
        layer = torch.nn.Linear(64, 64).half().to("cuda")
        loading = pipeline_loading(stored_weight, {"part": layer})
    assert loading == (64 * 64 * 4, 0)


def stored(header):
    """Return a file of weights with this header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 20,
        stored({"weight": {"dtype": "F32"}})[:-4],
        stored(["weight"]),
        stored({"weight": {"dtype": "F32", "data_offsets": [0]}}),
        stored({"weight": {"dtype": "F32", "data_offsets": ["a", "b"]}}),
    ],
)
def test_a_file_that_is_no_safetensors_file_says_so(tmp_path, content):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="is no safetensors file, or cut short"):
        pipeline_loading(str(tmp_path), {"part": torch.nn.Linear(2, 2)})


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": 3}', "not JSON"])
def test_an_index_that_is_none_says_so(tmp_path, index):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match="cannot be read"):
        pipeline_loading(str(tmp_path), {"part": torch.nn.Linear(2, 2)})


def test_loading_in_another_dtype_takes_more_than_running(tmp_path):
    """The UNet's file holds float32: its mapping, four bytes a weight, is there beside the half-precision copy."""
    write_tiny_pipeline(tmp_path)
    config = UNet2DConditionModel.load_config(tmp_path / "unet")
    UNet2DConditionModel.from_config(config).save_pretrained(tmp_path / "unet")
    scenario = Scenario(model=str(tmp_path), dtype="float16", steps=1, height=64, width=64)
    profile = profile_model(scenario)
    (found,) = [one for one in profile.findings if one.kind == "loading_needs_more"]
    loading, running = profile.totals.loading_host_peak_bytes, profile.totals.host_peak_bytes
    assert found.bytes == loading - running > 0
    (unet,) = [part for part in profile.components if part.name == "unet"]
    # What no file holds, as positions, is made after the weights are there.
    made = [
        part.tensors[index].numel * part.tensors[index].itemsize
        for part in profile.components
        for inner in part.parts
        for index in inner.loose_buffers
    ]
    held = sum(part.bytes for part in profile.components)
    assert loading == held - sum(made) + 4 * unet.parameters
