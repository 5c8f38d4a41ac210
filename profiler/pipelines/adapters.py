"""LoRAs, IP-Adapters and textual inversions, loaded by diffusers' own calls from state dicts of the right shapes.

Their values are unknown, their sizes are not. A LoRA's file is read by its header alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch

from profiler.errors import InputError
from profiler.pipelines.building import build_module, find_class
from profiler.pipelines.catalogue import part_named
from profiler.pipelines.refusals import missing_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers that diffusers' training scripts (0.42, examples/*/train_*_lora*.py) adapt unless told otherwise."""

_DENOISERS = ("transformer", "transformer_2", "unet")
_IMAGE_ENCODER = (
    "clip-h-vision"  # of h94/IP-Adapter for Stable Diffusion 1.5, and of its ViT-H ones for SDXL
)
_IP_TOKENS = 4
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def load_loras(pipe: Any, loras: Sequence[str], *, fuse: bool) -> None:
    """Load LoRAs, each a rank, a rank with layers, or a file; with `fuse`, fuse and unload them.

    Raises:
        InputError: if one is neither, or the pipeline takes none, or not that one.
    """
    if loras and not hasattr(pipe, "load_lora_weights"):
        raise InputError(f"{type(pipe).__name__} takes no LoRA")
    states = [_state_of(pipe, lora) for lora in loras]  # of the layers as they are without any
    for number, state in enumerate(states, 1):
        _told(pipe, "LoRA", partial(pipe.load_lora_weights, state, adapter_name=f"lora_{number}"))
    if len(loras) > 1:
        pipe.set_adapters([f"lora_{number}" for number in range(1, len(loras) + 1)])
    if fuse:
        _told(pipe, "LoRA", pipe.fuse_lora)
        pipe.unload_lora_weights()


def load_ip_adapters(pipe: Any, count: int) -> None:
    """Load IP-Adapters of four tokens for a UNet, with their image encoder, OpenCLIP's ViT-H.

    Raises:
        InputError: if the pipeline has no UNet or takes none.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None or not hasattr(pipe, "load_ip_adapter"):
        raise InputError(
            f"the sizes of an IP-Adapter for {type(pipe).__name__} are not known: load it in Python, "
            "and profile the pipe"
        )
    if getattr(pipe, "image_encoder", None) is None:
        part = part_named(_IMAGE_ENCODER)
        encoder = build_module(find_class(part.library, part.class_name), part.config, unet.dtype)
        pipe.register_modules(image_encoder=encoder)
    if getattr(pipe, "feature_extractor", None) is None:
        pipe.register_modules(feature_extractor=find_class("transformers", "CLIPImageProcessor")())
    states = [_ip_adapter(unet, pipe.image_encoder.config.projection_dim) for _ in range(count)]
    _told(
        pipe,
        "IP-Adapter",
        lambda: pipe.load_ip_adapter(
            states, subfolder=[None] * count, weight_name=[None] * count, image_encoder_folder=None
        ),
    )


def load_inversions(pipe: Any, inversions: Sequence[int]) -> None:
    """Load textual inversions of so many vectors each into the first text encoder.

    Raises:
        InputError: if the pipeline takes none.
    """
    if inversions and not hasattr(pipe, "load_textual_inversion"):
        raise InputError(f"{type(pipe).__name__} takes no textual inversion")
    for number, vectors in enumerate(inversions, 1):
        table = pipe.text_encoder.get_input_embeddings().weight
        learned = torch.zeros(vectors, table.shape[1], dtype=table.dtype)
        token = f"<inversion-{number}>"
        _told(pipe, "textual inversion", partial(pipe.load_textual_inversion, learned, token=token))


def _state_of(pipe: Any, lora: str) -> dict[str, torch.Tensor]:
    rank, _, targets = lora.partition(":")
    if not rank.isdecimal():
        if not Path(lora).is_file():
            raise InputError(f"--lora {lora!r} is neither a rank (16, or 16:to_q,to_k) nor a file")
        return _of_file(Path(lora))
    if int(rank) < 1:
        raise InputError(f"--lora {lora!r}: a rank is 1 or more")
    names = tuple(targets.split(",")) if targets else TARGETS
    state: dict[str, torch.Tensor] = {}
    for prefix in _DENOISERS:
        model = getattr(pipe, prefix, None)
        if model is not None:
            state.update(_of_rank(model, prefix, int(rank), names))
    if not state:
        raise InputError(
            f"--lora {lora!r}: no layer of the denoiser is called {' or '.join(names)}"
        )
    return state


def _of_file(file: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a safetensors file, by its header alone; single numbers are ones."""
    state = {}
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  # it is no mapping
                described = stored.get_slice(name)
                dtype = _DTYPES[described.get_dtype()]
                state[name] = torch.ones(described.get_shape(), dtype=dtype)
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(f"--lora {str(file)!r} is no safetensors file: {error}") from error
    return state


def _of_rank(
    model: Any, prefix: str, rank: int, names: tuple[str, ...]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and f".{name}".endswith(
            tuple(f".{one}" for one in names)
        ):
            key = f"{prefix}.{name}"
            yield f"{key}.lora_A.weight", torch.zeros(rank, module.in_features, dtype=model.dtype)
            yield f"{key}.lora_B.weight", torch.zeros(module.out_features, rank, dtype=model.dtype)


def _ip_adapter(unet: Any, width: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return the state dict of an IP-Adapter. Source: `_convert_ip_adapter_*` of diffusers 0.42, loaders/unet.py."""
    across = unet.config.cross_attention_dim
    projection = {
        "proj.weight": (_IP_TOKENS * across, width),
        "proj.bias": (_IP_TOKENS * across,),
        "norm.weight": (across,),
        "norm.bias": (across,),
    }
    crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    attentions = [unet.get_submodule(name.removesuffix(".processor")) for name in crossing]
    adapter = {
        f"{2 * index + 1}.to_{way}_ip.weight": (attention.to_k.out_features, across)
        for index, attention in enumerate(attentions)
        for way in ("k", "v")
    }
    return {
        part: {name: torch.zeros(shape, dtype=unet.dtype) for name, shape in shapes.items()}
        for part, shapes in (("image_proj", projection), ("ip_adapter", adapter))
    }


def _told(pipe: Any, what: str, load: Callable[[], Any]) -> None:
    """Call `load`; raise InputError with the library's own sentence if it refuses."""
    try:
        load()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        missing = missing_library(error)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = missing or (lines[0] if lines else type(error).__name__)
        raise InputError(f"{type(pipe).__name__} does not load the {what}: {reason}") from error
