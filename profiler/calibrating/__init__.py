"""Measurements of the GPU at hand: the operators of the catalogue, the link, and the driver's own memory."""

from profiler.calibrating.calibrate import Calibrated, calibrate

__all__ = ["Calibrated", "calibrate"]
