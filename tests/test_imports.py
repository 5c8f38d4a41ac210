"""Who may import whom, and what importing costs."""

import subprocess
import sys

import pytest

import profiler


def _modules_after(code: str) -> set[str]:
    script = f"import sys; {code}; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_imports_point_down_only():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize(
    "code",
    [
        "import profiler",
        "from profiler import Profile, InputError, gpu_spec; gpu_spec('h100')",
        "import profiler.cli.app",
        "from profiler import catalogue; catalogue()",
    ],
)
def test_heavy_libraries_load_on_first_use_only(code):
    heavy = {"torch", "diffusers", "transformers", "pandas", "pyarrow", "matplotlib"}
    assert not heavy & _modules_after(code)


def test_reports_load_neither_torch_nor_the_tracer():
    loaded = _modules_after("import reports; reports.write_html")
    assert not {"torch", "diffusers", "profiler.tracing", "profiler.virtual"} & loaded


@pytest.mark.parametrize("name", profiler.__all__)
def test_every_public_name_loads(name):
    assert getattr(profiler, name) is not None


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        profiler.nonsense  # noqa: B018


def test_public_names_are_listed():
    assert set(profiler.__all__) <= set(dir(profiler))


@pytest.mark.parametrize(
    ("former", "now"), [("Card", "GpuSpec"), ("card", "gpu_spec"), ("cards", "gpu_specs")]
)
def test_a_former_name_warns_and_gives_what_it_is_called_now(former, now):
    with pytest.warns(DeprecationWarning, match=f"profiler.{former} is now profiler.{now};"):
        assert getattr(profiler, former) is getattr(profiler, now)
