"""The phase of a pipeline's call: encode, denoise step i, decode.

A denoise step ends when the scheduler's `step` returns. The phase is encode before the first call of a denoiser, and
decode after the scheduler's last step, or once a VAE decodes. Outside a call it is place; work before a call, such as
pinning memory, belongs to the beginning of the call.
"""

from __future__ import annotations

from typing import Any


class Phases:
    """The phase of one pipeline, followed through its calls.

    Attributes:
        name: the current phase.
        step: the current denoise step, -1 outside the loop.
        call: the number of the current call of the pipeline, -1 outside a call.
    """

    def __init__(self, denoisers: frozenset[str]) -> None:
        self._denoisers = denoisers
        self._calls = 0
        self.call = -1
        self.name = "place"
        self.step = -1

    def begin_call(self) -> None:
        """Note that a call of the pipeline begins; its phase is still place."""
        self.call = self._calls
        self._calls += 1

    def started(self) -> None:
        """Note that the call has begun."""
        self.name, self.step = "encode", -1

    def end_call(self) -> None:
        """Note that the call ends, in whatever way."""
        self.call, self.name, self.step = -1, "place", -1

    def enter(self, component: str, entry: str) -> None:
        """Note that a component is entered."""
        if self.call < 0:
            return
        if component in self._denoisers and self.name == "encode":
            self.name, self.step = "denoise", 0
        elif entry == "decode" and self.name == "denoise":
            self.name, self.step = "decode", -1

    def stepped(self, scheduler: Any) -> None:
        """Note that the scheduler took a step."""
        if self.name != "denoise":
            return
        self.step += 1
        timesteps = getattr(scheduler, "timesteps", None)
        if timesteps is not None and self.step >= len(timesteps):
            self.name, self.step = "decode", -1
