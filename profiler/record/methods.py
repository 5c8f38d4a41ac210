"""Methods of `Profile`: its file, tables, findings, summary and notebook view, each done by a room of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from profiler import upward

if TYPE_CHECKING:
    import os

    import pandas as pd

    from profiler.record.events import Moment
    from profiler.record.finding import Finding


class ProfileMethods:
    """The methods and properties of `Profile`; its fields are in `profile`."""

    __slots__ = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this profile to one Parquet file, whole or not at all."""
        upward.call("save_profile", self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the profile that `save` wrote to `path`; `InputError` if it holds none."""
        profile: Self = upward.call("load_profile", path)
        return profile

    def summary(self) -> dict[str, Any]:
        """Return the figures of this run as plain JSON data; the keys are stable (`schema_version`)."""
        summary: dict[str, Any] = upward.call("profile_summary", self)
        return summary

    @property
    def peak(self) -> Moment | None:
        """Return the highest moment of the run: `peak_bytes` allocated, its `phase` and `step`, and `component`.

        None if nothing was recorded. On a run that ended early it is the highest up to there.
        """
        moment: Moment | None = upward.call("peak_moment", self)
        return moment

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return what this run did that is worth acting on, gravest first; see docs/findings.md."""
        findings: tuple[Finding, ...] = upward.call("findings", self)
        return findings

    @property
    def frames(self) -> Any:
        """Return the DataFrames as `record.frames.Frames`: components, calls, steps, residency, transfers, memory."""
        return upward.call("frames", self)

    @property
    def calls(self) -> pd.DataFrame:
        """Return one row for each call of the pipeline."""
        return self._frame("calls")

    @property
    def steps(self) -> pd.DataFrame:
        """Return one row for each denoise step: peak, transfers, seconds, who was on the card."""
        return self._frame("steps")

    @property
    def residency(self) -> pd.DataFrame:
        """Return one row for each stretch in which a component's bytes on the card did not change."""
        return self._frame("residency")

    @property
    def transfers(self) -> pd.DataFrame:
        """Return one row for each move of weights and each other copy between host and card."""
        return self._frame("transfers")

    @property
    def memory(self) -> pd.DataFrame:
        """Return allocated and reserved bytes, and the host's, over time, one row for each event."""
        return self._frame("memory")

    def _frame(self, name: str) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self.frames, name)
        return frame

    def __repr__(self) -> str:
        line: str = upward.call("profile_line", self)
        return line

    def _repr_html_(self) -> str:
        html: str = upward.call("profile_html", self)
        return html
