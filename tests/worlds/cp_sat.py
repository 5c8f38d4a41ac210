"""The search problems as models of OR-Tools' CP-SAT, which is exact on whole numbers as the engine is.

Each option is a literal, and each decision takes one. The rule over sequences is one circuit: a component with a
successor is followed by it, the last one by the depot, and what is left out by itself.
"""

from ortools.sat.python import cp_model

from profiler.planning.search.records import anything_goes
from profiler.planning.sequence_rule import EXCLUDED, LAST


class Model:
    """A problem under a `SequenceRule`, or under no rule, within limits."""

    def __init__(self, problem, limit, use_limits):
        self._model = model = cp_model.CpModel()
        rows = [[(one, model.new_bool_var("")) for one in row] for row in problem.decisions]
        self._pairs = [pair for row in rows for pair in row]
        for row in rows:
            model.add_exactly_one(literal for _, literal in row)
        if problem.step is not anything_goes:
            self._keep(problem.step.__self__, rows)
        for index, (base, most) in enumerate(zip(problem.base_uses, use_limits, strict=True)):
            if most is not None:
                model.add(base + self._total(lambda one, i=index: one.uses[i]) <= most)
        heaviest = sum(max(max(one.load) for one, _ in row) for row in rows)
        most = max(problem.base) + heaviest if limit is None else limit
        peak = model.new_int_var(min(problem.base), most, "peak")
        columns = zip(*(one.load for one, _ in self._pairs), strict=True)
        for column, base in dict(sorted(zip(columns, problem.base, strict=True))).items():
            model.add(base + self._weighed(column) <= peak)  # of moments of equal loads the highest
        penalty = problem.penalty + self._total(lambda one: one.penalty)
        self._goals = (self._total(lambda one: one.cost), peak, penalty)

    def _total(self, figure):
        return self._weighed([figure(one) for one, _ in self._pairs])

    def _weighed(self, figures):
        literals = [literal for _, literal in self._pairs]
        return cp_model.LinearExpr.weighted_sum(literals, figures)

    def _keep(self, rule, rows):
        nodes = rule._targets  # of the components, and of the depot, the end of the sequence
        arcs = [(nodes[LAST], node, self._model.new_bool_var("")) for node in nodes.values()]
        for own, row in enumerate(rows):
            ways = {}
            for one, literal in row:
                ways.setdefault(nodes.get(one.key, own), []).append(literal)
            for node, literals in ways.items():
                arcs.append((own, node, self._model.new_bool_var("")))
                self._model.add(sum(literals) == arcs[-1][2])
        self._model.add_circuit(arcs)
        excluded = [(one.key == EXCLUDED, literal) for one, literal in self._pairs]
        self._model.add_bool_or(literal for is_excluded, literal in excluded if not is_excluded)
        if rule._some_excluded:
            self._model.add_bool_or(literal for is_excluded, literal in excluded if is_excluded)

    def least(self, goal, effort):
        """Return between what the least of a goal is; None if no choice keeps the limits."""
        self._model.minimize(self._goals[goal])
        solver = cp_model.CpSolver()
        solver.parameters.max_deterministic_time = effort
        solver.parameters.num_workers = 1  # so that equal effort has equal ends
        status = solver.solve(self._model)
        assert status != cp_model.MODEL_INVALID, self._model.validate()
        if status == cp_model.INFEASIBLE:
            return None
        found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
        most = round(solver.objective_value) if found else float("inf")
        return round(solver.best_objective_bound), most

    def fix(self, goal, value):
        """Ask for `value` of a goal."""
        self._model.add(self._goals[goal] == value)


def least(problems, limit, use_limits, effort):
    """Return between what the least cost is, then the least peak at that cost, then the least penalty at both.

    The list ends after the first one that is not closed; it is empty if no choice keeps the limits.
    """
    models = [Model(problem, limit, use_limits) for problem in problems]
    found = []
    for goal in range(3):
        reached = [model.least(goal, effort) for model in models]
        pairs = [pair for pair in zip(reached, models, strict=True) if pair[0] is not None]
        if not pairs:
            return found
        found.append(tuple(min(ends) for ends in zip(*(each for each, _ in pairs), strict=True)))
        if found[-1][0] < found[-1][1]:
            return found
        models = [model for each, model in pairs if each[0] == found[-1][0]]
        for model in models:
            model.fix(goal, found[-1][0])
    return found
