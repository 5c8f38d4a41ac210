"""A plan for the terminal and for the notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from profiler.checking.plain_text import one_line
from profiler.planning.plan_calls import called_as
from profiler.units import format_bytes, format_range, format_seconds
from reports.placement_words import inside_words, worded

if TYPE_CHECKING:
    from profiler.planning.plan import Alternative, Margin, Plan, PlannedCall, Predicted


ONE_MEMORY = "host and GPU share it: weights that leave the GPU take as much on the host, so offloading frees nothing"


def text_of(plan: Plan) -> str:
    """Return the plan in a few lines."""
    own = plan.pipeline_class
    what = f"{plan.model} ({own})" if plan.model else own
    lines = [
        f"Plan for {what} within {format_bytes(plan.budget_bytes)}",
        f"  sequence   {' -> '.join(plan.sequence) or 'none'}",
        f"  resident   {', '.join(plan.excluded) or 'none'}{' (sticky)' if plan.sticky else ''}",
        *_outside(plan),
        *(
            f"  {'' if number else 'besides':<9}  {phrase}"
            for number, phrase in enumerate(inside_words(plan))
        ),
        *([f"  run        {'; '.join(plan.run_words)}"] if plan.run_words else []),
        *(
            f"  {'' if number else 'call':<9}  {call}"
            for number, call in enumerate(called_as(plan))
        ),
        *([f"  gpu        {_gpu(plan)}"] if plan.gpu else []),
        *([f"  memory     {ONE_MEMORY}"] if plan.gpu_is_unified else []),
        f"  predicted  {_figures(plan.predicted)}",
        f"  as it is   {_figures(plan.stock.predicted)}",
        *_calls(plan),
        f"  host RAM   {_host(plan.predicted)}",
        f"  margin     {_sum(plan.margin)}",
        f"  proof      {_proof(plan)}",
    ]
    if plan.runner_up is not None:
        lines.append(f"  runner-up  {_alternative(plan.runner_up)}")
    decider = plan.smallest.component or "the pipeline"
    smallest = format_bytes(plan.smallest_budget_bytes)
    lines.append(f"  smallest   {smallest}, decided by {decider} ({plan.smallest.moment})")
    return "\n".join(map(one_line, lines))  # any of them may hold a text from the plan's file


def gap_words(plan: Plan) -> str:
    """Return the proved gap, and how far a simpler plan is from the fastest: `gap 0, 201 ms from the fastest`."""
    tied = plan.tied_seconds
    return f"gap {plan.proof.gap}" + (f", {format_seconds(tied)} from the fastest" if tied else "")


def _proof(plan: Plan) -> str:
    proof = plan.proof
    return f"{gap_words(plan)}: {proof.nodes:,} partial plans opened of {proof.candidates:,}"


def html_of(plan: Plan) -> str:
    """Return the plan as an HTML fragment."""
    rows = [("as it is", plan.stock.predicted), ("this plan", plan.predicted)]
    if plan.runner_up is not None:
        rows.append(("runner-up", plan.runner_up.predicted))
    body = "".join(
        f"<tr><td>{label}</td><td>{format_bytes(one.device_bytes)}</td>"
        f"<td>{format_bytes(one.h2d_weight_bytes)}</td><td>{format_bytes(one.d2h_weight_bytes)}</td>"
        f"<td>{_seconds(one)}</td></tr>"
        for label, one in rows
    )
    placements = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(worded(plan, name))}</td></tr>"
        for name in plan.placements
    )
    calls = "".join(
        f"<tr><td>{one.weight} x {escape(call_words(plan, one))}</td><td></td>"
        f"<td>{format_bytes(one.h2d_weight_bytes)}</td><td>{format_bytes(one.d2h_weight_bytes)}</td>"
        f"<td>{_seconds(one)}</td></tr>"
        for one in plan.signatures
    )
    return (
        f"<h4>Plan for {escape(plan.model or plan.pipeline_class)} "
        f"within {format_bytes(plan.budget_bytes)}</h4>"
        "<table><thead><tr><th></th><th>needs</th><th>up per call</th><th>down per call</th>"
        f"<th>seconds</th></tr></thead><tbody>{body}{calls}</tbody></table>"
        f"<table><thead><tr><th>component</th><th>placement</th></tr></thead><tbody>{placements}</tbody></table>"
        f"<pre>{escape(plan.to_code())}</pre>"
    )


def _gpu(plan: Plan) -> str:
    """Return a phrase for the GPU: its size, whether it is the default, and whether the budget exceeds its memory."""
    words = [plan.gpu]
    if plan.gpu_bytes:
        words.append(format_bytes(plan.gpu_bytes))
    gpu_words = ", ".join(words)
    if plan.gpu_is_default:
        gpu_words += " (the default: name yours with --gpu or gpu=)"
    if plan.gpu_bytes and plan.budget_bytes > plan.gpu_bytes:
        gpu_words += f"; the budget of {format_bytes(plan.budget_bytes)} is more than it has"
    return gpu_words


def _figures(one: Predicted) -> str:
    return (
        f"{format_bytes(one.peak_allocated_bytes)} peak, needs {format_bytes(one.device_bytes)}, "
        f"{format_bytes(one.h2d_weight_bytes)} up and {format_bytes(one.d2h_weight_bytes)} down per call, "
        f"{_seconds(one)}"
    )


def _calls(plan: Plan) -> list[str]:
    """Return a line for each of several calls that the plan is for."""
    return [
        f"  {'' if number else 'calls':<9}  {one.weight} x {call_words(plan, one)}: "
        f"{format_bytes(one.h2d_weight_bytes)} up and {format_bytes(one.d2h_weight_bytes)} down, {_seconds(one)}"
        for number, one in enumerate(plan.signatures)
    ]


def call_words(plan: Plan, one: PlannedCall) -> str:
    """Return the words that distinguish a call from the others: its pipeline, and the arguments that differ."""
    differing = [] if one.pipeline_class == plan.pipeline_class else [one.pipeline_class]
    for name, value in one.call.items():
        if any(other.call.get(name) != value for other in plan.signatures):
            differing.append(name.replace("_", " ") if value is True else f"{name}={value}")
    return one_line(", ".join(differing)) or "as it is called first"


def _host(one: Predicted) -> str:
    """Return a phrase for the host memory that the weights take."""
    total = format_bytes(one.host_pageable_bytes + one.host_pinned_bytes)
    return f"{total} of weights, {format_bytes(one.host_pinned_bytes)} of it pinned"


def _seconds(one: Predicted | PlannedCall) -> str:
    if one.seconds is None:
        return "seconds unknown"
    likely = format_range(one.seconds, one.seconds_band, one.seconds_band_below)
    return format_seconds(one.seconds) + (f" ({likely})" if likely else "")


def _outside(plan: Plan) -> list[str]:
    names = [name for name, placement in plan.placements.items() if placement == "outside"]
    return (
        [f"  outside    {', '.join(names)} (hooked, off the GPU only at the end of a call)"]
        if names
        else []
    )


def _sum(margin: Margin) -> str:
    parts = {
        "context": margin.context_bytes,
        "peak": margin.peak_allocated_bytes,
        "slack": margin.slack_bytes,
        "error band": margin.error_band_bytes,
        **({"on the host": margin.host_bytes} if margin.host_bytes else {}),
    }
    terms = " + ".join(f"{format_bytes(count)} {name}" for name, count in parts.items())
    return f"{terms} = {format_bytes(margin.device_bytes)}, {format_bytes(margin.left_bytes)} left"


def _alternative(one: Alternative) -> str:
    sticky = " (sticky)" if one.sticky else ""
    resident = ", ".join(one.excluded) or "none"
    besides = "".join(f"; {phrase}" for phrase in inside_words(one))
    sequence = " -> ".join(one.sequence) or "none"
    return f"{sequence}; resident {resident}{sticky}{besides}: {_figures(one.predicted)}"
