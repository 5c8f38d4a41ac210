"""Makes `profiler/data/cudnn`: what cuDNN says of every distinct convolution that the catalogue's models run.

Usage: python benchmarks/cudnn_answers.py collect FILE   # the convolutions, one a line; goes on where it was cut off
       python benchmarks/cudnn_answers.py ask FILE       # an installed cuDNN's answers to them, into the packaged table
       python benchmarks/cudnn_answers.py check          # asks for everything in the table again, and compares
       python benchmarks/cudnn_answers.py rules          # what the rules for GPUs without answers say of all of them

Needs no GPU; `ask` and `check` need a cuDNN: pip install "vram-profiler[cudnn]", or NVIDIA's wheel in a folder that
$VRAM_CUDNN names. The models run at their usual size, whole and in tiles, with 1, 2, 4 and 8 images or 1 and 2 videos;
those of images also with 512 to 1536 pixels a side.
"""

from __future__ import annotations

import argparse
import inspect
import json
import lzma
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch

from profiler.atomic import replacing
from profiler.calibrating.operations import Operation, TensorLike, operations_of
from profiler.cudnn.convolution import Convolution
from profiler.cudnn.gpu_properties import kind_of, properties
from profiler.cudnn.installed import installed_cudnn
from profiler.cudnn.live import LiveCudnn, live_cudnn
from profiler.cudnn.rules import estimate
from profiler.cudnn.shipped import (
    CONVOLUTIONS,
    VERSION,
    folder_name,
    shipped_chain,
    shipped_lines,
)
from profiler.gpus.hardware import GpuSpec, gpu_spec, gpu_specs
from profiler.libraries.modes import Mode
from profiler.pipelines import catalogue
from profiler.sizing.scenario import Scenario
from profiler.virtual.convolutions import CUDNN, as_cudnn_takes_it, convolution_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "profiler" / "data" / "cudnn" / folder_name()
DTYPES = ("float16", "bfloat16", "float32")
GPU = "h100-sxm"
BATCHES = (1, 2, 4, 8)
VIDEOS = (1, 2)  # at a time
SIDES = (512, 768, 1024, 1536)


def scenarios(model: str) -> Iterator[tuple[str, Scenario]]:
    """Yield the calls of a model, with a name for each."""
    pipeline = getattr(diffusers, catalogue()[model].pipeline_class)
    makes_videos = "num_frames" in inspect.signature(pipeline.__call__).parameters
    for batch in VIDEOS if makes_videos else BATCHES:
        yield f"{batch} at a time", Scenario(model=model, gpu=GPU, batch=batch)
    tiled = Mode(name="resident", vae_tiling=True)
    yield "tiled", Scenario(model=model, gpu=GPU, mode=tiled)
    for side in () if makes_videos else SIDES:
        yield f"{side} pixels", Scenario(model=model, gpu=GPU, height=side, width=side)


def convolutions(operations: dict[str, Operation]) -> Iterator[str]:
    """Yield the texts of the convolutions among the operations that cuDNN serves."""
    for operation in operations.values():
        if operation.func is torch.ops.aten.convolution.default:
            args = tuple(_on_meta(arg) for arg in operation.args)
            output = operation.func(*args)
            found = as_cudnn_takes_it(args, output)
            if found is not None and convolution_backend(gpu_spec(GPU), args) == CUDNN:
                yield found.text()


def _on_meta(arg: Any) -> Any:
    if isinstance(arg, TensorLike):
        return torch.empty_strided(arg.shape, arg.stride, dtype=arg.dtype, device="meta")
    return arg


def collect(file: Path) -> None:
    """Write what each model runs to a file of JSON lines."""
    done = (
        {tuple(json.loads(line)[:2]) for line in file.read_text().splitlines()}
        if file.exists()
        else set()
    )
    with file.open("a") as out:
        for model in catalogue():
            for name, scenario in scenarios(model):
                if (model, name) in done:
                    continue
                try:
                    found = sorted(set(convolutions(operations_of(scenario, gpu_spec(GPU)))))
                except Exception as error:  # noqa: BLE001 - whatever a pipeline raises at a size
                    print(f"{model}, {name}: {type(error).__name__}: {error}", flush=True)
                    found = []
                out.write(json.dumps([model, name, found]) + "\n")
                out.flush()
                print(model, name, len(found), flush=True)


def asked_for(file: Path) -> list[str]:
    """Return the texts of the collected convolutions, in each of the three dtypes."""
    texts = {text for line in file.read_text().splitlines() for text in json.loads(line)[2]}
    found = {
        Convolution.parse(text)._replace(dtype=dtype).text() for text in texts for dtype in DTYPES
    }
    return sorted(found)


def chain_of(
    live: LiveCudnn, spec: GpuSpec, text: str, *, deterministic: bool = False
) -> tuple[int, ...]:
    """Return what cuDNN answers; empty where PyTorch does not ask it."""
    convolution, gpu = Convolution.parse(text), properties(spec)
    if gpu is None or (convolution.dtype == "bfloat16" and spec.compute_capability < (8, 0)):
        return ()
    found = live.workspaces(convolution, gpu, deterministic=deterministic, tf32=True)
    if found is None:
        raise SystemExit(f"cuDNN has no answer for {text} on {spec.key}, or its process ended")
    return tuple(found)


def ask(file: Path, live: LiveCudnn) -> None:
    """Write the table of the installed version."""
    texts = asked_for(file)
    for kind, spec in kinds().items():
        chains = [chain_of(live, spec, text) for text in texts]
        write(kind, [" ".join(map(str, chain)) for chain in chains])
        print(kind, sum(map(bool, chains)), flush=True)
    write(CONVOLUTIONS, texts)


def write(name: str, lines: list[str]) -> None:
    """Write one file of the table."""
    DATA.mkdir(parents=True, exist_ok=True)
    packed = lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)
    with replacing(DATA / f"{name}.txt.xz") as temporary:
        temporary.write_bytes(packed)


def check(live: LiveCudnn) -> None:
    """Ask for everything in the table again, and with deterministic algorithms, which it holds for as well."""
    asked = wrong = 0
    for kind, spec in kinds().items():
        for text in shipped_lines(CONVOLUTIONS):
            chain = shipped_chain(kind, text) or ()
            for deterministic in (False, True):
                asked += bool(chain)
                wrong += chain_of(live, spec, text, deterministic=deterministic) != chain
        print(f"{kind}: {asked:,} asked so far, {wrong:,} otherwise", flush=True)
    raise SystemExit(4 if wrong else 0)


def rules() -> None:
    """Print, for each kind of GPU, how near the rules come to the answers, and how many lie within their bounds."""
    print(f"{'':8}{'answers':>9}{'within 1 %':>12}{'in bounds':>11}   of those above 200 MB")
    for kind, spec in kinds().items():
        found = []
        for text in shipped_lines(CONVOLUTIONS):
            taken = (shipped_chain(kind, text) or (0,))[0]
            estimated = estimate(spec.compute_capability, Convolution.parse(text))
            if max(taken, estimated.nbytes) > 200e6:
                found.append((taken, estimated))
        near = sum(abs(taken - one.nbytes) <= 0.01 * taken for taken, one in found)
        inside = sum(one.least * 0.99 <= taken <= one.most for taken, one in found)
        print(f"{kind:8}{len(found):9,}{near / len(found):12.1%}{inside / len(found):11.1%}")


def kinds() -> dict[str, GpuSpec]:
    """Return a GPU for each kind that has answers of its own: the smallest one."""
    known = [spec for spec in gpu_specs() if properties(spec) is not None]
    return {kind_of(spec): spec for spec in reversed(known)}


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("collect", "ask", "check", "rules"))
    parser.add_argument("file", nargs="?", type=Path)
    options = parser.parse_args()
    if options.command == "collect":
        collect(options.file)
        return
    if options.command == "rules":
        rules()
        return
    live = live_cudnn()
    if live is None or installed_cudnn().version != VERSION:
        raise SystemExit("cuDNN {}.{}.{} is not installed here".format(*VERSION))
    if options.command == "ask":
        ask(options.file, live)
    else:
        check(live)


if __name__ == "__main__":
    main()
