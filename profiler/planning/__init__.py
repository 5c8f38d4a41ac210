"""The best offload plan for a budget: replay of the hooks, cost tables, exact search, and the plan itself."""

from profiler.planning.does_not_fit import DoesNotFitError
from profiler.planning.plan import Plan
from profiler.planning.planner import plan_for, plan_offload, weigh
from profiler.planning.replaying.simulate import simulate
from profiler.planning.wish import Wish

__all__ = ["DoesNotFitError", "Plan", "Wish", "plan_for", "plan_offload", "simulate", "weigh"]
