"""What a profile can do, each a door only: what lies behind is imported on first use, and pandas and pyarrow with it.

Files live in `record_file`, tables in `record_frames`, the JSON summary in `record_summary`, worst moments in
`record_moments`, notebooks in `record_display`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import os

    import pandas as pd

    from profiler.findings import Finding
    from profiler.profile import Profile
    from profiler.record_frames import Frames
    from profiler.record_moments import Moment


class ProfileDoors:
    """The methods and properties of `Profile`; its fields are in `profile`."""

    __slots__ = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this profile to one Parquet file, whole or not at all."""
        from profiler import record_file

        record_file.save(_whole(self), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Profile:
        """Return the profile that `save` wrote to `path`; `InputError` if it holds none."""
        from profiler import record_file

        return record_file.load(path)

    def summary(self) -> dict[str, Any]:
        """Return the figures of this run as plain JSON data; the keys are stable (`schema_version`)."""
        from profiler import record_summary

        return record_summary.summary(_whole(self))

    @property
    def peak(self) -> Moment | None:
        """Return the highest moment of the run: `peak_bytes` allocated, its `phase` and `step`, and `component`.

        None where nothing was recorded. On a run that ended early it is the highest up to there.
        """
        from profiler import record_moments

        return record_moments.peak_moment(_whole(self))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return what this run did that is worth acting on, gravest first; see docs/findings.md."""
        from profiler import findings

        return findings.findings(_whole(self))

    @property
    def frames(self) -> Frames:
        """Return the DataFrames by name: components, calls, steps, residency, transfers, memory."""
        from profiler import record_frames

        return record_frames.Frames(_whole(self))

    @property
    def calls(self) -> pd.DataFrame:
        """Return one row for each call of the pipeline."""
        return self.frames.calls

    @property
    def steps(self) -> pd.DataFrame:
        """Return one row for each denoise step: peak, transfers, seconds, who was on the card."""
        return self.frames.steps

    @property
    def residency(self) -> pd.DataFrame:
        """Return one row for each stretch in which a component's bytes on the card did not change."""
        return self.frames.residency

    @property
    def transfers(self) -> pd.DataFrame:
        """Return one row for each move of weights and each other copy between host and card."""
        return self.frames.transfers

    @property
    def memory(self) -> pd.DataFrame:
        """Return allocated and reserved bytes, and the host's, over time, one row for each event."""
        return self.frames.memory

    def __repr__(self) -> str:
        from profiler import record_display

        return record_display.one_line(_whole(self))

    def _repr_html_(self) -> str:
        from profiler import record_display

        return record_display.notebook_html(_whole(self))


def _whole(doors: ProfileDoors) -> Profile:
    return cast("Profile", doors)
