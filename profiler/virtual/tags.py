"""Numbers for the metadata of tensors, apart from value and storage: equal metadata, equal number."""

from __future__ import annotations

import torch

Metadata = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, int, torch.device]
"""Shape, stride, dtype, offset and device."""

# So far below any integer that an operator takes that a key of the dispatcher cannot be misread.
_FIRST = -(1 << 50)


class Tags:
    """The numbers of one virtual GPU."""

    def __init__(self) -> None:
        self._tags: dict[Metadata, int] = {}
        self._metadata: list[Metadata] = []  # of each tag, in order

    def of(self, metadata: Metadata) -> int:
        """Return the number of this metadata."""
        tag = self._tags.get(metadata)
        if tag is None:
            tag = self._tags[metadata] = _FIRST - len(self._tags)
            self._metadata.append(metadata)
        return tag

    def at_start(self, number: int) -> int:
        """Return the tag of the same metadata at offset 0, for a tag; any other number unchanged."""
        if number > _FIRST:
            return number
        shape, stride, dtype, _, device = self._metadata[_FIRST - number]
        return self.of((shape, stride, dtype, 0, device))
