"""Intervals of means and differences, for tables and figures alike; without edges where traces are missing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from bench.analysis.budgets import at_budget, teacher_rows
from bench.analysis.comparing.estimates import Estimate, average
from bench.analysis.comparing.resampling import Point, Resamples, records
from bench.analysis.comparing.verdicts import estimate, gaps, mean_estimate
from bench.analysis.roles import Roles

Side = Sequence[Point]
T = TypeVar("T")


class Interval(NamedTuple):
    """A value and its interval over seeds and examples, as fractions; NaN edges where a trace is missing."""

    value: float
    low: float
    high: float


def means(sets: Sequence[Sequence[Side]], resamples: Resamples | None) -> list[Interval]:
    """Return the interval of each set's score: the mean over tasks of the mean over seeds.

    Args:
        sets: For each interval, for each task, the operating points of all seeds.
        resamples: The resampled scores and the level of the intervals; None gives NaN edges.
    """
    values = [float(np.mean([np.mean([float(row["score"]) for row in rows]) for rows in tasks])) for tasks in sets]
    if resamples is not None:
        resamples.prepare(row for tasks in sets for rows in tasks for row in rows)
    return _intervals(values, sets, mean_estimate, resamples)


def differences(sets: Sequence[Sequence[tuple[Side, Side]]], resamples: Resamples | None) -> list[Interval]:
    """Return the interval of each set's difference in score: paired by seed, then the mean over tasks.

    Args:
        sets: For each interval, for each task, the operating points of both sides; at least one seed in common.
        resamples: The resampled scores and the level of the intervals; None gives NaN edges.
    """
    values = [float(np.mean([gaps(*pair)[-1].mean() for pair in tasks])) for tasks in sets]
    if resamples is not None:
        resamples.prepare(row for tasks in sets for pair in tasks for rows in pair for row in rows)
    return _intervals(values, sets, lambda pair, drawn: estimate(*pair, drawn), resamples)


def _intervals(
    values: Sequence[float],
    sets: Sequence[Sequence[T]],
    of_task: Callable[[T, Resamples], Estimate],
    resamples: Resamples | None,
) -> list[Interval]:
    """Return each value with the interval of the average over its tasks."""
    found = []
    for value, tasks in zip(values, sets, strict=True):
        low = high = np.nan
        if resamples is not None:
            low, high = average([of_task(task, resamples) for task in tasks]).interval(resamples.level)
        found.append(Interval(value, low, high))
    return found


def budget_differences(
    points: pd.DataFrame,
    roles: Roles,
    resamples: Resamples | None,
    budgets: Sequence[float],
    tasks: Sequence[str] | None = None,
) -> dict[tuple[str, float], Interval | None]:
    """Return each method's difference from the teacher at each budget, averaged over tasks; (method, budget) -> it.

    Scores are of the points that `at_budget` chooses, paired with the teacher's full depth by seed. None where a method
    lacks a point, or a seed in common with the teacher, on any task.

    Args:
        points: All operating points.
        roles: The roles of the methods.
        resamples: The resampled scores and the level of the intervals; None gives NaN edges.
        budgets: Speed-ups over the reference.
        tasks: The tasks to average over. Default: all.
    """
    averaged = list(dict.fromkeys(points["task"])) if tasks is None else tasks
    shown = roles.contestants(points)
    teacher = by_task(teacher_rows(points, reference=roles.reference))
    found: dict[tuple[str, float], Interval | None] = {}
    sets = {}
    for budget in budgets:
        chosen = at_budget(shown[shown["method"] != roles.reference], budget)
        for method, rows in chosen.groupby("method"):
            own = by_task(rows[rows["score"].notna()])
            pairs = [common_seeds(own.get(task, []), teacher.get(task, [])) for task in averaged]
            found[str(method), budget] = None
            if all(first for first, _ in pairs):
                sets[str(method), budget] = pairs
    return found | dict(zip(sets, differences(list(sets.values()), resamples), strict=True))


def by_task(rows: pd.DataFrame) -> dict[str, list[Point]]:
    """Return the rows of each task as points."""
    return {str(task): records(group) for task, group in rows.groupby("task")}


def common_seeds(first: Sequence[Point], second: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Return the points of both sides whose seeds both have."""
    seeds = {row["seed"] for row in first} & {row["seed"] for row in second}
    return [row for row in first if row["seed"] in seeds], [row for row in second if row["seed"] in seeds]
