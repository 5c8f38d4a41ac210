"""The modes: what is refused before diffusers would refuse or ignore it, and which calls a mode makes."""

import pytest

from profiler.errors import InputError
from profiler.libraries.modes import MODES, Mode
from profiler.libraries.placing import enable_mode


class Pipe:
    """Writes down what is called on it."""

    def __init__(self):
        self.calls = []

    def to(self, device):
        self.calls.append(("to", device))

    def enable_model_cpu_offload(self, *, device):
        self.calls.append(("model", device))

    def enable_sequential_cpu_offload(self, *, device):
        self.calls.append(("sequential", device))

    def enable_group_offload(self, **options):
        self.calls.append(("group", options["offload_type"], options["num_blocks_per_group"]))


@pytest.mark.parametrize(
    ("mode", "calls"),
    [
        (Mode(name="resident"), [("to", "cuda")]),
        (Mode(name="model"), [("model", "cuda")]),
        (Mode(name="sequential"), [("sequential", "cuda")]),
        (Mode(name="group-block"), [("group", "block_level", 1)]),
        (Mode(name="group-block", blocks=4), [("group", "block_level", 4)]),
        (Mode(name="group-leaf", stream=True), [("group", "leaf_level", None)]),
    ],
)
def test_each_mode_is_one_call_of_diffusers(mode, calls):
    pipe = Pipe()
    enable_mode(pipe, mode)
    assert pipe.calls == calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "turbo"}, "'turbo' is no mode: choose one of resident"),
        ({"name": "model", "stream": True}, "--stream has no meaning in mode model"),
        ({"name": "group-leaf", "record_stream": True}, "without a stream"),
        ({"name": "group-leaf", "blocks": 2}, "--blocks has no meaning in mode group-leaf"),
        ({"name": "group-block", "blocks": 0}, "give 1 or more"),
        ({"name": "group-block", "blocks": 2, "stream": True}, "one block per group with a stream"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Mode(**options)


def test_what_diffusers_refuses_is_told_in_its_words():
    class Stubborn(Pipe):
        def enable_model_cpu_offload(self, *, device):
            raise ValueError("no sequence\nand a second line")

    with pytest.raises(InputError, match=r"^Stubborn cannot be placed in mode model: no sequence$"):
        enable_mode(Stubborn(), Mode(name="model"))


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (Mode(vae_tiling=True), r"no VAE with enable_tiling\(\)"),
        (Mode(vae_slicing=True), r"no VAE with enable_slicing\(\)"),
        (Mode(layerwise_casting=True), "no denoiser that layerwise casting can store"),
    ],
)
def test_missing_parts_are_named(mode, message):
    with pytest.raises(InputError, match=message):
        enable_mode(Pipe(), mode)


def test_all_names_are_modes():
    assert [Mode(name=name).name for name in MODES] == list(MODES)
