"""Plans for `mps` and `xpu`: what those can do passes the checks, the rest is refused before anything changes.

There is no such device here: torch is told that there is one where a check asks it.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pipeline_states import state_of
from tiny_pipelines import Act, Script, build

from profiler.applying import apply
from profiler.applying.checks import check
from profiler.errors import InputError
from profiler.libraries import hooks as private
from profiler.placements.grouped import Grouped
from profiler.placements.placement import LEVERS
from profiler.placements.streamed import Streamed
from profiler.placements.table import PLACEMENTS, placement_record
from profiler.planning import plan_offload
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

SCRIPT = Script(
    {"a": (1000,), "b": (4000,)}, (Act("run", "a", 100, 100), Act("run", "b", 3000, 100))
)


@pytest.fixture(scope="module")
def plain():
    """Return a plan that keeps `a` and lets model offload have `b`."""
    with VirtualGPU(capacity="2GiB"):
        pipe = build(SCRIPT)
        pipe.enable_model_cpu_offload()
        with trace(pipe) as t:
            pipe()
    plan = plan_offload(t.profile, 2 << 30, levers="none")
    return replace(
        plan,
        sequence=("b",),
        excluded=("a",),
        sticky=True,
        placements={"a": "resident", "b": "offload"},
        swaps={},
        inside={},
    )


@pytest.fixture
def there(monkeypatch):
    """Let torch have the devices of this kind, with streams or without."""

    def let(kind):
        module = SimpleNamespace(is_available=lambda: True)
        if kind == "xpu":
            module.Stream = torch.xpu.Stream
        real = torch.get_device_module
        monkeypatch.setattr(
            torch,
            "get_device_module",
            lambda device=None: module if device == kind else real(device),
        )

    return let


@pytest.mark.parametrize("kind", ["mps", "xpu", "meta"])
def test_a_device_that_is_not_here_is_refused_before_anything_changes(plain, kind):
    pipe = build(SCRIPT)
    before = state_of(pipe)
    with pytest.raises(InputError, match=f"torch sees no {kind} device here"):
        apply(plain, pipe, device=kind)
    assert state_of(pipe) == before


@pytest.mark.parametrize("device", ["mps", "mps:0", "xpu", torch.device("xpu", 0)])
def test_model_offload_and_what_stays_pass_on_every_device(plain, there, device):
    there(torch.device(device).type)
    check(plain, build(SCRIPT), gpu_id=None, device=device, disk_folder=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"swaps": {"b": "pinned"}},
        {"inside": {"b": placement_record(Grouped(stream=True))}},
        {"inside": {"b": placement_record(Grouped(blocks=1, stream=True, low_cpu_mem=True))}},
    ],
    ids=["pinned", "group on a stream", "pinned on the fly"],
)
def test_page_locked_memory_and_streams_are_refused_on_mps_alone(
    plain, there, monkeypatch, changes
):
    monkeypatch.setattr("profiler.applying.checks.violations", lambda *_, **__: [])
    pipe = build(SCRIPT)
    plan, before = replace(plain, **changes), state_of(pipe)
    there("mps")
    words = (
        "mps has neither page-locked memory nor streams of copies, and the plan places b by them"
    )
    with pytest.raises(InputError, match=words):
        apply(plan, pipe, device="mps")
    assert state_of(pipe) == before
    there("xpu")
    check(plan, pipe, gpu_id=None, device="xpu", disk_folder=None)


def test_the_accelerator_that_torch_finds_is_checked_too(plain, there, monkeypatch):
    there("mps")
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("mps")
    )
    check(plain, build(SCRIPT), gpu_id=None, device=None, disk_folder=None)
    with pytest.raises(InputError, match="levers='sequential', or 'none'"):
        apply(replace(plain, swaps={"b": "pinned"}), build(SCRIPT))


def test_which_placements_copy_on_a_stream():
    """Every kind says so; of the levers, 'sequential' uses none that does."""
    assert [Streamed(1).on_stream, Grouped().on_stream, Grouped(stream=True).on_stream] == [
        True,
        False,
        True,
    ]
    assert not PLACEMENTS["sequential"]().on_stream
    assert "sequential" in LEVERS


def test_the_device_becomes_what_diffusers_would_make_of_it():
    pipe = build(SCRIPT)
    named = [private.offload_device(pipe, None, one) for one in ("mps", "xpu", "xpu:1")]
    assert named == [torch.device("mps:0"), torch.device("xpu:0"), torch.device("xpu:1")]
