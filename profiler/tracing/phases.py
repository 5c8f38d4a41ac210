"""Which phase of a pipeline's call it is: encode, denoise step i, decode.

A denoise step ends when the scheduler's `step` returns. Before the first call of a denoiser it is encode; after the
scheduler's last step, or once a VAE decodes, it is decode. Outside a call it is place; what was done before it, as
pinning memory, belongs to its beginning.
"""

from __future__ import annotations

from typing import Any


class Phases:
    """Follows one pipeline's calls.

    Attributes:
        name: the phase now.
        step: the denoise step now, -1 outside the loop.
        call: the call of the pipeline now, -1 outside.
    """

    def __init__(self, denoisers: frozenset[str]) -> None:
        self._denoisers = denoisers
        self._calls = 0
        self.call = -1
        self.name = "place"
        self.step = -1

    def begin_call(self) -> None:
        """A call of the pipeline begins; it is still where it was placed."""
        self.call = self._calls
        self._calls += 1

    def started(self) -> None:
        """It has begun."""
        self.name, self.step = "encode", -1

    def end_call(self) -> None:
        """It ends, by whatever way."""
        self.call, self.name, self.step = -1, "place", -1

    def enter(self, component: str, entry: str) -> None:
        """A component is entered."""
        if self.call < 0:
            return
        if component in self._denoisers and self.name == "encode":
            self.name, self.step = "denoise", 0
        elif entry == "decode" and self.name == "denoise":
            self.name, self.step = "decode", -1

    def stepped(self, scheduler: Any) -> None:
        """The scheduler took a step."""
        if self.name != "denoise":
            return
        self.step += 1
        timesteps = getattr(scheduler, "timesteps", None)
        if timesteps is not None and self.step >= len(timesteps):
            self.name, self.step = "decode", -1
