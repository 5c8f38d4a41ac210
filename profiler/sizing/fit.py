"""The largest batch, number of frames or size that fits a GPU, with the plan or the mode that makes it fit.

Each value that is tried is a traced run. Without a fixed mode the planner says what the smallest plan needs; only the
plan of the answer is confirmed by runs of its own, as `plan_model` does, and where that fails the search goes on below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from profiler.checking.given import check_given, named
from profiler.errors import FindingError, InputError
from profiler.planning.does_not_fit import DoesNotFitError
from profiler.sizing.bracket import Bracket
from profiler.sizing.every_gpu import profile_on_gpus
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import accepted_sizes, plan_model, profile_without_limit
from profiler.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from profiler.planning import Plan, Wish
    from profiler.record.profile import Profile
    from profiler.sizing.every_gpu import OnGpu
    from profiler.sizing.runs import Report

LIMITS = {"batch": 64, "frames": 1025, "height": 4096, "width": 4096, "side": 4096}
"""The quantities, each with the most that is tried if nothing else is said."""

_LEAST_SIDE = 64  # pixels: below, denoisers run out of levels
_SIDES = ("height", "width", "side")


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The largest value that fits, and the next one, which does not."""

    quantity: str  # of `LIMITS`
    value: int
    height: int | None  # None if not part of the question
    width: int | None
    step: int  # in which the pipeline takes it
    limit: int
    budget_bytes: int
    needed_bytes: int  # of a plan as it promises; in a mode context + allocated + error band
    next_value: int | None  # None if the limit fits
    next_missing_bytes: int | None
    tried: tuple[int, ...]  # in order
    plan: Plan | None  # None if a mode was fixed
    run: OnGpu | None  # of that mode; None for a plan

    def summary(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["plan"] = None if self.plan is None else self.plan.summary()
        plain["run"] = None if self.run is None else asdict(self.run)
        return {"schema_version": 1, **plain}


@dataclass(frozen=True)
class _Trial:
    needed_bytes: int
    fits: bool
    profile: Profile | None = None  # to plan from
    run: OnGpu | None = None
    error: FindingError | None = None


def largest_fitting(  # noqa: PLR0913  # each part of the question has its own name
    scenario: Scenario,
    quantity: str,
    *,
    budget_bytes: str | int | None = None,
    planned: bool = True,
    limit: int | None = None,
    ram_bytes: str | int | None = None,
    levers: str | tuple[str, ...] | None = None,
    report: Report | None = None,
) -> Largest:
    """Return the largest value of a quantity with which a scenario fits.

    Args:
        scenario: The scenario; its own value of the quantity, or the pipeline's default, is tried first.
        quantity: "batch", "frames", "height" or "width" (the other side follows in the default's proportions, unless
            the scenario names it), or "side" for a square.
        budget_bytes: GPU memory that may be used; None for all of the scenario's GPU.
        planned: Whether the best plan counts; if not, the scenario's mode as it is.
        limit: The most that is tried; None for that of `LIMITS`.
        ram_bytes: Of plans, as in `plan_model`.
        levers: Of plans, as in `plan_model`.
        report: Called with each step as it begins.

    Raises:
        InputError: if the quantity is unknown, the pipeline does not take it, or the scenario cannot be run.
        FindingError: if not even the smallest value fits.

    Example:
        >>> largest_fitting(Scenario(model="sdxl-base", gpu="rtx-4060"), "batch").value
    """
    instead = "write profiler.Scenario(model='sdxl-base')"
    check_given(scenario, Scenario, to="largest_fitting()", instead=instead)
    check_given(quantity, str, to="largest_fitting()", instead=f"choose {', '.join(LIMITS)}")
    if quantity not in LIMITS:
        raise InputError(f"{named(quantity)} has no largest value: choose {', '.join(LIMITS)}")
    if scenario.also:
        raise InputError("the largest value is that of one call: drop the others (--also)")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InputError(f"{named(limit)} is no limit: give a whole number from 1 on")
    sizes = _Sizes.of(scenario, quantity, limit or LIMITS[quantity], report)
    own = scenario.gpu_spec().capacity_bytes
    budget = own if budget_bytes is None else parse_bytes(budget_bytes)
    trying = _Planned(budget, ram_bytes, levers) if planned else _InMode(budget)
    return _Search(sizes, trying, report).largest()


@dataclass(frozen=True)
class _Sizes:
    """The values that a pipeline takes, and the scenario at each."""

    scenario: Scenario
    quantity: str
    values: tuple[int, ...]
    start: int  # the value that is tried first
    step: int
    limit: int
    sides: tuple[int, int]  # height and width by default; (0, 0) if they do not matter
    fixed: bool  # whether the scenario names the other side

    @classmethod
    def of(cls, scenario: Scenario, quantity: str, limit: int, report: Report | None) -> _Sizes:
        start, step, sides = accepted_sizes(scenario, quantity, report=report)
        least = start % step or step
        if quantity in _SIDES and least < _LEAST_SIDE:
            least += -(-(_LEAST_SIDE - least) // step) * step
        values = tuple(range(least, limit + 1, step))
        if not values:
            raise InputError(
                f"a limit of {limit} is less than the smallest {quantity} that is tried, {least}"
            )
        other = {"height": scenario.width, "width": scenario.height}.get(quantity)
        return cls(scenario, quantity, values, start, step, limit, sides, other is not None)

    def at(self, value: int) -> Scenario:
        """Return the scenario with a value of the quantity."""
        if self.quantity not in _SIDES:
            return replace(self.scenario, **{self.quantity: value})  # type: ignore[arg-type]
        height, width = self.shape(value)
        return replace(self.scenario, height=height, width=width)

    def shape(self, value: int) -> tuple[int, int]:
        """Return height and width at a value of a side."""
        height, width = self.sides
        if self.quantity == "side":
            return value, value
        if self.quantity == "height":
            return value, width if self.fixed else self._beside(value * width // height)
        return height if self.fixed else self._beside(value * height // width), value

    def _beside(self, side: int) -> int:
        return max(side // self.step * self.step, self.step)

    def size(self, value: int) -> int:
        """Return what memory grows with: the value, or the pixels."""
        height, width = self.shape(value) if self.quantity in _SIDES else (1, value)
        return height * width

    def words(self, value: int) -> str:
        """Return a value in words: `side 1024 (1024 x 1024)`."""
        if self.quantity not in _SIDES:
            return f"{self.quantity} {value}"
        return "{} {} ({} x {})".format(self.quantity, value, *self.shape(value))


@dataclass(frozen=True)
class _Planned:
    """Trials of the best plan under a budget."""

    budget_bytes: int
    ram_bytes: str | int | None
    levers: str | tuple[str, ...] | None

    def wish(self) -> Wish:
        from profiler.planning.wish import wish_of

        return wish_of(self.budget_bytes, ram_bytes=self.ram_bytes, levers=self.levers)

    def trial(self, scenario: Scenario, report: Report | None) -> _Trial:
        from profiler.planning.planner import plan_as

        profile = profile_without_limit(
            replace(scenario, mode=scenario.mode.unsplit), report=report
        )
        try:
            plan = plan_as(profile, self.wish())
        except DoesNotFitError as error:
            missing = max(error.missing_bytes, 1)
            return _Trial(self.budget_bytes + missing, fits=False, error=error)
        return _Trial(plan.smallest.budget_bytes, fits=True, profile=profile)

    def confirmed(self, trial: _Trial, report: Report | None) -> Plan:
        """Return the plan, got through by runs of its own.

        Raises:
            FindingError: if no run of a plan gets through.
        """
        assert trial.profile is not None
        return plan_model(
            trial.profile,
            self.budget_bytes,
            ram_bytes=self.ram_bytes,
            levers=self.levers,
            report=report,
        )


@dataclass(frozen=True)
class _InMode:
    """Trials of a mode as it is on a GPU with the budget as its memory.

    A run must get through, and the error band must fit on top of what it allocates; what PyTorch caches besides fills
    the memory, and is given back.
    """

    budget_bytes: int

    def trial(self, scenario: Scenario, report: Report | None) -> _Trial:
        on = scenario.gpu_spec().with_capacity(self.budget_bytes)
        (row,) = profile_on_gpus(replace(scenario, capacity=None), [on], report=report)
        needed_bytes = row.allocated_need_bytes if row.fits else row.needed_bytes
        if row.fits and needed_bytes <= self.budget_bytes:
            return _Trial(needed_bytes, fits=True, run=row)
        missing = max(needed_bytes - self.budget_bytes, 1)
        error = FindingError(
            f"{scenario.model} in mode {scenario.mode.name} does not fit {format_bytes(self.budget_bytes)}: "
            f"{format_bytes(missing)} are missing. Let vram fit choose a plan, without --mode."
        )
        return _Trial(self.budget_bytes + missing, fits=False, run=row, error=error)

    def confirmed(self, trial: _Trial, report: Report | None) -> None:
        """Return None: the run of the trial was the run itself."""


class _Search:
    def __init__(self, sizes: _Sizes, trying: _Planned | _InMode, report: Report | None) -> None:
        self._sizes = sizes
        self._trying = trying
        self._report = report
        self._trials: dict[int, _Trial] = {}  # by position, in order
        values = sizes.values
        start = max((n for n, one in enumerate(values) if one <= sizes.start), default=0)
        needs = [sizes.size(one) for one in values]
        self._bracket = Bracket(needs, trying.budget_bytes, start)

    def largest(self) -> Largest:
        """Return the answer.

        Raises:
            FindingError: if the smallest value does not fit.
        """
        while True:
            self._enclose()
            place = self._bracket.fits
            if place < 0:
                raise self._nothing()
            try:
                plan = self._trying.confirmed(self._trials[place], self._telling(place))
            except FindingError as error:  # its bytes would fit, but no run gets through
                self._refuse(place, error)
            else:
                return self._answer(place, plan)

    def _enclose(self) -> None:
        while (place := self._bracket.next()) is not None:
            found = self._trying.trial(
                self._sizes.at(self._sizes.values[place]), self._telling(place)
            )
            self._trials[place] = found
            self._bracket.note(place, found.needed_bytes, fits=found.fits)

    def _refuse(self, place: int, error: FindingError) -> None:
        """Take back that a value fits, and begin again with what else is known."""
        needed_bytes = max(self._trials[place].needed_bytes, self._trying.budget_bytes + 1)
        self._trials[place] = _Trial(needed_bytes, fits=False, error=error)
        values = self._sizes.values
        needs = [self._sizes.size(one) for one in values]
        self._bracket = Bracket(needs, self._trying.budget_bytes, max(place - 1, 0))
        for position, trial in self._trials.items():
            self._bracket.note(position, trial.needed_bytes, fits=trial.fits)

    def _telling(self, place: int) -> Report | None:
        report, values = self._report, self._sizes.values
        if report is None:
            return None
        known = self._bracket
        fits = "" if known.fits < 0 else f"; {values[known.fits]} fits"
        fails = "" if known.fails == len(values) else f"; {values[known.fails]} does not"
        words = self._sizes.words(values[place])
        return lambda line: report(f"trial {len(self._trials) + 1}, {words}{fits}{fails}: {line}")

    def _nothing(self) -> FindingError:
        smallest = self._sizes.values[0]
        error = self._trials[0].error
        return FindingError(f"Not even {self._sizes.words(smallest)} fits. {error}")

    def _answer(self, place: int, plan: Plan | None) -> Largest:
        sizes, trying = self._sizes, self._trying
        values, found = sizes.values, self._trials[place]
        beyond = self._trials.get(place + 1)
        value = values[place]
        height, width = sizes.shape(value) if sizes.quantity in _SIDES else (None, None)
        return Largest(
            quantity=sizes.quantity,
            value=value,
            height=height,
            width=width,
            step=sizes.step,
            limit=sizes.limit,
            budget_bytes=trying.budget_bytes,
            needed_bytes=found.needed_bytes if plan is None else plan.margin.device_bytes,
            next_value=None if beyond is None else values[place + 1],
            next_missing_bytes=None
            if beyond is None
            else beyond.needed_bytes - trying.budget_bytes,
            tried=tuple(values[one] for one in self._trials),
            plan=plan,
            run=found.run,
        )
