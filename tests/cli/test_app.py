"""The command on a pipeline so small that every subcommand runs in a blink."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

import profiler
from profiler.cli.app import app
from profiler.record.profile import Profile

# The keys that scripts rely on; new ones may come, none of these may go.
STABLE_KEYS = {
    "schema_version",
    "source",
    "gpu",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "device_bytes",
    "host_pinned_bytes",
    "h2d_bytes",
    "d2h_bytes",
    "h2d_weight_bytes",
    "d2h_weight_bytes",
    "seconds",
    "error_band",
    "error_band_below",
    "components",
    "phases",
    "steps",
    "assumptions",
    "findings",
}
SMALL = ("../tiny", "--steps", "2", "--height", "64", "--width", "64")


@pytest.fixture
def vram(tmp_path, monkeypatch):
    """Return a function that runs the command in a folder of its own, and must succeed."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_tiny_pipeline(tmp_path / "tiny")
    monkeypatch.chdir(folder)

    def run(*args, code=0):
        done = CliRunner().invoke(app, list(args), prog_name="vram")
        assert done.exit_code == code, done.output
        return done

    return run


def test_json_is_one_object_with_the_stable_keys_and_nothing_else(vram):
    done = vram("profile", *SMALL, "--json")
    summary = json.loads(done.stdout)
    assert set(summary) >= STABLE_KEYS
    assert {one["name"] for one in summary["components"]} == {"text_encoder", "unet", "vae"}
    assert {one["name"] for one in summary["phases"]} <= {"place", "encode", "denoise", "decode"}
    assert len(summary["steps"]) == 2
    assert summary["source"] == "predicted"
    assert done.stderr == ""


def test_options_reach_the_call_and_the_gpu(vram):
    options = ["--gpu", "l40", "--batch", "3", "--set", "guidance_scale=1.5", "--mode", "resident"]
    summary = json.loads(vram("profile", *SMALL, *options, "--dtype", "float16", "--json").stdout)
    assert summary["gpu"]["name"] == "NVIDIA L40"
    assert (summary["mode"], summary["dtype"]) == ("resident", "float16")
    assert summary["call"] | {"prompt": ""} == {
        "height": 64,
        "width": 64,
        "num_inference_steps": 2,
        "num_images_per_prompt": 3,
        "guidance_scale": 1.5,
        "prompt": "",
    }


def test_height_alone_leaves_the_width_at_its_default(vram):
    """Stable Diffusion's pipeline (diffusers 0.42) ignores a height without a width."""
    summary = json.loads(
        vram("profile", "../tiny", "--steps", "1", "--height", "64", "--json").stdout
    )
    # 16 latent pixels x 2, the tiny VAE's factor
    assert (summary["call"]["height"], summary["call"]["width"]) == (64, 32)


@pytest.mark.parametrize(
    "options",
    [
        ["--mode", "resident"],
        ["--mode", "model"],
        ["--mode", "sequential"],
        ["--mode", "group-block", "--blocks", "1"],
        ["--mode", "group-leaf"],
        ["--mode", "group-leaf", "--stream"],
        ["--mode", "group-leaf", "--stream", "--record-stream"],
        ["--mode", "model", "--vae-tiling", "--vae-slicing"],
        ["--mode", "model", "--layerwise-casting"],
    ],
    ids=" ".join,
)
def test_every_mode_runs(vram, options):
    summary = json.loads(vram("profile", *SMALL, *options, "--dtype", "float16", "--json").stdout)
    assert summary["mode"] == options[1]
    assert summary["complete"]


def test_files_are_written_where_asked_and_nowhere_else(vram, tmp_path):
    vram("profile", *SMALL, "-o", "a.parquet", "--html", "a.html", "--png", "a.png")
    written = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert written == ["a.html", "a.parquet", "a.png"]
    assert Profile.load("a.parquet").model == "../tiny"


def test_profile_that_does_not_fit_exits_with_3_and_says_so(vram):
    done = vram("profile", "sdxl-base", "--steps", "1", "--capacity", "2GiB", code=3)
    assert "not fit" in done.stdout


def test_plan_from_a_saved_profile_equals_the_plan_from_its_model(vram):
    vram("profile", *SMALL, "-o", "p.parquet")
    budget = ("--budget", "2GiB", "--json")
    from_profile = json.loads(vram("plan", "p.parquet", *budget).stdout)
    from_model = json.loads(vram("plan", *SMALL, *budget).stdout)
    assert from_profile == from_model
    assert from_model["plan"]["budget_bytes"] == 2 * 2**30


def test_options_beside_a_saved_profile_are_refused(vram):
    vram("profile", *SMALL, "-o", "p.parquet")
    done = vram("plan", "p.parquet", "--budget", "2GiB", "--steps", "9", code=2)
    assert "drop the other options" in done.stderr


def test_plan_that_cannot_exist_exits_with_3_and_says_what_is_missing(vram):
    done = vram("plan", "sdxl-base", "--steps", "1", "--budget", "2GiB", code=3)
    assert "does not fit 2.00 GiB" in done.stderr
    assert "the smallest budget is" in done.stderr


def test_plan_beyond_the_hosts_memory_exits_with_3(vram):
    done = vram("plan", *SMALL, "--budget", "2GiB", "--ram", "1KiB", code=3)
    assert "does not fit 1.0 KiB of host memory under any plan: the least is" in done.stderr


def test_weights_that_cannot_be_loaded_exit_with_3(vram, tmp_path):
    """The folder's denoiser is stored in single precision, 8 GiB of it, and cast on loading: 8 + 4 GiB at once."""
    plain = json.loads(vram("profile", *SMALL, "--dtype", "float16", "--json").stdout)
    weights_bytes = sum(part["bytes"] for part in plain["components"])
    # Without files they are taken to be stored as they are loaded, all but the buffers that no file holds.
    assert 0.999 * weights_bytes < plain["loading_host_peak_bytes"] <= weights_bytes
    tensor = {"dtype": "F32", "shape": [1 << 31], "data_offsets": [0, 8 << 30]}
    header = json.dumps({"weight": tensor}).encode()
    file = tmp_path / "tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)

    stored = json.loads(vram("profile", *SMALL, "--dtype", "float16", "--json").stdout)
    options = ("--dtype", "float16", "--budget", "2GiB", "--ram", "8GiB")
    done = vram("plan", *SMALL, *options, code=3)

    assert round(stored["loading_host_peak_bytes"] / 2**30, 1) == 12.0
    assert done.stderr.startswith("vram: loading the weights takes 12.0")


def test_code_of_a_plan_is_python_that_compiles(vram):
    compile(vram("plan", *SMALL, "--budget", "2GiB", "--code").stdout, "plan", "exec")


def test_plan_is_verified_under_its_budget(vram):
    vram("plan", *SMALL, "--budget", "2GiB", "-o", "plan.json")
    done = vram("verify", "plan.json", "--json")
    assert json.loads(done.stdout)["held"] is True


def test_report_is_written_from_saved_profiles(vram, tmp_path):
    vram("profile", *SMALL, "-o", "p.parquet")
    vram("plan", "p.parquet", "--budget", "2GiB", "-o", "plan.json")
    done = vram(
        "report", "p.parquet", "-o", "r.html", "--plan", "plan.json", "--png", "r.png", "--json"
    )
    assert json.loads(done.stdout)["written"] == ["r.html", "r.png"]
    assert "<html" in (tmp_path / "here" / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("what", "name"), [("models", "sdxl-base"), ("gpus", "rtx-4090"), ("plans", "group-leaf")]
)
def test_list_names_what_the_options_take(vram, what, name):
    assert name in vram("list", what).stdout
    rows = json.loads(vram("list", what, "--json").stdout)[what]
    assert name in {next(iter(row.values())) for row in rows}


def test_figures_alone_load_no_tables_and_no_pictures(vram):
    """Half the cold start would be imports that `--json` has no use for."""
    script = (
        "import sys; from profiler.cli.app import app;"
        f"app(['profile', *{SMALL}, '--json'], standalone_mode=False);"
        "print(sorted({'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"  # torchao, where it is installed, has its own lines


def test_version_is_the_packages(vram):
    assert vram("--version").stdout == f"vram {profiler.__version__}\n"


@pytest.mark.parametrize("command", ["demo", "list", "profile", "plan", "verify", "report"])
def test_help_has_an_example(vram, command):
    assert f"Example: vram {command}" in vram(command, "--help").stdout


def gpu_line(done):
    return next(line for line in done.stdout.splitlines() if line.strip().startswith("gpu"))


def test_the_gpu_of_a_plan_is_the_one_that_was_named_or_is_said_to_be_the_default(vram):
    assert "RTX 4060, 7.62 GiB (the default" in gpu_line(vram("plan", *SMALL, "--budget", "2GiB"))
    named = vram("plan", *SMALL, "--budget", "rtx-3060")
    assert gpu_line(named).strip().endswith("NVIDIA GeForce RTX 3060, 11.73 GiB")
    assert "context and seconds" not in named.stdout
    both = vram("plan", *SMALL, "--budget", "rtx-3060", "--gpu", "rtx-4090")
    assert "NVIDIA GeForce RTX 4090, " in gpu_line(both)
    assert "context and seconds are those of NVIDIA GeForce RTX 4090" in both.stdout
    above = vram("plan", *SMALL, "--budget", "16GiB", "--gpu", "rtx-4060")
    assert "the budget of 16.00 GiB is more than it has" in gpu_line(above)
    vram("profile", *SMALL, "--gpu", "rtx-4060", "-o", "p.parquet")
    saved = vram("plan", "p.parquet", "--budget", "rtx-3060")
    assert "context and seconds are those of NVIDIA GeForce RTX 4060" in saved.stdout


def test_the_default_gpu_is_named_in_help_and_report(vram):
    assert "rtx-4060" in vram("profile", "--help").stdout
    assert "the default GPU since none was named" in vram("profile", *SMALL).stdout
