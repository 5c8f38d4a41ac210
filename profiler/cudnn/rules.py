"""What a convolution takes where cuDNN cannot be asked: copies of its tensors, with bounds.

cuDNN computes on channels-last copies: of input and weight, and of the output where the kernel cannot write the layout
that is asked for. Channels are rounded up for the tensor cores. Of a large batch it takes as many images at a time as
have 2^31 elements, and an image that has more is computed without copies.

Derived from the answers of cuDNN 9.20.0 to the convolutions of the catalogue. For each architecture
`python benchmarks/cudnn_answers.py rules` prints how near the rules come, and how many lie within the bounds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from profiler.cudnn.convolution import Convolution

_MOST_ELEMENTS = 2**31
_ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_CHANNELS_ROUNDED_TO = {"float16": 8, "bfloat16": 8, "float32": 4}


class Estimate(NamedTuple):
    """Bytes of a workspace, and its bounds."""

    nbytes: int
    least: int
    most: int


class _Rule(NamedTuple):
    copied: str  # "all", "given" (input and weight), or "none"
    most: float  # the upper bound, as a fraction of copies of all: 97 of 100 take less


# By compute capability: half precision contiguous and channels last, single precision contiguous and channels last.
_RULES = {
    (7, 0): (_Rule("none", 5.3), _Rule("all", 1.05), _Rule("none", 0.1), _Rule("all", 1.05)),
    (7, 5): (_Rule("all", 2.0), _Rule("none", 0.1), _Rule("none", 2.75), _Rule("none", 1.6)),
    (8, 0): (_Rule("all", 1.7), _Rule("none", 0.1), _Rule("given", 1.05), _Rule("given", 1.05)),
    (8, 6): (_Rule("all", 2.0), _Rule("none", 0.1), _Rule("given", 1.05), _Rule("given", 1.05)),
    (8, 9): (_Rule("all", 1.05), _Rule("none", 0.1), _Rule("given", 1.4), _Rule("given", 1.05)),
    (9, 0): (_Rule("all", 1.05), _Rule("none", 0.1), _Rule("all", 1.05), _Rule("none", 1.05)),
    (10, 0): (_Rule("all", 1.15), _Rule("none", 0.1), _Rule("all", 1.15), _Rule("none", 0.1)),
    (12, 0): (_Rule("all", 2.0), _Rule("none", 2.0), _Rule("given", 1.9), _Rule("given", 1.05)),
}


def estimate(capability: tuple[int, int], convolution: Convolution) -> Estimate:
    """Return what a convolution takes on a GPU of a compute capability; that of the next older one if it is unknown.

    The lower bound is nothing; in half precision, from Ampere on, it is the estimate where a kernel has more than one
    element.
    """
    known = max((one for one in _RULES if one <= capability), default=min(_RULES))
    half = convolution.dtype != "float32"
    rule = _RULES[known][(0 if half else 2) + (convolution.layout == "nhwc")]
    given, output = copied_bytes(convolution)
    nbytes = {"all": given + output, "given": given, "none": 0}[rule.copied]
    pointwise = math.prod(convolution.weight[2:]) == 1
    certain = half and known >= (8, 0) and not pointwise
    return Estimate(
        nbytes, nbytes if certain else 0, max(nbytes, int((given + output) * rule.most))
    )


def copied_bytes(one: Convolution) -> tuple[int, int]:
    """Return the bytes of copies of input and weight, and those of a copy of the output."""
    images = one.image[0]
    largest = max(math.prod(one.image[1:]), math.prod(one.output[1:]))
    at_once = min(images, _MOST_ELEMENTS // largest)
    if not at_once:
        return 0, 0
    multiple = _CHANNELS_ROUNDED_TO[one.dtype]

    def elements(shape: tuple[int, ...], first: int) -> int:
        channels = -(-shape[1] // multiple) * multiple
        return first * channels * math.prod(shape[2:])

    rows = -(-one.weight[0] // multiple) * multiple
    given = elements(one.image, at_once) + elements(one.weight, rows)
    size = _ELEMENT_BYTES[one.dtype]
    return given * size, elements(one.output, at_once) * size
