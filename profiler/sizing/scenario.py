"""What to run: the model, how it is called, how it is placed, on which card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from profiler.gpus.hardware import Card, choose_card
from profiler.libraries.modes import DEFAULT_MODE, Mode

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """How a model is called. `None` leaves a choice to the pipeline's own default."""

    pipeline_class: str = ""  # another diffusers pipeline over its components; "" for its own
    weight: int = 1  # how often this call comes, beside others
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    batch: int | None = None  # images or videos per prompt
    steps: int | None = None
    cached_prompt: bool = False  # the prompt is encoded before: no text encoder runs
    extra: dict[str, Any] = field(default_factory=dict)  # any other argument of the pipeline's call
    # Of these, what another call said, which is left out if the pipeline does not take it.
    inherited: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Scenario(CallOptions):
    """What to run."""

    model: str  # catalogue name, diffusers folder or hub id
    gpu: str | None = None  # a card's key; the default card if only a capacity is given
    capacity: str | int | None = None  # in place of the card's own
    dtype: str | Mapping[str, str] | None = None  # of all or by component; the model's own if None
    quantization: dict[str, str] = field(default_factory=dict)  # component to kind, as "bnb-nf4"
    mode: Mode = field(default_factory=lambda: Mode(name=DEFAULT_MODE))
    also: tuple[CallOptions, ...] = ()  # other calls that come besides

    @property
    def calls(self) -> tuple[CallOptions, ...]:
        """All calls, its own first."""
        return (self, *self.also)

    @property
    def dtypes(self) -> dict[str, str]:
        """The dtypes asked for by component, "default" for all others; empty for the model's own."""
        if self.dtype is None:
            return {}
        return {"default": self.dtype} if isinstance(self.dtype, str) else dict(self.dtype)

    def card(self) -> Card:
        """Return the card to stand in for.

        Raises:
            InputError: if it is unknown, or the capacity no size.
        """
        return choose_card(self.gpu, self.capacity)
