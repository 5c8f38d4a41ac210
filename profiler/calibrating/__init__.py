"""Measurements of the GPU at hand: the operators of the catalogue, the link, and the driver's own memory."""

from profiler.calibrating.calibrate import Calibrated, calibrate
from profiler.calibrating.evidence import Learnt, keep, learn

__all__ = ["Calibrated", "Learnt", "calibrate", "keep", "learn"]
