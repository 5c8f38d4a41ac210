"""A convolution as PyTorch hands it to cuDNN, and its text, by which answers are looked up."""

from __future__ import annotations

from typing import NamedTuple, Self

_DTYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
_DTYPE_OF_SHORT = {short: name for name, short in _DTYPES.items()}
_TRANSPOSED = "T"


class Convolution(NamedTuple):
    """One convolution with two or three spatial dimensions; all its tensors have one dtype and one layout.

    Attributes:
        dtype: "float16", "bfloat16" or "float32"; it adds up in single precision.
        layout: "nchw", or "nhwc" for channels last.
        image: the input's shape `[N, C, (D,) H, W]`.
        weight: `[K, C / groups, (D,) H, W]`, or `[C, K / groups, ...]` if transposed.
        output: the shape of what it returns.
        stride, padding, dilation: one number for each spatial dimension.
        groups: into how many the channels are divided.
        transposed: whether it is the gradient of a convolution for its input.
    """

    dtype: str
    layout: str
    image: tuple[int, ...]
    weight: tuple[int, ...]
    output: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    def text(self) -> str:
        """Return it in one line, without spaces inside a shape.

        Example:
            >>> Convolution.parse("f16 nchw 1,4,8,8 2,4,3,3 1,2,8,8 1,1 1,1 1,1 1").text()
            'f16 nchw 1,4,8,8 2,4,3,3 1,2,8,8 1,1 1,1 1,1 1'
        """
        shapes = (self.image, self.weight, self.output, self.stride, self.padding, self.dilation)
        words = [_DTYPES[self.dtype], self.layout, *(",".join(map(str, one)) for one in shapes)]
        return " ".join([*words, str(self.groups), *([_TRANSPOSED] if self.transposed else [])])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the convolution that `text` names.

        Raises:
            ValueError: if it names none.
        """
        dtype, layout, *shapes, groups = text.removesuffix(f" {_TRANSPOSED}").split(" ")
        numbers = (tuple(map(int, one.split(","))) for one in shapes)
        image, weight, output, stride, padding, dilation = numbers
        if dtype not in _DTYPE_OF_SHORT or layout not in ("nchw", "nhwc"):
            raise ValueError(f"no convolution: {text!r}")
        name = _DTYPE_OF_SHORT[dtype]
        sizes = (image, weight, output, stride, padding, dilation)
        return cls(name, layout, *sizes, int(groups), text.endswith(f" {_TRANSPOSED}"))
