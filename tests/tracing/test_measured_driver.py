"""What the driver says of a GPU while it is traced: recorded, told, and acted on. The driver's library is scripted."""

import os
from collections.abc import Iterator
from itertools import chain, cycle, repeat
from types import SimpleNamespace

import pynvml
import pytest
from gpu_worlds import measured_reader, traced_as

from profiler.libraries.modes import Mode
from profiler.record.profile import GpuState, Profile
from profiler.sizing import doctor
from profiler.units import GIB, MIB


@pytest.fixture
def driver(monkeypatch):
    """Return a function that lets the driver answer so; an iterator is one answer after the other."""

    def put(**answers):
        for name, value in answers.items():

            def answer(*_, value=value):
                one = next(value) if isinstance(value, Iterator) else value
                if isinstance(one, Exception):
                    raise one
                return one

            monkeypatch.setattr(pynvml, name, answer)

    return put


def counted(received, sent):
    """Return what the driver's counters of PCIe bytes show."""
    return [
        SimpleNamespace(
            nvmlReturn=pynvml.NVML_SUCCESS,
            valueType=pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
            value=SimpleNamespace(ullVal=count),
        )
        for count in (received, sent)
    ]


def running(**bytes_by_pid):
    return [SimpleNamespace(pid=int(pid[1:]), usedGpuMemory=n) for pid, n in bytes_by_pid.items()]


@pytest.fixture
def awake(driver):
    """A GPU that wakes up: idle at first, then at work on fewer lanes than it has, and too hot."""
    ours = {f"p{os.getpid()}": 3 * GIB}
    asked = cycle([4, 1, 3, 5, 2])  # GiB in use, whenever it is asked
    at_work = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonSwThermalSlowdown
    driver(
        nvmlInit=None,
        nvmlSystemGetDriverVersion="610.1",
        nvmlDeviceGetHandleByIndex="handle",
        nvmlDeviceGetMemoryInfo=(
            SimpleNamespace(total=24 * GIB, free=(24 - used) * GIB) for used in asked
        ),
        nvmlDeviceGetComputeRunningProcesses=running(p1=GIB, **ours),
        nvmlDeviceGetGraphicsRunningProcesses=running(p2=256 * MIB, p1=GIB),
        nvmlDeviceGetCurrPcieLinkGeneration=chain([1], repeat(4)),
        nvmlDeviceGetCurrPcieLinkWidth=8,
        nvmlDeviceGetMaxPcieLinkGeneration=4,
        nvmlDeviceGetMaxPcieLinkWidth=16,
        nvmlDeviceGetCurrentClocksEventReasons=chain(
            [pynvml.nvmlClocksEventReasonGpuIdle], repeat(at_work)
        ),
        nvmlDeviceGetFieldValues=iter([counted(10 * MIB, MIB), counted(14 * MIB, 3 * MIB)]),
    )


def test_a_trace_keeps_what_the_driver_said(awake, tmp_path):
    """In use at most 5 GiB; another process has 1 GiB, counted once, and a third one a quarter."""
    profile = traced_as(measured_reader, "flux", Mode(name="model"), calls=1, steps=1)
    assert profile.card_state == GpuState(
        readings=profile.card_state.readings,
        used_bytes=5 * GIB,
        others_bytes=GIB + 256 * MIB,
        link_generation=4,
        link_width=8,
        most_link_generation=4,
        most_link_width=16,
        received_bytes=4 * MIB,
        sent_bytes=2 * MIB,
        held_back_by=("power limit", "temperature"),
    )
    assert 3 <= profile.card_state.readings <= 10
    profile.save(tmp_path / "p.parquet")
    loaded = Profile.load(tmp_path / "p.parquet")
    assert loaded.card_state == profile.card_state
    assert loaded.summary()["card_state"]["held_back_by"] == ["power limit", "temperature"]


def test_a_narrow_link_and_a_hot_gpu_are_findings(awake):
    """Half of the lanes: half of the seconds that the moves took would be saved."""
    profile = traced_as(measured_reader, "flux", Mode(name="model"), calls=1, steps=1)
    found = {one.kind: one for one in profile.findings}
    assert found["slow_link"].title == "The link ran as PCIe 4 x8, and could as PCIe 4 x16"
    moves = [event for event in profile.events if event.kind in ("onload", "offload")]
    assert found["slow_link"].bytes == sum(event.bytes for event in moves)
    assert found["slow_link"].seconds == pytest.approx(sum(e.seconds for e in moves) / 2)
    assert found["held_back"].title == "The GPU ran below its clocks: temperature"


def test_a_full_link_and_a_power_limit_are_none(awake, driver):
    driver(
        nvmlDeviceGetCurrPcieLinkWidth=16,
        nvmlDeviceGetCurrentClocksEventReasons=pynvml.nvmlClocksEventReasonSwPowerCap,
    )
    profile = traced_as(measured_reader, "flux", Mode(name="model"), calls=1, steps=1)
    kinds = {one.kind for one in profile.findings}
    assert not kinds & {"slow_link", "held_back"}


def test_what_the_driver_does_not_tell_is_left_open(awake, driver):
    """An older driver counts no bytes and knows no link; a container hides what other processes hold."""
    unknown = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    driver(
        nvmlDeviceGetFieldValues=unknown,
        nvmlDeviceGetCurrPcieLinkGeneration=unknown,
        nvmlDeviceGetComputeRunningProcesses=running(p3=None),
    )
    profile = traced_as(measured_reader, "flux", Mode(name="model"), calls=1, steps=1)
    state = profile.card_state
    assert (state.received_bytes, state.link_generation, state.others_bytes) == (None, None, None)
    assert (state.used_bytes, state.link_width) == (5 * GIB, 8)
    assert "slow_link" not in {one.kind for one in profile.findings}


def test_the_doctor_names_the_lanes(awake, driver):
    (link,) = [check for check in doctor.examine() if check.name == "link"]
    assert (link.status, link.told) == (doctor.NOTE, "PCIe 4 x8, and GPU and slot have x16")
    driver(nvmlDeviceGetCurrPcieLinkWidth=16)
    (link,) = [check for check in doctor.examine() if check.name == "link"]
    assert (link.status, link.told) == (doctor.OK, "PCIe 4 x16")
