"""Intervals of many means and differences at once: those of the tables, or none where traces are missing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from bench.analysis.comparing.estimates import Estimate, average
from bench.analysis.comparing.resampling import Point, Resamples
from bench.analysis.comparing.verdicts import estimate, gaps, mean_estimate

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
        sets: for each interval, for each task, the operating points of all seeds.
        resamples: the resampled scores and the level of the intervals; None gives NaN edges.
    """
    values = [float(np.mean([np.mean([float(row["score"]) for row in rows]) for rows in tasks])) for tasks in sets]
    if resamples is not None:
        resamples.prepare(row for tasks in sets for rows in tasks for row in rows)
    return _intervals(values, sets, mean_estimate, resamples)


def differences(sets: Sequence[Sequence[tuple[Side, Side]]], resamples: Resamples | None) -> list[Interval]:
    """Return the interval of each set's difference in score: paired by seed, then the mean over tasks.

    Args:
        sets: for each interval, for each task, the operating points of both sides; at least one seed in common.
        resamples: the resampled scores and the level of the intervals; None gives NaN edges.
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
