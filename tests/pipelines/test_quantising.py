"""Quantised components: bytes as the real libraries hold them, memory in a forward as their real code takes it."""

import json
import re
import weakref

import diffusers
import pytest
import torch
import transformers
from tiny_flux import T5, TRANSFORMER, write_tiny_flux
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from profiler.errors import FindingError, InputError
from profiler.libraries.modes import Mode
from profiler.libraries.modules import describe
from profiler.pipelines import load_pipeline
from profiler.pipelines.catalogue import find_entry
from profiler.pipelines.quantising import build_quantised, find_kind, kinds
from profiler.tracing import profile_pipeline
from profiler.units import GIB
from profiler.virtual import VirtualGPU

BF16 = torch.bfloat16
GPU = "rtx-4090"
SEGMENT = 2 << 20  # bytes; what torch asks of the driver is a multiple
SMALL_T5 = {**T5, "vocab_size": 999}


def needs(*chosen):
    """Skip where a library that quantises is not installed: each belongs to the extra `quantization`."""
    for kind in chosen:
        pytest.importorskip(kinds()[kind].library, reason=f"{kind}: its library is not installed")


def virtual_bytes(cls, config, kind):
    """Return (bytes, weights, allocated on the GPU once there) of a component that is built virtually."""
    with VirtualGPU(GPU):
        module = build_quantised(cls, config, BF16, kind)
        record = describe("it", module)
        module.to("cuda")
        return record.bytes, record.parameters, torch.cuda.memory_allocated()


def written(tmp_path, cls, config):
    """Save real random weights, and return the folder."""
    if issubclass(cls, transformers.PreTrainedModel):
        model = cls(cls.config_class(**config))
    else:
        model = cls.from_config(config)
    model.to(BF16).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        (diffusers, "torchao-int8wo"),
        (diffusers, "torchao-fp8wo"),
        (transformers, "torchao-int8wo"),
        (diffusers, "quanto-int8"),
        (diffusers, "quanto-float8"),
        (diffusers, "quanto-int4"),
        (diffusers, "quanto-int2"),
        (transformers, "quanto-int8"),
    ],
)
def test_bytes_are_those_of_real_weights_quantised_by_the_real_library(tmp_path, library, kind):
    needs(kind)
    if library is transformers:
        cls, config = transformers.T5EncoderModel, SMALL_T5
    else:
        cls, config = diffusers.FluxTransformer2DModel, TRANSFORMER
    folder = written(tmp_path, cls, config)
    chosen = find_kind(kind).configure(library, BF16)
    real = describe("it", cls.from_pretrained(folder, dtype=BF16, quantization_config=chosen))
    nbytes, weights, allocated = virtual_bytes(cls, config, kind)
    assert (nbytes, weights) == (real.bytes, real.parameters)
    assert allocated == real.allocated_bytes


@pytest.mark.parametrize("kind", ["bnb-nf4", "bnb-nf4-dq", "bnb-fp4", "bnb-int8"])
def test_bitsandbytes_bytes_are_those_that_it_makes_of_real_weights(tmp_path, kind):
    """With transformers, bitsandbytes quantises on the CPU, too; diffusers asks for a GPU."""
    needs(kind)
    folder = written(tmp_path, transformers.T5EncoderModel, SMALL_T5)
    chosen = find_kind(kind).configure(transformers, BF16)
    model = transformers.T5EncoderModel.from_pretrained(
        folder, dtype=BF16, quantization_config=chosen, device_map="cpu"
    )
    real = describe("it", model)
    nbytes, weights, _ = virtual_bytes(transformers.T5EncoderModel, SMALL_T5, kind)
    assert (nbytes, weights) == (real.bytes, real.parameters)


@pytest.mark.parametrize("name", ["q4_0", "q5_1", "q8_0"])
def test_gguf_bytes_are_those_of_a_file_that_diffusers_reads(tmp_path, name):
    needs("gguf-q4_0")
    import gguf

    cls = diffusers.FluxTransformer2DModel
    model = cls.from_config(TRANSFORMER)
    (tmp_path / "config.json").write_text(json.dumps(TRANSFORMER))
    linear = {
        f"{path}.weight" for path, part in model.named_modules() if type(part) is torch.nn.Linear
    }
    kind = gguf.GGMLQuantizationType[name.upper()]
    writer = gguf.GGUFWriter(tmp_path / "it.gguf", "flux")
    for path, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if path in linear:
            writer.add_tensor(path, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(path, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    real = cls.from_single_file(
        str(tmp_path / "it.gguf"),
        config=str(tmp_path),
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=BF16),
        torch_dtype=BF16,
    )
    record = describe("it", real)
    nbytes, weights, _ = virtual_bytes(cls, TRANSFORMER, f"gguf-{name}")
    assert (nbytes, weights) == (record.bytes, record.parameters)


def test_flux_in_nf4_takes_half_a_byte_a_weight_and_a_scale_for_64():
    """11.90 billion weights; a scale has 4 bytes, and each layer a code book of 16 floats."""
    needs("bnb-nf4")
    config = find_entry("flux1-dev").components["transformer"].config
    with VirtualGPU("h100"):
        module = build_quantised(diffusers.FluxTransformer2DModel, config, BF16, "bnb-nf4")
        record = describe("it", module)
        linear = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
        inside = sum(part.in_features * part.out_features for part in linear)
        rest = record.parameters - inside
        expected = inside // 2 + inside // 64 * 4 + len(linear) * 16 * 4 + rest * 2
        assert record.bytes == expected
        assert 6.2 < record.bytes / GIB < 6.3


class LiveBytes(TorchDispatchMode):
    """A dumb count of what real tensors take, each storage rounded up to 512 bytes as on a GPU."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.known = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {id_of(leaf) for leaf in tree_leaves((args, kwargs)) if plain(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in filter(plain, tree_leaves(result)):
            key = id_of(leaf)
            if key not in before and key not in self.known:
                self.take(leaf.untyped_storage(), key)
        return result

    def take(self, storage, key):
        nbytes = -(-storage.nbytes() // 512) * 512
        self.known[key] = nbytes
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.give, key)

    def give(self, key):
        self.live -= self.known.pop(key)


def plain(leaf):
    return type(leaf) in (torch.Tensor, torch.nn.Parameter)


def id_of(tensor):
    return tensor.untyped_storage()._cdata


@pytest.mark.parametrize("tokens", [16, 4096])
@pytest.mark.parametrize("kind", ["bnb-nf4", "bnb-nf4-dq"])
def test_a_4_bit_layer_charges_its_dequantised_weights_where_bitsandbytes_has_no_kernel(
    kind, tokens
):
    """Past 1536 rows it dequantises: 2 bytes a weight; on 16 rows of a large layer its own kernel does without."""
    needs(kind)
    import bitsandbytes

    features, outputs = 2048, 8192
    with VirtualGPU(GPU) as gpu:
        layer = bitsandbytes.nn.Linear4bit(
            features,
            outputs,
            False,
            BF16,
            compress_statistics=kind.endswith("dq"),
            quant_type="nf4",
        )
        layer.to(BF16).to("cuda")
        rows = torch.empty(tokens, features, dtype=BF16, device="cuda")
        gpu.need_blas_workspace()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        layer(rows)
        taken = torch.cuda.max_memory_allocated() - before
    output = tokens * outputs * 2
    scales = features * outputs // 64 * 4
    dequantised = features * outputs * 2 if tokens > 1536 else 0
    # Double quantisation: the scales without their mean, and with it.
    whole = 2 * scales if dequantised and kind.endswith("dq") else 0
    assert taken == output + dequantised + whole


@pytest.mark.parametrize("kind", ["gguf-q4_0", "gguf-q4_k", "gguf-q6_k", "torchao-int8wo"])
def test_a_forward_takes_what_the_libraries_real_code_takes_on_real_tensors(kind):
    """The same layer, real and on the CPU, watched by a dumb counter."""
    needs(kind)
    tokens = 24
    config = {**TRANSFORMER, "num_layers": 0, "num_single_layers": 0}
    with VirtualGPU(GPU) as gpu:
        module = build_quantised(diffusers.FluxTransformer2DModel, config, BF16, kind)
        layer = module.to("cuda").context_embedder
        features, outputs = layer.in_features, layer.out_features
        rows = torch.empty(tokens, features, dtype=BF16, device="cuda")
        gpu.need_blas_workspace()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        layer(rows)
        taken = torch.cuda.max_memory_allocated() - before
    real = real_layer(kind, features, outputs)
    with torch.no_grad(), LiveBytes() as counter:
        real(torch.zeros(tokens, features, dtype=BF16))
    assert taken == counter.peak - tokens * features * 2


def real_layer(kind, features, outputs):
    if kind.startswith("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        layer = torch.nn.Linear(features, outputs, dtype=BF16)
        quantize_(layer, Int8WeightOnlyConfig())
        return layer
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    quant_type = gguf.GGMLQuantizationType[kind.removeprefix("gguf-").upper()]
    block, nbytes = gguf.GGML_QUANT_SIZES[quant_type]
    layer = GGUFLinear(features, outputs, bias=True, compute_dtype=BF16)
    layer.bias = torch.nn.Parameter(layer.bias.to(BF16))
    packed = torch.zeros(outputs, features // block * nbytes, dtype=torch.uint8)
    layer.weight = GGUFParameter(packed, quant_type=quant_type)
    return layer


MODES = {
    "resident": Mode(name="resident"),
    "model": Mode(name="model"),
    "sequential": Mode(name="sequential"),
    "group-block": Mode(name="group-block", blocks=1),
    "group-leaf-stream": Mode(name="group-leaf", stream=True, record_stream=True),
}
# By the code of accelerate 1.15.0, diffusers 0.42.1 and the libraries; none of them has run on a GPU here.
FAILS = {
    ("bnb-nf4", "sequential"): "Cannot copy out of meta tensor",
    ("bnb-nf4", "group-block"): "illegal memory access",
}
REFUSED = {("gguf-q4_0", "sequential"): "cannot be placed in mode sequential"}


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("bnb-nf4", mode) for mode in MODES),
        ("gguf-q4_0", "sequential"),
        ("gguf-q4_0", "group-leaf-stream"),
        ("torchao-fp8wo", "sequential"),
        ("torchao-fp8wo", "group-block"),
    ],
)
def test_weights_and_other_bytes_are_all_that_crossed_the_link(tmp_path, kind, mode):
    needs(kind)
    folder = write_tiny_flux(tmp_path)
    encoder = {} if kind.startswith("gguf") else {"text_encoder_2": kind}
    with VirtualGPU(GPU) as gpu:
        pipe = load_pipeline(
            folder, dtype="bfloat16", quantization={"transformer": kind, **encoder}
        )
        up, down = gpu.h2d_bytes, gpu.d2h_bytes
        call = {"num_inference_steps": 2, "height": 64, "width": 64}
        if (kind, mode) in REFUSED:
            with pytest.raises(InputError, match=REFUSED[kind, mode]):
                profile_pipeline(pipe, mode=MODES[mode], **call)
            return
        profile = profile_pipeline(pipe, mode=MODES[mode], **call)
        up, down = gpu.h2d_bytes - up, gpu.d2h_bytes - down
    assert FAILS.get((kind, mode), "") in profile.error
    assert profile.complete is ((kind, mode) not in FAILS), profile.error
    copies = [event for event in profile.events if event.kind == "copy"]
    other = sum(event.bytes for event in copies if event.to_device == "cuda:0")
    back = sum(event.bytes for event in copies if event.from_device == "cuda:0")
    totals = profile.totals
    assert (totals.h2d_weight_bytes + other, totals.d2h_weight_bytes + back) == (up, down)


def test_8_bit_layers_of_bitsandbytes_stay_on_the_gpu_when_offloaded():
    """`Linear8bitLt.state` holds the weights, and `Module.to` of what is around it does not move it."""
    needs("bnb-int8")
    import bitsandbytes

    with VirtualGPU(GPU):
        layer = bitsandbytes.nn.Linear8bitLt(512, 512, False, has_fp16_weights=False)
        model = torch.nn.Sequential(layer).to("cuda")
        model(torch.empty(8, 512, dtype=torch.float16, device="cuda"))
        before = torch.cuda.memory_allocated()
        model.to("cpu")
        assert torch.cuda.memory_allocated() == before
        assert next(model.parameters()).device.type == "cpu"
        assert describe("it", model).allocated_bytes == 2 * 512 * 512 + 512 * 4


def test_a_configuration_that_says_how_it_was_quantised_is_followed(tmp_path):
    needs("bnb-nf4")
    own = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    asked = write_tiny_flux(tmp_path / "asked")
    said = write_tiny_flux(tmp_path / "said", quantization_config=own)
    with VirtualGPU(GPU):
        one = load_pipeline(asked, dtype="bfloat16", quantization={"transformer": "nf4"})
        other = load_pipeline(said, dtype="bfloat16")
        assert describe("it", one.transformer) == describe("it", other.transformer)
        with pytest.raises(InputError, match="is quantised already"):
            load_pipeline(said, quantization={"transformer": "nf4"})


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"transformer": "nf5"}, "unknown quantisation 'nf5'"),
        ({"unet": "nf4"}, "has no component 'unet' to quantise"),
        ({"scheduler": "nf4"}, "has no weights to quantise"),
        ({"text_encoder_2": "gguf-q4_0"}, "cannot stay in GGUF"),
    ],
)
def test_what_cannot_be_quantised_is_said(tmp_path, quantization, message):
    needs("gguf-q4_0")
    folder = write_tiny_flux(tmp_path)
    with VirtualGPU(GPU), pytest.raises(InputError, match=message):
        load_pipeline(folder, quantization=quantization)


def test_loading_that_runs_out_of_memory_is_a_finding_that_says_beside_what(tmp_path):
    """What bitsandbytes quantises stays on the GPU, so the next component is loaded beside it."""
    needs("bnb-nf4")
    folder = write_tiny_flux(tmp_path)
    large = {**T5, "vocab_size": 320_000}  # 156 MiB, in bfloat16
    (folder / "text_encoder_2" / "config.json").write_text(json.dumps(large))
    one, both = {"text_encoder": "nf4"}, {"text_encoder": "nf4", "text_encoder_2": "nf4"}
    with VirtualGPU(GPU):
        load_pipeline(folder, dtype="bfloat16", quantization=one)
        one_bytes = torch.cuda.max_memory_reserved()
    with VirtualGPU(GPU) as gpu:
        room_bytes = gpu.capacity_bytes - gpu.spec.context_bytes - one_bytes
        others = torch.empty(room_bytes // SEGMENT * SEGMENT, dtype=torch.uint8, device="cuda")
        with pytest.raises(FindingError) as caught:
            load_pipeline(folder, dtype="bfloat16", quantization=both)
        del others
    assert re.search(
        r"its text_encoder_2 is quantised on the GPU, and beside text_encoder, which loading left there, .*"
        r"MiB asked for, .* free\); load, place and free one component at a time",
        str(caught.value),
    )


def test_without_a_virtual_gpu_nothing_is_quantised(tmp_path):
    with pytest.raises(InputError, match="on a virtual GPU only"):
        load_pipeline(write_tiny_flux(tmp_path), quantization={"transformer": "nf4"})


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao", "quanto"])
def test_a_twin_of_real_quantised_weights_holds_and_computes_the_same(library):
    needs(
        {"bitsandbytes": "bnb-nf4", "torchao": "torchao-int8wo", "quanto": "quanto-int4"}[library]
    )
    real = {"bitsandbytes": real_nf4, "torchao": real_int8, "quanto": real_int4}[library]()
    record = describe("it", real)
    with VirtualGPU(GPU) as gpu:
        twin = gpu.lend(real)
        assert describe("it", twin).bytes == record.bytes
        twin.to("cuda")
        assert torch.cuda.memory_allocated() == record.allocated_bytes
        assert twin(torch.empty(2, 256, dtype=BF16, device="cuda")).shape == (2, 512)
    assert describe("it", real) == record
    assert real(torch.zeros(2, 256, dtype=BF16)).shape == (2, 512)


def real_nf4():
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(
        256, 512, True, BF16, compress_statistics=True, quant_type="nf4"
    )
    return torch.nn.Sequential(layer.to(BF16)).to("cpu")


def real_int8():
    model = torch.nn.Sequential(torch.nn.Linear(256, 512, dtype=BF16))
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    return model


def real_int4():
    from optimum import quanto

    model = torch.nn.Sequential(torch.nn.Linear(256, 512, dtype=BF16))
    quanto.quantize(model, weights=quanto.qint4)
    quanto.freeze(model)
    return model


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_builds_and_runs(kind):
    needs(kind)
    config = {**TRANSFORMER, "num_layers": 0, "num_single_layers": 0}
    with VirtualGPU("h200") as gpu:
        module = build_quantised(diffusers.FluxTransformer2DModel, config, BF16, kind)
        layer = module.to("cuda").context_embedder
        assert layer(torch.empty(8, 256, dtype=BF16, device="cuda")).shape == (8, 256)
        assert "operator" not in {asked for asked, _ in gpu.values.assumed}


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("profiler.pipelines.quantising.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install torchao"):
        find_kind("torchao-int8wo")
