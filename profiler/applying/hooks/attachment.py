"""The interface of the half of a placement that works on real modules; modules of this folder implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from diffusers import DiffusionPipeline
    from torch import nn


class Target(NamedTuple):
    """A component to place: without hooks and on the CPU, or with the hook of `enable_model_cpu_offload`."""

    pipe: DiffusionPipeline
    name: str
    module: nn.Module
    device: torch.device
    folder: Path | None  # for weights on disk
    swap: str  # the way in which the part that moves as a whole leaves the GPU
    stays: bool  # whether that part stays on the GPU


class Attachment(Protocol):
    """The half of a placement that puts it into effect, checks it, and writes it as code.

    Attributes:
        REPLACES_TENSORS: Whether the library makes new parameters, which are views of the memory of the old ones.
        IMPORTS: Code that must come once before its lines.
        SOURCES: Classes and functions of this package whose source its lines need.
    """

    REPLACES_TENSORS: bool
    IMPORTS: str
    SOURCES: tuple[Any, ...]

    def attach(self, target: Target, how: Any) -> None:
        """Place the component; if that fails half-way, leave it as it was."""

    def drift(self, name: str, module: nn.Module, how: Any, swap: str) -> Iterator[str]:
        """Yield a line for each way in which the component is not as it was placed."""

    def code(self, name: str, how: Any, swap: str, *, stays: bool) -> str:
        """Return the line that places the component of a variable `pipe`."""


class AttachmentToAll(Attachment, Protocol):
    """A placement that one call of the pipeline's own gives to all components."""

    def attach_to_all(
        self, pipe: DiffusionPipeline, how: Any, gpu_id: int | None, device: Any
    ) -> None:
        """Place all components by the pipeline's own call."""

    def code_for_all(self, how: Any) -> str:
        """Return the lines that place all components by the pipeline's own call."""
