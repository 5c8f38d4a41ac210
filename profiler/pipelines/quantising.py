"""Quantised components without weights: the libraries' own loading, on a virtual GPU.

A component is loaded by diffusers' and transformers' own `from_pretrained`, from its configuration and virtual weights,
with the quantisation configuration that a user would pass; GGUF by the steps of diffusers' `from_single_file`. So the
libraries themselves determine the modules, the packed weights, their scales, and the component's device afterwards. The
library that quantises has to be installed, as with real weights.

A checkpoint that is already quantised is assumed to be quantised while it loads: it holds the same bytes afterwards.
"""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from profiler.errors import InputError
from profiler.patching import Patches
from profiler.pipelines.building import build_module
from profiler.virtual.torch_api.functions import active_gpu
from profiler.virtual.torch_api.subclasses import install_plain_types

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
GGUF_TYPES = (
    *("q2_k", "q3_k", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0", "bf16"),
)


class QuantisationKind(NamedTuple):
    """One way to quantise a component."""

    library: str  # the package that does it, by its import name
    package: str  # and by its name for installation
    configure: Callable[[Any, torch.dtype], Any]  # (diffusers or transformers, dtype) to the config
    packs_on_gpu: bool = False  # whether a CUDA kernel packs the weights


def kinds() -> dict[str, QuantisationKind]:
    """Return the ways to quantise a component, by the names that users type."""
    return {
        "bnb-nf4": _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        "bnb-nf4-dq": _bitsandbytes(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
        "bnb-fp4": _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
        "bnb-int8": _bitsandbytes(load_in_8bit=True),
        "torchao-int8wo": _torchao("Int8WeightOnlyConfig"),
        "torchao-int8dq": _torchao("Int8DynamicActivationInt8WeightConfig"),
        "torchao-int4wo": _torchao("Int4WeightOnlyConfig", int4_packing_format="tile_packed_to_4d"),
        "torchao-fp8wo": _torchao("Float8WeightOnlyConfig"),
        "torchao-fp8dq": _torchao("Float8DynamicActivationFloat8WeightConfig"),
        "torchao-fp8dqrow": _torchao("Float8DynamicActivationFloat8WeightConfig", per_row=True),
        "quanto-int8": _quanto("int8"),
        "quanto-float8": _quanto("float8"),
        "quanto-int4": _quanto("int4"),
        "quanto-int2": _quanto("int2"),
        **{f"gguf-{name}": _GGUF for name in GGUF_TYPES},
    }


def find_kind(name: str) -> QuantisationKind:
    """Return the way to quantise that `name` names; "nf4" and "fp4" are bitsandbytes'.

    Raises:
        InputError: if there is none of this name, or its library is not installed.
    """
    known = kinds()
    kind = known.get(name) or known.get(f"bnb-{name}")
    if kind is None:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise InputError(f"unknown quantisation {name!r}: {hint}")
    if find_spec(kind.library.partition(".")[0]) is None:
        raise InputError(
            f"{name} is done by {kind.package}, which is not installed: pip install {kind.package}"
        )
    return kind


def build_quantised(
    cls: type[torch.nn.Module], config: Mapping[str, Any], dtype: torch.dtype, chosen: Any
) -> torch.nn.Module:
    """Return a `cls` without weights, quantised as `from_pretrained(quantization_config=...)` would.

    Components of bitsandbytes are on the GPU afterwards, where its loading leaves them; the others are in host memory.

    Args:
        cls: A diffusers `ModelMixin` or a transformers `PreTrainedModel`.
        config: Hyperparameters as in the component's `config.json`.
        dtype: The dtype that the caller would pass to `from_pretrained`; also the one to compute in.
        chosen: A name of `kinds`, or a quantisation configuration of diffusers or transformers (including the
            dictionary in `config.json`).

    Raises:
        InputError: if the name is not known, its library is not installed or not made for the component, or no virtual
            GPU is active, which the libraries query.
    """
    gpu = active_gpu()
    if gpu is None:
        raise InputError(
            "a quantised component can be built on a virtual GPU only: do it inside `with VirtualGPU(...)`"
        )
    ours = transformers if issubclass(cls, transformers.PreTrainedModel) else diffusers
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    module = build_module(cls, plain, dtype)
    options: dict[str, Any] = {"dtype": dtype}
    if isinstance(chosen, str):
        kind = find_kind(chosen)
        if kind is _GGUF:
            return _with_gguf(cls, module, dtype, chosen.removeprefix("gguf-"))
        chosen = kind.configure(ours, dtype)
        if kind.packs_on_gpu:
            options["device_map"] = "cuda"
    if chosen_method(chosen) == "quanto":
        import_module("optimum.quanto")
        gpu.until_left(install_plain_types)
    load = _load_transformers if ours is transformers else _load_diffusers
    return load(cls, plain, module.state_dict(), quantization_config=chosen, **options)


def chosen_method(chosen: Any) -> str:
    """Return the method that a quantisation configuration names: "bitsandbytes", "torchao", "quanto", ..."""
    known = isinstance(chosen, Mapping)
    method = chosen.get("quant_method") if known else getattr(chosen, "quant_method", "")
    return str(getattr(method, "value", method) or "bitsandbytes")


# -- the configurations


def _bitsandbytes(**options: Any) -> QuantisationKind:
    def configure(ours: Any, dtype: torch.dtype) -> Any:
        compute = {"bnb_4bit_compute_dtype": dtype} if "load_in_4bit" in options else {}
        return ours.BitsAndBytesConfig(**options, **compute)

    return QuantisationKind("bitsandbytes", "bitsandbytes", configure)


def _torchao(name: str, *, per_row: bool = False, **options: Any) -> QuantisationKind:
    def configure(ours: Any, dtype: torch.dtype) -> Any:
        from torchao import quantization

        if per_row:
            options["granularity"] = quantization.PerRow()
        return ours.TorchAoConfig(getattr(quantization, name)(**options))

    return QuantisationKind(
        "torchao", "torchao", configure, packs_on_gpu=name == "Int4WeightOnlyConfig"
    )


def _quanto(weights: str) -> QuantisationKind:
    def configure(ours: Any, dtype: torch.dtype) -> Any:
        if ours is transformers:
            return transformers.QuantoConfig(weights=weights)
        return diffusers.QuantoConfig(weights_dtype=weights)

    return QuantisationKind("optimum.quanto", "optimum-quanto", configure)


def _no_gguf_config(ours: Any, dtype: torch.dtype) -> Any:
    return diffusers.GGUFQuantizationConfig(compute_dtype=dtype)


_GGUF = QuantisationKind("gguf", "gguf", _no_gguf_config)


# -- loading


def _load_transformers(
    cls: Any, config: Mapping[str, Any], weights: dict[str, torch.Tensor], **options: Any
) -> torch.nn.Module:
    made = cls.config_class.from_dict(dict(config))
    if chosen_method(options["quantization_config"]) == "bitsandbytes":
        # The choice that it would make itself, by a number that only a CUDA build of torch can turn into a device.
        options["device_map"] = {"": "cuda:0"}
    return cls.from_pretrained(  # type: ignore[no-any-return]
        None, config=made, state_dict=weights, trust_remote_code=False, **options
    )


def _load_diffusers(
    cls: Any, config: Mapping[str, Any], weights: dict[str, torch.Tensor], **options: Any
) -> torch.nn.Module:
    """Make diffusers read the virtual weights in place of a file."""
    from diffusers.models import modeling_utils

    with tempfile.TemporaryDirectory() as name, Patches() as patches:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps({**config, "_class_name": cls.__name__}))
        save_file({}, folder / WEIGHTS_FILE)  # torchao's quantiser opens it to look for metadata
        patches.replace(modeling_utils, "load_state_dict", lambda *args, **kwargs: weights)
        return cls.from_pretrained(folder, **options)  # type: ignore[no-any-return]


def _with_gguf(cls: Any, module: torch.nn.Module, dtype: torch.dtype, name: str) -> torch.nn.Module:
    """Return `module` with the weights of its linear layers as a GGUF file of one type would hold them.

    Source: diffusers 0.42.1, `FromOriginalModelMixin.from_single_file` in `loaders/single_file_model.py`.
    """
    if not issubclass(cls, diffusers.ModelMixin):
        raise InputError(
            f"{cls.__name__} cannot stay in GGUF: transformers takes its weights apart while it loads them"
        )
    from accelerate import init_empty_weights
    from diffusers.models.model_loading_utils import load_model_dict_into_meta
    from diffusers.quantizers.auto import DiffusersAutoQuantizer

    weights = _in_gguf(module, name)
    quantizer = DiffusersAutoQuantizer.from_config(
        diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    )
    quantizer.validate_environment()
    with init_empty_weights():
        empty = cls.from_config(module.config)
    kept = list(cls._keep_in_fp32_modules or ())
    quantizer.preprocess_model(
        model=empty, device_map=None, state_dict=weights, keep_in_fp32_modules=kept
    )
    load_model_dict_into_meta(
        empty,
        weights,
        dtype=dtype,
        device_map={"": torch.device("cpu")},
        hf_quantizer=quantizer,
        keep_in_fp32_modules=kept,
        unexpected_keys=[],
    )
    quantizer.postprocess_model(empty)
    empty.hf_quantizer = quantizer
    return empty.eval()  # type: ignore[no-any-return]


def _in_gguf(module: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Return the module's weights, those of linear layers packed if their rows hold whole blocks."""
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFParameter

    quant_type = gguf.GGMLQuantizationType[name.upper()]
    block, nbytes = gguf.GGML_QUANT_SIZES[quant_type]
    weights = module.state_dict()
    for path, part in module.named_modules():
        if isinstance(part, torch.nn.Linear) and part.in_features % block == 0:
            row = part.in_features // block * nbytes
            packed = torch.empty((part.out_features, row), dtype=torch.uint8)
            weights[f"{path}.weight"] = GGUFParameter(packed, quant_type=quant_type)
    return weights
