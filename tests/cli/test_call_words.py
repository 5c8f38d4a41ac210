"""What a value typed after `KEY=` stands for, on the command line and in the words of `--also`."""

from __future__ import annotations

import pytest

from profiler.cli.call_words import call_options, picture_size, setting, value_of
from profiler.errors import InputError
from profiler.sizing.call_arguments import call_arguments
from profiler.sizing.scenario import CallOptions

VALUES = {
    "false": False,
    "False": False,
    "true": True,
    "null": None,
    "None": None,
    "7": 7,
    "1e-3": 0.001,
    "-0.5": -0.5,
    "[1, false, null]": [1, False, None],
    "(0, 0)": (0, 0),
    '{"scale": 0.5, "deep": {"on": true}}': {"scale": 0.5, "deep": {"on": True}},
    "{'scale': [True, None]}": {"scale": [True, None]},
    '"false"': "false",
    "'7'": "7",
    "": "",
    "cat": "cat",
    "a cat, (masterpiece:1.2)": "a cat, (masterpiece:1.2)",
    "falsehood": "falsehood",
    "[a cat]": "[a cat]",
    "...": "...",
    "b'cat'": "b'cat'",
    "2j": "2j",
    "__import__('os')": "__import__('os')",
    "{[]: 1}": "{[]: 1}",
    "a\\d": "a\\d",
    "(" * 5000: "(" * 5000,
}


@pytest.mark.parametrize(("text", "value"), VALUES.items(), ids=[text[:20] for text in VALUES])
def test_value_is_what_json_or_python_means_by_it_else_a_string(text, value):
    read = value_of(text)
    assert (type(read), read) == (type(value), value)
    assert setting(f"key={text}", "--set") == ("key", value)


def test_words_of_a_call_hold_the_same_values():
    words = (
        "height=512 cached-prompt use_resolution_binning=false negative_prompt=null sigmas=[1, 0.5] "
        'cross_attention_kwargs={"scale": 0.5} prompt="7" prompt_2=\'a  b\' output_type=latent'
    )
    assert call_options(words) == CallOptions(
        height=512,
        cached_prompt=True,
        extra={
            "use_resolution_binning": False,
            "negative_prompt": None,
            "sigmas": [1, 0.5],
            "cross_attention_kwargs": {"scale": 0.5},
            "prompt": "7",
            "prompt_2": "a  b",
            "output_type": "latent",
        },
    )


@pytest.mark.parametrize(
    "words", ['"prompt=a b"', "prompt=a' 'b", "prompt='a b'", 'prompt="a b"', "prompt=a\\ b"]
)
def test_words_are_quoted_as_in_a_shell(words):
    assert call_options(words) == CallOptions(extra={"prompt": "a b"})


def test_options_of_several_words_are_written_as_on_the_command_line():
    words = "pictures=2 picture-size=640x480 prompt-words=40 negative-prompt no-guidance max-sequence-length=256"
    assert call_options(words) == CallOptions(
        pictures=2,
        picture_size=(640, 480),
        prompt_words=40,
        negative_prompt=True,
        guidance=False,
        max_sequence_length=256,
    )


@pytest.mark.parametrize("size", ["640", "640x", "0x480", "x", "a x b"])
def test_size_of_pictures_that_cannot_be_read_is_refused(size):
    with pytest.raises(InputError, match="write WIDTHxHEIGHT"):
        picture_size(size)


@pytest.mark.parametrize("words", ["prompt='a b", "sigmas=[1, 2", "sigmas", "weight=true"])
def test_words_that_cannot_be_read_are_refused_by_name(words):
    with pytest.raises(InputError, match="--also"):
        call_options(words)


def test_what_another_call_does_not_say_is_as_in_the_first_one():
    """How often it comes, of which pipeline it is and whether its prompt is cached are its own."""
    main = CallOptions(
        height=512,
        width=768,
        steps=4,
        batch=2,
        weight=3,
        cached_prompt=True,
        extra={"a": 1, "b": 2},
    )
    other = call_options("height=256 b=3 c=4", main)
    assert other == CallOptions(
        height=256, width=768, steps=4, batch=2, extra={"a": 1, "b": 3, "c": 4}
    )
    assert set(other.inherited) == {"width", "steps", "batch", "a"}


def test_what_is_taken_over_and_not_taken_by_the_other_pipeline_is_left_out():
    class Pipe:
        def __call__(self, prompt=None, num_inference_steps=1):
            """Take no size."""

    main = CallOptions(steps=4, frames=9, extra={"a": 1})
    assert call_arguments(Pipe(), call_options("weight=2", main)) == {"num_inference_steps": 4}
    for words in ("frames=5", "a=2"):
        with pytest.raises(InputError):
            call_arguments(Pipe(), call_options(words, main))
