"""Single operators allocate, and return, what they do on PyTorch's CUDA build.

What that did was recorded by `tests/oracle/oracle_operators.py --record`, without a GPU: every block that was asked for
and freed, in order, and shapes, strides and dtypes of the results. CUB's scratch memory is left out on both sides.
"""

from __future__ import annotations

import warnings
from unittest.mock import patch

import operator_recorded
import pytest
from operator_cases import operator_cases
from operator_compare import kind_of
from operator_recording import recorded

from profiler.virtual import VirtualGPU, workspaces

RECORDED = operator_recorded.read()


def differing(gpu, expected):
    """Return what `gpu` does otherwise than expected, and how."""
    nothing = patch.object(workspaces, "convolution", lambda *_: workspaces.NOTHING)
    with VirtualGPU(gpu), nothing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = recorded(case for case in operator_cases() if case.name in expected)
    assert len(found) == len(expected)
    kinds = {name: kind_of(expected[name], outcome) for name, outcome in found.items()}
    return {name: kind for name, kind in kinds.items() if kind not in {"equal", "small"}}


as_recorded = pytest.mark.skipif(
    RECORDED.torch != operator_recorded.version(),
    reason=f"recorded with torch {RECORDED.torch}: oracle_operators.py --record does it again",
)


@as_recorded
@pytest.mark.parametrize("gpu", RECORDED.outcomes)
def test_operators_do_what_pytorch_s_cuda_build_does(gpu):
    """Each outcome once: most are alike in other dtypes, and on other GPUs."""
    assert differing(gpu, RECORDED.distinct(gpu)) == {}


@as_recorded
@pytest.mark.nightly
@pytest.mark.parametrize("gpu", RECORDED.outcomes)
def test_every_operator_does_so_in_every_dtype(gpu):
    assert differing(gpu, RECORDED.outcomes[gpu]) == {}
