"""Methods of `Profile`: its file, tables, findings, summary and notebook view, each implemented in its own package."""

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
        """The peak of the run: `peak_bytes` allocated, its `phase` and `step`, and `component`.

        None if nothing was recorded. For a run that ended early, it is the peak until then.
        """
        moment: Moment | None = upward.call("peak_moment", self)
        return moment

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings about this run that are worth acting on, most severe first; see docs/findings.md."""
        findings: tuple[Finding, ...] = upward.call("findings", self)
        return findings

    @property
    def frames(self) -> Any:
        """The DataFrames as `record.frames.Frames`: components, calls, steps, residency, transfers, memory."""
        return upward.call("frames", self)

    @property
    def calls(self) -> pd.DataFrame:
        """One row for each call of the pipeline."""
        return self._frame("calls")

    @property
    def steps(self) -> pd.DataFrame:
        """One row for each denoise step: peak, transfers, seconds, and the components on the GPU."""
        return self._frame("steps")

    @property
    def residency(self) -> pd.DataFrame:
        """One row for each stretch in which a component's bytes on the GPU did not change."""
        return self._frame("residency")

    @property
    def transfers(self) -> pd.DataFrame:
        """One row for each move of weights and each other copy between host and GPU."""
        return self._frame("transfers")

    @property
    def memory(self) -> pd.DataFrame:
        """Allocated and reserved bytes, and host memory, over time, one row for each event."""
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
