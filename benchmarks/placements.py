"""Compares what placements of one model take of each other, published and predicted.

Usage: python -m benchmarks.placements

The published figures (published/placements.csv) are of another engine, SGLang's, and do not say how many forwards a
call has. So each is put beside the first of its source: the seconds of a call with some of the transformer's blocks on
the GPU, over those of a call in which all blocks travel. Predicted is the default call with everything else on the GPU.
Of ours the blocks that stay are spread evenly, of SGLang's they are the first ones.
"""

from __future__ import annotations

import csv
import warnings
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.placements.scheme import Scheme
from profiler.placements.streamed import Streamed
from profiler.planning import weigh
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import profile_without_limit

if TYPE_CHECKING:
    from profiler.record.profile import Profile

PUBLISHED = Path(__file__).resolve().parent / "published" / "placements.csv"


def seconds(profile: Profile, staying: int) -> float:
    """Return the predicted seconds of a call in which `staying` blocks of the transformer stay on the GPU."""
    names = frozenset(part.name for part in profile.components)
    blocks = next(len(part.blocks) for part in profile.components if part.name == "transformer")
    inside = {"transformer": Streamed(staying)} if staying < blocks else {}
    (found,) = weigh(profile, [Scheme(excluded=names, sticky=bool(inside), inside=inside)])
    assert found is not None
    assert found.seconds is not None
    return found.seconds


def rows() -> list[dict[str, Any]]:
    """Return each published row with the predicted and published fractions of the row in which all blocks travel."""
    found = []
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        for (_, gpu, model), group in groupby(
            csv.DictReader(file), lambda row: (row["source"], row["gpu"], row["model"])
        ):
            profile = profile_without_limit(Scenario(model=model, gpu=gpu, height=1024, width=1024))
            listed = list(group)
            most, base = seconds(profile, 0), float(listed[0]["seconds"])
            for row in listed:
                staying = int(row["blocks_that_stay"])
                found.append(
                    {
                        **row,
                        "published": float(row["seconds"]) / base,
                        "predicted": seconds(profile, staying) / most,
                    }
                )
    return found


def main() -> None:
    """Print the rows."""
    warnings.simplefilter("ignore")
    print("gpu       model       stay  published  predicted")
    for row in rows():
        figures = "  ".join(f"{row[name]:9.2f}" for name in ("published", "predicted"))
        print(f"{row['gpu']:9} {row['model']:10} {row['blocks_that_stay']:>5}  {figures}")


if __name__ == "__main__":
    main()
