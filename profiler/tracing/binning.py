"""The sizes that a pipeline runs in place of the requested ones.

PixArt, Sana and others run the nearest of the sizes that they were trained on and resize the picture afterwards. They
all choose it with the same function (diffusers 0.42.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from diffusers.image_processor import PixArtImageProcessor
from diffusers.video_processor import VideoProcessor

from profiler.patching import Patches
from profiler.record.profile import Condition

_CLASSIFY = "classify_height_width_bin"


class Binning:
    """Collects the sizes that were run in place of others during one trace."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def watch(self, patches: Patches) -> None:
        """Wrap the function that chooses sizes."""
        for owner in (PixArtImageProcessor, VideoProcessor):
            if hasattr(owner, _CLASSIFY):
                patches.replace(owner, _CLASSIFY, staticmethod(self._noting(owner)))

    def found(self) -> Iterator[Condition]:
        """Yield a condition for each size that was not run as requested."""
        for detail in self._seen:
            yield Condition(what="binned_size", detail=detail)

    def _noting(self, owner: type) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(owner, _CLASSIFY)

        def classify(height: int, width: int, *args: Any, **kwargs: Any) -> Any:
            chosen = original(height, width, *args, **kwargs)
            if tuple(chosen) != (height, width):
                self._seen[f"{height} x {width} -> {chosen[0]} x {chosen[1]}"] = None
            return chosen

        return classify
