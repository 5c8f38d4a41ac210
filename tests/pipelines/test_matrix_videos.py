"""Every video model of the catalogue under every mode; what stock diffusers cannot run fails as `matrix.FAILS` says."""

import pytest
from daily import daily
from matrix import VIDEOS, check
from zoo import MODES

from profiler.pipelines import catalogue

# `test_loading_runs.py` runs every model each time.
DAILY = ("stable-video-diffusion",)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", daily(DAILY, (name for name in catalogue() if name in VIDEOS)))
def test_bytes_are_those_of_the_link_and_nothing_is_left(model, mode):
    check(model, mode)
