"""Measuring the card at hand: the operators of the catalogue, the link, and what the driver takes for itself."""

from profiler.calibrating.calibrate import Calibrated, calibrate

__all__ = ["Calibrated", "calibrate"]
