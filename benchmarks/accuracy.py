"""Predicts every published peak that can be run, and prints the error of each.

Usage: python benchmarks/accuracy.py [--published ../shared/published/peaks.csv] [--only PART_OF_AN_ID] [--json]
                                     [--old-diffusers FOLDER]

The table holds peaks that other people measured: pipeline, dtype, size, mode, GPU, and the figure that torch
gave them. Each row runs on the virtual GPU of the same name; the number of denoise steps is cut to two, since a
peak does not depend on it. What cannot be run is named with the reason.

CogVideoX's VAE changed since its rows were measured, so they are left out of the summary, unless `--old-diffusers`
names a folder with the diffusers of that time: `pip install --no-deps --target FOLDER diffusers==0.30.3`. Then it runs.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import inspect
import json
import statistics
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import diffusers
import torch
from diffusers.hooks import apply_group_offloading

from profiler.errors import ProfilerError
from profiler.libraries.modes import Mode
from profiler.pipelines import catalogue, load_pipeline
from profiler.tracing import profile_pipeline, trace
from profiler.units import GIB
from profiler.virtual import VirtualGPU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.profile import Profile

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
CARDS = {"H100": "h100", "A100 80GB": "a100-80gb", "A100 40GB": "a100-40gb", "L40": "l40"}
MODES = {
    "full GPU": "resident",
    "model_cpu_offload": "model",
    "sequential_cpu_offload": "sequential",
}
CHANGED_CODE = "the code of CogVideoX's VAE changed since"
OLD_CODE = "with the VAE of diffusers 0.30.3"
# Rows that something else explains, by the ids. docs/accuracy.md argues each.
EXPLAINED = {
    "blog-sdxl-05": "the notebook's compiled UNet of the cell before was still on the GPU: 4.78 GiB",
    "blog-sdxl-06": "the notebook's compiled UNet of the cell before was still on the GPU: 4.78 GiB",
    "torchao-cogvideox-text-5": "its source gives 3.1 GB for the same decode elsewhere",
}


class Result(NamedTuple):
    """One row, predicted or not."""

    id: str
    gpu: str
    mode: str
    published_gib: float
    predicted_gib: float | None
    band: float  # by how much the prediction says it may be too low, as a fraction
    band_below: float  # and too high
    note: str
    counts: bool  # in the summary

    @property
    def error(self) -> float | None:
        """Predicted against published, as a fraction."""
        return None if self.predicted_gib is None else self.predicted_gib / self.published_gib - 1

    @property
    def inside_band(self) -> bool:
        """Whether the published figure lies within the prediction's own band."""
        if self.predicted_gib is None:
            return False
        ratio = self.published_gib / self.predicted_gib
        return 1 - self.band_below <= ratio <= 1 + self.band


class CannotRunError(Exception):
    """Why a row cannot be run."""


def predict(row: dict[str, str], folder: Path, old: Path | None) -> tuple[float, float, float]:
    """Return the peak of one row in GiB, and its error band above and below, as fractions.

    Args:
        row: of the table.
        folder: with the models' configurations.
        old: where CogVideoX's VAE comes from, if not from the diffusers at hand.

    Raises:
        CannotRunError: with the reason.
    """
    gpu = next((key for name, key in CARDS.items() if row["gpu"].startswith(name)), None)
    if gpu is None:
        raise CannotRunError(f"no GPU called {row['gpu']!r}")
    if row["quantization"] != "none":
        raise CannotRunError("which components are quantised, the row does not say")
    with VirtualGPU(gpu):
        pipe = load_pipeline(_model(row["config_dir"], folder), dtype=DTYPES[row["dtype"]])
        if "fused QKV" in row["mode"]:
            pipe.transformer.fuse_qkv_projections()
        if old is not None and row["config_dir"].startswith("cogvideox"):
            pipe.vae = _old_vae(pipe.vae, old)
        _as_loaded(pipe, row)
        alone = row["scope"].startswith("one forward")
        profile = _denoiser_alone(pipe, row) if alone else _whole_call(pipe, row)
    if not profile.complete:
        raise CannotRunError(profile.error)
    reserved = row["metric"] == "max_memory_reserved"
    totals = profile.totals
    peak_bytes = totals.peak_reserved_bytes if reserved else totals.peak_allocated_bytes
    return peak_bytes / GIB, profile.error_band, profile.error_band_below


def _old_vae(vae: Any, old: Path) -> Any:
    """Return `vae` as the diffusers in `old` has it, of the same configuration and dtype."""
    name = "diffusers.models.autoencoders.autoencoder_kl_cogvideox_old"
    file = old / "diffusers/models/autoencoders/autoencoder_kl_cogvideox.py"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise CannotRunError(f"no diffusers in {old}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known = inspect.signature(module.AutoencoderKLCogVideoX).parameters
    config = {key: value for key, value in vae.config.items() if key in known}
    return module.AutoencoderKLCogVideoX(**config).to(vae.dtype).eval()


def _model(name: str, folder: Path) -> str:
    if name in catalogue():
        return name
    if not (folder / name).is_dir():
        raise CannotRunError(f"no configuration of {name}")
    return str(folder / name)


def _as_loaded(pipe: Any, row: dict[str, str]) -> None:
    """Cast everything, where the published memory after loading says that the script did.

    `from_pretrained` keeps a part of T5 in single precision when it loads half precision.
    """
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    nbytes = sum(tensor.nbytes for part in modules for tensor in part.parameters())
    if row["mem_after_load"] and nbytes / GIB > 1.005 * float(row["mem_after_load"]) > 0:
        for part in modules:
            part.to(getattr(torch, DTYPES[row["dtype"]]))


def _whole_call(pipe: Any, row: dict[str, str]) -> Profile:
    mode = Mode(name=_mode_name(row["mode"]), vae_tiling="vae_tiling" in row["mode"])
    if "non-SDPA" in row["mode"]:
        pipe.unet.set_default_attn_processor()
        pipe.vae.set_default_attn_processor()
    call: dict[str, Any] = {"height": int(row["height"]), "width": int(row["width"])}
    if row["frames"]:
        call["num_frames"] = int(row["frames"])
    if int(row["batch"]) > 1:
        call["num_images_per_prompt"] = int(row["batch"])
    return profile_pipeline(pipe, mode=mode, num_inference_steps=min(int(row["steps"]), 2), **call)


def _mode_name(text: str) -> str:
    try:
        return MODES[text.partition(";")[0].strip()]
    except KeyError:
        raise CannotRunError(f"mode {text!r} is not known here") from None


def _denoiser_alone(pipe: Any, row: dict[str, str]) -> Profile:
    """Profile the second forward of FLUX's transformer, alone on the GPU."""
    if not row["pipeline_class"].startswith("FluxTransformer2DModel"):
        raise CannotRunError(f"no inputs for {row['pipeline_class']} alone")
    transformer = pipe.transformer
    if row["mode"].startswith("group_offload leaf_level"):
        apply_group_offloading(
            transformer,
            onload_device=torch.device("cuda"),
            offload_type="leaf_level",
            use_stream=True,
            non_blocking=True,
        )
    else:
        transformer.to("cuda")
    inputs = _flux_inputs(int(row["height"]), int(row["width"]), DTYPES[row["dtype"]])
    transformer(**inputs)
    with trace(transformer) as tracing:
        transformer(**inputs)
    return tracing.profile


def _flux_inputs(height: int, width: int, dtype: str) -> dict[str, Any]:
    options = {"device": "cuda", "dtype": getattr(torch, dtype)}
    tokens = (height // 16) * (width // 16)
    return {
        "hidden_states": torch.randn(1, tokens, 64, **options),
        "encoder_hidden_states": torch.randn(1, 512, 4096, **options),
        "pooled_projections": torch.randn(1, 768, **options),
        "timestep": torch.ones(1, **options),
        "img_ids": torch.randn(tokens, 3, **options),
        "txt_ids": torch.randn(512, 3, **options),
        "guidance": torch.ones(1, **options),
    }


def results(published: Path, only: str, old: Path | None) -> Iterator[Result]:
    """Yield the result of each row of the table."""
    with published.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if only in row["id"]]
    for row in rows:
        value = float(row["value"])
        note, counts = _standing(row, old)
        predicted: float | None = None
        above = below = 0.0
        try:
            folder = published.parent.parent / "model_configs"
            predicted, above, below = predict(row, folder, old)
        except (CannotRunError, ProfilerError, RuntimeError) as reason:
            note, counts = f"not run: {reason}", False
        yield Result(
            row["id"], row["gpu"], row["mode"], value, predicted, above, below, note, counts
        )


def _standing(row: dict[str, str], old: Path | None) -> tuple[str, bool]:
    """Return a note on a row, and whether it counts in the summary."""
    if row["id"] in EXPLAINED:
        return EXPLAINED[row["id"]], False
    if row["config_dir"].startswith("cogvideox"):
        return (CHANGED_CODE, False) if old is None else (OLD_CODE, True)
    return "", True


def main() -> None:
    """Print the table and its median and worst error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, default=Path("../shared/published/peaks.csv"))
    parser.add_argument("--only", default="", help="rows whose id contains this")
    parser.add_argument("--old-diffusers", type=Path, help="folder with diffusers 0.30.3")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not options.published.is_file():
        parser.error(
            f"no table of published peaks at {options.published}: name one with --published"
        )
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    found = list(results(options.published, options.only, options.old_diffusers))
    counted = [result for result in found if result.counts]
    errors = [abs(result.error) for result in counted if result.error is not None]
    summary = {
        "rows": len(found),
        "run": sum(result.error is not None for result in found),
        "counted": len(counted),
        "inside_band": sum(result.inside_band for result in counted),
        "median_error": statistics.median(errors) if errors else None,
        "worst_error": max(errors, default=None),
    }
    if options.json:
        rows = [{**result._asdict(), "error": result.error} for result in found]
        print(json.dumps({**summary, "results": rows}, indent=2))
        return
    for result in found:
        predicted = "-" if result.predicted_gib is None else f"{result.predicted_gib:8.3f}"
        error = "" if result.error is None else f"{result.error:+7.1%}"
        band = f"+{result.band:.1%} -{result.band_below:.1%}"
        where = "" if result.inside_band else "outside"
        figures = f"{result.published_gib:8.3f} {predicted:>8} {error:>8} {band:14} {where:8}"
        print(f"{result.id:26} {figures}  {result.mode[:44]:44} {result.note}")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
