"""Fixtures of every test: torch, accelerate and diffusers are afterwards as they were before."""

from __future__ import annotations

import gc
import signal

import pytest
from left_behind import changes, snapshot

# The heap is large and lives as long as the process: looking through it again and again took an eighth of the time.
gc.set_threshold(100_000, 50, 1000)


@pytest.fixture(autouse=True)
def _no_calibration_of_this_machine(monkeypatch):
    """Predictions are the same whatever the developer measured on a GPU of their own, or installed."""
    monkeypatch.setenv("VRAM_CALIBRATION", "")
    monkeypatch.setenv("VRAM_CUDNN", "")


@pytest.fixture(autouse=True)
def _libraries_are_left_as_they_were():
    before = snapshot()
    yield
    changed = changes(before, snapshot())
    assert not changed, f"left behind by this test: {changed}"


@pytest.fixture
def one_thread():
    """What is tiny and real computes fastest on one thread, above all beside other tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupts(request):
    """How many lines of each action are interrupted; 0 for every one."""
    return request.config.getoption("--interrupts")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add how expected outputs change (review the diff), how many random cases are run, how much is interrupted."""
    parser.addoption("--update-goldens", action="store_true", help="write what is printed now")
    parser.addoption("--nightly", action="store_true", help="run what takes long, too")
    parser.addoption("--plan-cases", type=int, default=12, help="random plans to run to capacity")
    parser.addoption(
        "--search-cases", type=int, default=0, help="searches of full size, beside CP-SAT"
    )
    parser.addoption(
        "--interrupts",
        type=int,
        default=40,
        help="lines of each action to interrupt; 0 for every one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `nightly` without `--nightly`, and skip those marked `gpu` if torch sees no GPU."""
    if not config.getoption("--nightly"):
        late = {item for item in items if item.get_closest_marker("nightly")}
        items[:] = [item for item in items if item not in late]
        config.hook.pytest_deselected(items=list(late))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
