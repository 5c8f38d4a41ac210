"""The half of each placement that works on real modules, by the placement's name in a plan's file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.applying.hooks import grouped, sequential, streamed

if TYPE_CHECKING:
    from profiler.applying.hooks.attachment import Attachment, AttachmentToAll

ATTACHMENTS: dict[str, Attachment] = {
    "grouped": grouped,
    "sequential": sequential,
    "streamed": streamed,
}

TO_ALL: dict[str, AttachmentToAll] = {"grouped": grouped, "sequential": sequential}
"""Those that a pipeline has a call of its own for."""
