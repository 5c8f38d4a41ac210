"""The size of a pipeline's result, if it is not the requested one.

Some pipelines take a height only together with a width, and otherwise make their default size; some round to what their
model can make. At most they log it, and often not even that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_SIDES = ("height", "width")
_RESULTS = ("images", "frames")
_NOT_GIVEN = "-"


def other_size(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> str:
    """Return the requested size of `call` and the one that it made; "" if they agree, or either is unknown."""
    given = inspect.signature(call).bind(*args, **kwargs).arguments
    asked = tuple(given.get(side) for side in _SIDES)
    made = None if given.get("output_type") == "latent" else _size(result)
    if made is None or all(side in (None, one) for side, one in zip(asked, made, strict=True)):
        return ""
    sides = (_NOT_GIVEN if side is None else side for side in asked)
    return f"{' x '.join(map(str, sides))} -> {made[0]} x {made[1]}"


def _size(result: Any) -> tuple[int, int] | None:
    """Return the height and width of the first picture of a result, or None if it has none."""
    for name in _RESULTS:
        result = getattr(result, name, result)
    while isinstance(result, list | tuple) and result:
        result = result[0]
    if hasattr(result, "getbands"):  # a PIL image, which may not be installed
        return result.height, result.width
    shape = tuple(getattr(result, "shape", ()))
    if len(shape) < 3:  # height, width and channels
        return None
    return shape[-2:] if hasattr(result, "device") and hasattr(result, "dim") else shape[-3:-1]
