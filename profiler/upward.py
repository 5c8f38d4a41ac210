"""Methods of records that are implemented in higher-level packages, which are loaded on the first call.

`profile.findings` and `plan.apply` are methods of plain data that a file can hold, and must not require an import of
torch, pandas or the reports. Nothing else refers to a package above its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FUNCTIONS = {
    "save_profile": "profiler.record.parquet:save",
    "load_profile": "profiler.record.parquet:load",
    "frames": "profiler.record.frames:Frames",
    "peak_moment": "profiler.record.moments:peak_moment",
    "findings": "profiler.findings:findings",
    "profile_summary": "reports.summary:summary",
    "profile_line": "reports.notebook:one_line",
    "profile_html": "reports.notebook:notebook_html",
    "save_plan": "profiler.planning.plan_file:save",
    "load_plan": "profiler.planning.plan_file:load",
    "plan_text": "reports.plan_text:text_of",
    "plan_html": "reports.plan_text:html_of",
    "plan_code": "profiler.applying.code:code_for",
    "apply": "profiler.applying:apply",
    "offload_strategy": "profiler.applying.offload_strategy:offload_strategy",
}


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call the function of this name in the table, and return what it returns."""
    module, _, function = _FUNCTIONS[name].partition(":")
    return getattr(import_module(module), function)(*args, **kwargs)
