"""A convolution's text, and how answers for it are looked up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.cudnn.convolution import Convolution
from profiler.cudnn.heuristics import strides

SIZES = st.integers(1, 4096)


@st.composite
def convolutions(draw):
    dims = draw(st.sampled_from((2, 3)))
    shapes = [draw(st.tuples(*[SIZES] * (dims + 2))) for _ in range(3)]
    steps = [draw(st.tuples(*[st.integers(0, 9)] * dims)) for _ in range(3)]
    return Convolution(
        draw(st.sampled_from(("float16", "bfloat16", "float32"))),
        draw(st.sampled_from(("nchw", "nhwc"))),
        *shapes,
        *steps,
        draw(SIZES),
        draw(st.booleans()),
    )


@given(convolutions())
def test_a_text_is_read_back_as_the_convolution_that_wrote_it(one):
    assert Convolution.parse(one.text()) == one


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f16 nchw",
        "f64 nchw 1,1 1,1 1,1 1 1 1 1",
        "f16 hwcn 1,1 1,1 1,1 1 1 1 1",
        "f16 nchw a b c d e f g",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError):
        Convolution.parse(text)


@given(st.lists(st.integers(1, 5), min_size=4, max_size=5), st.sampled_from(("nchw", "nhwc")))
def test_strides_count_the_elements_in_the_order_of_the_layout(shape, layout):
    """Written out: the position of each element when all indices are run through in order."""
    dims = len(shape)
    order = [*range(dims)] if layout == "nchw" else [0, *range(2, dims), 1]
    found = strides(tuple(shape), layout)
    position = 0
    index = [0] * dims
    while True:
        assert sum(i * s for i, s in zip(index, found, strict=True)) == position
        position += 1
        for dim in reversed(order):
            index[dim] += 1
            if index[dim] < shape[dim]:
                break
            index[dim] = 0
        else:
            return
