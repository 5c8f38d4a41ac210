"""The half of each placement that works on real modules, by the placement's name in a plan's file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.applying.hooks import grouped, sequential, streamed
from profiler.applying.hooks.drop import DropOffload
from profiler.applying.hooks.pinned import PinnedOffload
from profiler.applying.hooks.streamed import StreamedOffload

if TYPE_CHECKING:
    from profiler.applying.hooks.attachment import Attachment, AttachmentToAll

ATTACHMENTS: dict[str, Attachment] = {
    "grouped": grouped,
    "sequential": sequential,
    "streamed": streamed,
}

TO_ALL: dict[str, AttachmentToAll] = {"grouped": grouped, "sequential": sequential}
"""Those that a pipeline has a call of its own for."""

OWN_HOOKS = (DropOffload, PinnedOffload, StreamedOffload)
"""The hooks of this package that take the place of a component's model-offload hook."""
