"""Checkpoints in one file: what is built from their headers is what diffusers' `from_single_file` makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import tiny_files
import torch
from diffusers import UNet2DConditionModel
from original_layouts import (
    ldm_clip,
    ldm_unet,
    ldm_vae,
    open_clip,
    original_flux,
    write_gguf_header,
    write_header,
)
from safetensors.torch import load_file, save_file
from tiny_folder import write_tiny_pipeline

from profiler.errors import InputError
from profiler.libraries.modules import components_of
from profiler.libraries.modules import describe as describe_module
from profiler.pipelines import load_pipeline
from profiler.pipelines.loading import describe
from profiler.pipelines.single_file import loaded_from_file
from profiler.pipelines.tokenizers import stand_ins
from profiler.planning import Plan
from profiler.sizing.scenario import Scenario
from profiler.sizing.scenario_words import command_words
from profiler.sizing.size import plan_model, profile_model, verify_plan
from profiler.units import MIB
from profiler.virtual import VirtualGPU

GPU = "rtx-4090"
EMA = {
    f"model_ema.diffusion_model{number}": torch.zeros(8, dtype=torch.float16) for number in range(9)
}
SCHEDULE = {"betas": torch.zeros(1000), "num_batches": torch.tensor(3)}


def sizes(module):
    """Return shape and dtype of every tensor of a component, by name."""
    held = (*module.named_parameters(remove_duplicate=False), *module.named_buffers())
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in held}


def virtual(file, **options):
    """Return the sizes of a pipeline's components from the headers alone, and what is said of them."""
    with VirtualGPU(GPU):
        pipe = load_pipeline(file.path, config=file.folder, **options)
        said = [one for one in stand_ins(pipe) if "okenizer" not in one]
        return {name: sizes(part) for name, part in components_of(pipe).items()}, said


def really_loaded(file, dtype):
    """Return the components of a real Stable Diffusion that diffusers loads from one file."""
    tokenizer = load_pipeline(str(file.folder)).tokenizer  # the folder has no vocabulary
    pipe = diffusers.StableDiffusionPipeline.from_single_file(
        str(file.path),
        config=str(file.folder),
        local_files_only=True,
        torch_dtype=dtype,
        tokenizer=tokenizer,
    )
    return {name: sizes(part) for name, part in components_of(pipe).items()}


@pytest.mark.parametrize(
    ("stored", "asked", "loaded"),
    [
        ({"dtype": torch.float16}, None, torch.float16),
        ({"dtype": torch.float32}, "float16", torch.float16),
        ({"dtype": torch.float16, "vae_dtype": torch.float32}, None, torch.float16),
        ({"dtype": torch.float16, "extra": {**EMA, **SCHEDULE}}, None, torch.float16),
        ({"dtype": torch.float8_e4m3fn}, "bfloat16", torch.bfloat16),
    ],
    ids=["as stored", "cast", "mixed", "more than it takes", "float8"],
)
def test_a_whole_pipeline_is_what_diffusers_loads(tmp_path, stored, asked, loaded):
    file = tiny_files.stable_diffusion(tmp_path, **stored)
    found, _ = virtual(file, dtype=asked)
    assert found == really_loaded(file, loaded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_transformer_alone_is_what_diffusers_loads(tmp_path, dtype):
    file = tiny_files.flux(tmp_path, dtype=dtype)
    found, said = virtual(file, dtype="bfloat16")
    real = diffusers.FluxTransformer2DModel.from_single_file(
        str(file.path),
        config=str(file.folder),
        subfolder="transformer",
        local_files_only=True,
        torch_dtype=torch.bfloat16,
    )
    assert found["transformer"] == sizes(real)
    folder = file.folder
    assert said[-1] == (
        f"transformer from flux.safetensors, configured as in {folder}; "
        "text_encoder, text_encoder_2, vae as there, since the file holds none"
    )
    with VirtualGPU(GPU):
        beside = load_pipeline(str(folder), dtype="bfloat16")
        assert {name: sizes(part) for name, part in components_of(beside).items()} == found


def in_several_types(name, tensor):
    """Return a type as published files mix them: large layers in few bits, some in more, norms and the rest plain."""
    if tensor.ndim < 2:
        return "F32"
    if tensor.shape[-1] % 256:
        return "F16"
    return (
        "Q6_K"
        if name.split(".")[-2] in ("proj_out", "linear2")
        else "BF16"
        if "embedder" in name
        else "Q4_K"
    )


def test_each_tensor_of_a_gguf_file_keeps_its_own_type(tmp_path):
    pytest.importorskip("gguf", reason="gguf, which reads such files, is not installed")
    file = tiny_files.flux_in_gguf(tmp_path, in_several_types)
    real = diffusers.FluxTransformer2DModel.from_single_file(
        str(file.path),
        config=str(file.folder),
        subfolder="transformer",
        local_files_only=True,
        torch_dtype=torch.bfloat16,
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.bfloat16),
    )
    found, _ = virtual(file, dtype="bfloat16")
    assert found["transformer"] == sizes(real)
    with VirtualGPU(GPU):
        record = describe_module(
            "it", load_pipeline(file.path, config=file.folder, dtype="bfloat16").transformer
        )
    expected = describe_module("it", real)
    assert (record.bytes, record.parameters) == (expected.bytes, expected.parameters)


def test_what_a_file_has_besides_is_said(tmp_path):
    """9 x 8 averages, 1000 betas and a count; the VAE's float32 is cast."""
    file = tiny_files.stable_diffusion(tmp_path, vae_dtype=torch.float32, extra={**EMA, **SCHEDULE})
    tensors = load_file(file.path)
    half, single = (
        sum(one.nbytes for one in tensors.values() if one.dtype == dtype) / MIB
        for dtype in (torch.float16, torch.float32)
    )
    _, said = virtual(file)
    assert said == [
        "sd.safetensors holds 1,073 numbers that no component takes, its EMA weights among them",
        (
            f"sd.safetensors stores {half:.1f} MiB of float16, {single:.1f} MiB of float32: loaded in float16, as "
            "from_single_file casts it"
        ),
        f"text_encoder, unet, vae from sd.safetensors, configured as in {file.folder}",
    ]


def test_a_download_that_is_not_done_is_sized_by_its_header(tmp_path):
    file = tiny_files.stable_diffusion(tmp_path)
    whole, _ = virtual(file)
    with file.path.open("r+b") as stream:
        stream.truncate(4 * MIB)
    cut, said = virtual(file)
    assert cut == whole
    assert said[0].startswith("sd.safetensors is cut short, 4.0 MiB of 6.")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Headers of full-size files, as published ones have them, over holes."""
    root = tmp_path_factory.mktemp("published")
    sdxl = load_pipeline("sdxl-base", dtype="float16")
    write_header(
        root / "sdxl.safetensors",
        {
            **ldm_unet(sdxl.unet),
            **ldm_vae(sdxl.vae),
            **ldm_clip(sdxl.text_encoder, "conditioner.embedders.0.transformer."),
            **open_clip(sdxl.text_encoder_2),
        },
    )
    flux = original_flux(load_pipeline("flux1-dev").transformer)
    write_header(root / "flux.safetensors", flux)
    write_gguf_header(root / "flux.gguf", flux, in_several_types)
    return root


@pytest.mark.parametrize(
    ("name", "model"), [("sdxl.safetensors", "sdxl-base"), ("flux.safetensors", "flux1-dev")]
)
def test_a_published_file_is_recognised_and_is_the_catalogues_model(published, name, model):
    dtype = {"sdxl-base": "float16", "flux1-dev": "bfloat16"}[model]
    file = published / name
    assert describe(file).configured_as == model
    with VirtualGPU(GPU):
        expected = load_pipeline(model, dtype=dtype)
        found = load_pipeline(file)
        assert {n: describe_module(n, part) for n, part in components_of(found).items()} == {
            n: describe_module(n, part) for n, part in components_of(expected).items()
        }
        slots, loading = loaded_from_file(found)
    # What SDXL's conversion copies: OpenCLIP's joined queries, keys and values, 32 layers of 1280, and its projection,
    # and 2 x 77 positions, which are in no file;
    # FLUX's: likewise, 57 layers of 3072, the single ones with their MLP, and two halves that change places.
    copied_bytes = loading.held_bytes - sum(
        stored.nbytes for stored in describe(file).checkpoint.tensors
    )
    wide = 3072
    double = 19 * 6 * (wide * wide + wide)
    single = 38 * (7 * wide * wide + 7 * wide)
    assert (slots, copied_bytes) == {
        "sdxl-base": (
            ("text_encoder", "text_encoder_2", "unet", "vae"),
            2 * (32 * 3 * (1280 * 1280 + 1280) + 1280 * 1280) + 2 * 77 * 8,
        ),
        "flux1-dev": (("transformer",), 2 * (double + single + 2 * wide * wide + 2 * wide)),
    }[model]


def test_a_published_gguf_file_has_the_bytes_of_its_own_types(published):
    """What is plain is cast to bfloat16, and packed tensors stay as they are."""
    pytest.importorskip("gguf", reason="gguf, which reads such files, is not installed")
    file = published / "flux.gguf"
    tensors = describe(file).checkpoint.tensors
    plain = [one for one in tensors if one.dtype in ("F32", "F16")]
    packed = [one for one in tensors if one.dtype not in ("F32", "F16")]
    assert {one.dtype for one in packed} == {"Q4_K", "Q6_K"}
    with VirtualGPU(GPU):
        record = describe_module("it", load_pipeline(file).transformer)
    assert record.parameters == sum(one.elements for one in tensors)
    assert record.bytes == sum(one.nbytes for one in packed) + 2 * sum(
        one.elements for one in plain
    )


def test_outside_of_a_virtual_gpu_it_is_on_meta_or_random(tmp_path):
    file = tiny_files.stable_diffusion(tmp_path)
    found, _ = virtual(file)
    bare = load_pipeline(file.path, config=file.folder)
    assert {one.device.type for one in bare.unet.parameters()} == {"meta"}
    assert {name: sizes(part) for name, part in components_of(bare).items()} == found
    filled = load_pipeline(file.path, config=file.folder, weights="random")
    assert {name: sizes(part) for name, part in components_of(filled).items()} == found
    assert 0.01 < filled.unet.conv_in.weight.float().std() < 0.03


def test_a_plan_for_a_file_is_made_saved_and_verified(tmp_path):
    file = tiny_files.stable_diffusion(tmp_path)
    scenario = Scenario(model=str(file.path), config=str(file.folder), steps=1, height=64, width=64)
    assert command_words(scenario)[:3] == [str(file.path), "--config", str(file.folder)]
    plan = plan_model(scenario, "2GiB")
    plan.save(tmp_path / "plan.json")
    assert verify_plan(Plan.load(tmp_path / "plan.json")).held


def test_the_host_loads_the_file_before_the_other_components(tmp_path):
    """The transformer's file stays mapped; text encoders and VAE are loaded beside it, in float32 as said."""
    file = tiny_files.flux(tmp_path)
    scenario = Scenario(model=str(file.path), config=str(file.folder), steps=1, height=64, width=64)
    profile = profile_model(scenario)
    held = {part.name: part.bytes for part in profile.components}
    stored = sum(one.nbytes for one in describe(file.path, file.folder).checkpoint.tensors)
    others = sum(size for name, size in held.items() if name != "transformer")
    loading = profile.totals.loading_host_peak_bytes
    assert profile.config == str(file.folder)
    assert 0 <= stored + others - loading < 4096  # positions, which no file holds


MEASURE = """
import json, os, sys
import torch, accelerate
from diffusers import UNet2DConditionModel

def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

file, folder, dtypes = json.loads(sys.argv[1])
for dtype in dtypes:
    if os.fork() == 0:
        open("/proc/self/clear_refs", "w").write("5")
        before = resident("VmRSS")
        model = UNet2DConditionModel.from_single_file(
            file, config=folder, subfolder="unet", local_files_only=True, torch_dtype=getattr(torch, dtype)
        )
        for tensor in model.state_dict().values():
            tensor.view(torch.uint8).max()  # touch every page
        print(resident("VmHWM") - before, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="reads resident sets from Linux's /proc"
)
def test_the_resident_set_grows_as_predicted(tmp_path):
    folder = write_tiny_pipeline(tmp_path / "sd")
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["block_out_channels"] = [256, 512]
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    unet = UNet2DConditionModel.from_config(config)
    save_file(ldm_unet(unet), tmp_path / "unet.safetensors")
    dtypes = ["float32", "float16"]
    asked = json.dumps([str(tmp_path / "unet.safetensors"), str(folder), dtypes])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, asked], capture_output=True, text=True, check=True
    )
    measured = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    predicted = []
    for dtype in dtypes:
        with VirtualGPU(GPU):
            pipe = load_pipeline(tmp_path / "unet.safetensors", config=folder, dtype=dtype)
            predicted.append(loaded_from_file(pipe)[1].peak_bytes)
    # 48 MiB for what the libraries allocate on the way, as in test_stored_weights.py.
    apart = [m - p for m, p in zip(measured, predicted, strict=True)]
    assert all(-4 * MIB < difference < 48 * MIB for difference in apart), (measured, predicted)
    assert min(predicted) > 100 * MIB


def lora(tmp_path):
    save_file({"unet.mid.lora_A.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


def unknown(tmp_path):
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "unknown.safetensors")
    return tmp_path / "unknown.safetensors"


def empty(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    return tmp_path / "empty.safetensors"


def strange_dtype(tmp_path):
    text = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "f4.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return tmp_path / "f4.safetensors"


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (lora, "", "holds a LoRA, and no model"),
        (
            unknown,
            "",
            "diffusers does not recognise the model in .*: give the pipeline .* --config",
        ),
        (unknown, "sd15", r"holds nothing that diffusers can load as sd15 \(unet: .*--config"),
        (empty, "", "holds no tensors"),
        (strange_dtype, "sd15", "stores 'a' as F4, which PyTorch's safetensors does not load"),
        (lambda path: path / "gone.safetensors", "", "there is no file .*download it first"),
        (
            lambda path: path / "old.ckpt",
            "",
            "is pickled, and tells nothing.*save it as safetensors",
        ),
        (lambda path: "sd15", "sdxl-base", "'sd15' has its own configuration"),
        (unknown, "a.safetensors", "'a.safetensors' is a checkpoint, and no configuration"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, make, config, message):
    with pytest.raises(InputError, match=message):
        load_pipeline(make(tmp_path), config=config)


def test_a_model_that_the_catalogue_lacks_is_named(published, monkeypatch):
    monkeypatch.setattr("profiler.pipelines.single_file.name_of_hub_id", lambda hub_id: "")
    with pytest.raises(
        InputError,
        match=r"is of the kind flux-dev \(.*FLUX.1-dev\), whose configuration the catalogue does not have",
    ):
        describe(published / "flux.safetensors")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("sdxl.safetensors", "sd15", "does not fit the unet of sd15: .*expected shape"),
        ("flux.safetensors", "sdxl-base", "holds nothing that diffusers can load as sdxl-base"),
        ("flux.safetensors", "flux1-schnell", "numbers that no component takes"),
    ],
)
def test_a_configuration_that_is_not_the_files_is_said(published, name, config, message):
    """FLUX.1 dev has a guidance embedding more than schnell, which diffusers leaves out."""
    if config == "flux1-schnell":
        said = stand_ins(load_pipeline(published / name, config=config))
        assert any(message in one for one in said)
        return
    with pytest.raises(InputError, match=message):
        load_pipeline(published / name, config=config)


def test_what_has_some_names_in_common_is_not_taken_for_another_component(published):
    """A ControlNet's names are a UNet's, for the most part."""
    unet = load_pipeline("sd15").unet
    file = write_header(published / "unet.safetensors", unet.state_dict())
    said = stand_ins(load_pipeline(file, config="sd15-controlnet"))
    assert any(one.startswith("unet from unet.safetensors, ") for one in said)


def test_a_file_that_lacks_tensors_is_refused(tmp_path):
    file = tiny_files.stable_diffusion(tmp_path)
    tensors = load_file(file.path)
    del tensors["model.diffusion_model.out.2.weight"]
    save_file(tensors, file.path)
    with pytest.raises(
        InputError,
        match=r"numbers that diffusers cannot load .*unet: 1 of its tensors are missing, .* conv_out.weight",
    ):
        load_pipeline(file.path, config=file.folder)


def test_what_diffusers_cannot_convert_is_not_taken_from_the_catalogue(tmp_path, monkeypatch):
    """A conversion that stumbles over a name says nothing of whether the component is there; what is left over does."""
    file = tiny_files.stable_diffusion(tmp_path)
    home = diffusers.loaders.single_file_model.SINGLE_FILE_LOADABLE_CLASSES
    broken = {**home["UNet2DConditionModel"], "checkpoint_mapping_fn": lambda **_: {}["out.9"]}
    monkeypatch.setitem(home, "UNet2DConditionModel", broken)
    with pytest.raises(InputError, match=r"numbers that diffusers cannot load .*unet: KeyError"):
        load_pipeline(file.path, config=file.folder)


def test_a_gguf_file_needs_a_virtual_gpu_and_is_quantised_already(tmp_path):
    pytest.importorskip("gguf", reason="gguf, which reads such files, is not installed")
    file = tiny_files.flux_in_gguf(tmp_path, in_several_types)
    with pytest.raises(InputError, match="on a virtual GPU only"):
        load_pipeline(file.path, config=file.folder)
    with VirtualGPU(GPU), pytest.raises(InputError, match="its transformer is quantised already"):
        load_pipeline(file.path, config=file.folder, quantization={"transformer": "torchao-int8wo"})


def test_a_type_that_diffusers_does_not_load_is_said(tmp_path):
    pytest.importorskip("gguf", reason="gguf, which reads such files, is not installed")
    file = tiny_files.flux_in_gguf(
        tmp_path, lambda name, tensor: "TQ1_0" if "ff.net.2.weight" in name else "F32"
    )
    with (
        VirtualGPU(GPU),
        pytest.raises(InputError, match="as TQ1_0, which diffusers does not load"),
    ):
        load_pipeline(file.path, config=file.folder)
