"""Putting a plan into effect on a real pipeline by diffusers' own calls, undoing it, and checking that it held."""

from profiler.applying.apply import Applied, apply
from profiler.applying.verify import Verification, verify

__all__ = ["Applied", "Verification", "apply", "verify"]
