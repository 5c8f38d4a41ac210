"""One side of the comparison of single operators: records them on one GPU, real only in torch's C++, or virtual.

Usage: python tests/oracle/operator_side.py oracle|predicted GPU FILE [--digest TEXT]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from oracle_cases import GPUS, Case
from oracle_side import describe_gpu, stand_in, virtual_gpu


def main() -> None:
    """Record every operator and write what it did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("oracle", "predicted"))
    parser.add_argument("gpu", choices=GPUS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--digest", default="", help="of what the outcomes follow from")
    options = parser.parse_args()
    gpu = Case(gpu=options.gpu, model="", mode="resident")
    describe_gpu(gpu)
    with {"oracle": stand_in, "predicted": virtual_gpu}[options.side](gpu):
        # Not earlier: torch looks for a GPU as soon as it is imported.
        from operator_cases import operator_cases
        from operator_recording import recorded

        found = recorded(operator_cases())
    content = {"digest": options.digest, "outcomes": found}
    options.file.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
