"""Dtypes by component, as they are typed and as they are asked for."""

from __future__ import annotations

import pytest

from profiler.errors import InputError
from profiler.pipelines.dtypes import by_component, dtypes_of, written


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("bfloat16", "bfloat16"),
        ("bfloat16,vae=float32", {"default": "bfloat16", "vae": "float32"}),
        (
            "text_encoder=float16, default=float32",
            {"text_encoder": "float16", "default": "float32"},
        ),
        ("vae=float32", {"vae": "float32"}),
    ],
)
def test_dtypes_are_read_and_written(text, asked):
    assert dtypes_of(text) == asked
    assert dtypes_of(written(asked)) == asked


@pytest.mark.parametrize(
    "text", ["int3", "", "vae=", "vae=int3", "=float32", "bfloat16,float16", "v a e=float16", ","]
)
def test_text_that_names_no_dtypes_is_refused(text):
    with pytest.raises(InputError, match=r"dtype"):
        dtypes_of(text)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, {}),
        ("float16", {"unet": "float16", "vae": "float16"}),
        ({"default": "float16", "vae": "float32"}, {"unet": "float16", "vae": "float32"}),
        ({"vae": "float32"}, {"vae": "float32"}),
    ],
)
def test_default_is_for_those_that_are_not_named(asked, found):
    assert by_component(asked, ("unet", "vae"), "tiny") == found


def test_component_that_is_not_there_is_refused():
    with pytest.raises(InputError) as caught:
        by_component({"vea": "float32"}, ("unet", "vae"), "tiny")
    assert str(caught.value) == (
        "'tiny' has no component 'vea' to give a dtype to: it has unet, vae"
    )
