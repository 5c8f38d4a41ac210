"""A library that is missing is told by its name and how to install it, however the error says so."""

from __future__ import annotations

import pytest
from diffusers.utils.import_utils import BACKENDS_MAPPING
from transformers.utils.import_utils import BACKENDS_MAPPING as TRANSFORMERS_BACKENDS

from profiler.errors import FindingError, InputError
from profiler.pipelines.refusals import missing_library, refused
from profiler.sizing.call_arguments import refusals_as_input_errors


def caused(error, cause):
    """Return `error` as if raised from `cause`."""
    error.__cause__ = cause
    return error


TOLD = {
    "Python itself": (
        ModuleNotFoundError("No module named 'torchsde'", name="torchsde"),
        "No module named 'torchsde': pip install torchsde",
    ),
    "a submodule, installed by another name": (
        ModuleNotFoundError("No module named 'optimum.quanto'", name="optimum.quanto"),
        "No module named 'optimum.quanto': pip install optimum-quanto",
    ),
    "an optional import that was never made": (
        NameError("name 'ftfy' is not defined", name="ftfy"),
        "name 'ftfy' is not defined: pip install ftfy",
    ),
    "a paragraph": (
        ImportError(BACKENDS_MAPPING["torchsde"][1].format("It")),
        "It requires the torchsde library but it was not found in your environment. "
        + "You can install it with pip: pip install torchsde",
    ),
    "a tokenizer's ValueError": (
        ValueError("Couldn't instantiate.\nYou need to have sentencepiece or tiktoken installed."),
        "Couldn't instantiate. You need to have sentencepiece or tiktoken installed"
        + ": pip install sentencepiece",
    ),
    "a quantiser": (
        ImportError(
            "Using 4-bit quantization requires bitsandbytes: `pip install -U bitsandbytes`"
        ),
        "Using 4-bit quantization requires bitsandbytes: pip install -U bitsandbytes",
    ),
    "a lazy import's cause": (
        caused(
            RuntimeError("Failed to import diffusers.pipelines.x"),
            ModuleNotFoundError("No module named 'librosa'", name="librosa"),
        ),
        "No module named 'librosa': pip install librosa",
    ),
    "an import that fails for another reason": (
        ImportError("cannot import name 'a'\nfrom 'b'"),
        "cannot import name 'a' from 'b'",
    ),
    "no import at all": (ValueError("groups must divide channels"), ""),
    "a name that is a mistake": (NameError("name 'x' is not defined", name="x"), ""),
}


@pytest.mark.parametrize(("error", "told"), TOLD.values(), ids=TOLD)
def test_missing_library_is_told_with_its_package(error, told):
    assert missing_library(error) == told


@pytest.mark.parametrize(
    ("message", "package"),
    [
        (BACKENDS_MAPPING["sentencepiece"][1], "sentencepiece"),
        (BACKENDS_MAPPING["ftfy"][1], "ftfy"),
        (BACKENDS_MAPPING["opencv"][1], "opencv-python"),
        (TRANSFORMERS_BACKENDS["sentencepiece"][1], "sentencepiece"),
        (TRANSFORMERS_BACKENDS["protobuf"][1], "protobuf"),
        (TRANSFORMERS_BACKENDS["vision"][1], "pillow"),
    ],
)
def test_backends_of_both_libraries_end_in_a_line_to_paste(message, package):
    told = missing_library(ImportError(message.format("It")))
    assert f"pip install {package}" in told
    assert "\n" not in told


def test_library_that_a_call_misses_is_the_users_to_install():
    missing = NameError("name 'ftfy' is not defined", name="ftfy")
    with (
        pytest.raises(InputError, match=r"^object cannot run: .*: pip install ftfy$"),
        refusals_as_input_errors(object()),
    ):
        raise missing
    with pytest.raises(NameError), refusals_as_input_errors(object()):
        raise NameError("name 'x' is not defined", name="x")


def test_refusal_is_one_line_whatever_the_error():
    own = FindingError("does not fit")
    assert refused("m", "vae", "V", own) is own
    for error, reason in (
        (ValueError("\n\nfirst\nsecond"), "from its configuration: first"),
        (KeyError(), "from its configuration: KeyError"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "built: No module named 'x': pip"),
    ):
        told = refused("m", "vae", "V", error)
        assert isinstance(told, InputError)
        assert str(told).startswith("'m': its vae (V) cannot be built")
        assert reason in str(told)
        assert "\n" not in str(told)
