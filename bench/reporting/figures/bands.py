"""95 % intervals of means and differences. No other figure code knows how `bench.analysis.comparing` resamples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from bench.analysis.comparing.resampling import Point, Resamples
from bench.analysis.comparing.verdicts import Estimate, average, estimate, spread
from bench.errors import UserError

LEVEL = 0.95
RESAMPLES = 500


class Interval(NamedTuple):
    """A value and its interval over seeds and examples, as fractions; NaN edges where a trace is missing."""

    value: float
    low: float
    high: float


def means(sets: Sequence[Sequence[Sequence[Point]]], resamples: Resamples | None) -> list[Interval]:
    """Return the interval of each set's score: the mean over tasks of the mean over seeds.

    Args:
        sets: for each interval, for each task, the operating points of all seeds.
        resamples: the resampled scores; None gives NaN edges.
    """
    if resamples is not None:
        resamples.prepare(row for tasks in sets for rows in tasks for row in rows)

    def task_mean(rows: Sequence[Point]) -> Estimate:
        assert resamples is not None
        scores = np.array([float(row["score"]) for row in rows])
        return spread(scores, resamples.of(rows), int(rows[0]["examples"]), np.random.default_rng(1))

    found = []
    for tasks in sets:
        value = float(np.mean([np.mean([float(row["score"]) for row in rows]) for rows in tasks]))
        try:
            found.append(_interval(value, [] if resamples is None else [task_mean(rows) for rows in tasks]))
        except UserError:
            found.append(_interval(value, []))
    return found


def differences(
    sets: Sequence[Sequence[tuple[Sequence[Point], Sequence[Point]]]], resamples: Resamples | None
) -> list[Interval]:
    """Return the interval of each set's difference in score: paired by seed, then the mean over tasks.

    Args:
        sets: for each interval, for each task, the operating points of both sides; at least one seed in common.
        resamples: the resampled scores; None gives NaN edges.
    """
    if resamples is not None:
        resamples.prepare(row for tasks in sets for pair in tasks for rows in pair for row in rows)
    found = []
    for tasks in sets:
        value = float(np.mean([_paired(*pair) for pair in tasks]))
        try:
            found.append(_interval(value, [] if resamples is None else [estimate(*pair, resamples) for pair in tasks]))
        except UserError:
            found.append(_interval(value, []))
    return found


def _paired(first: Sequence[Point], second: Sequence[Point]) -> float:
    sides = [pd.Series({row["seed"]: float(row["score"]) for row in side}) for side in (first, second)]
    return float((sides[0] - sides[1]).mean())


def _interval(value: float, estimates: Sequence[Estimate]) -> Interval:
    if not estimates:
        return Interval(value, np.nan, np.nan)
    whole = average(estimates)
    half = float(stdtrit(min(whole.freedom, 1e9), (1 + LEVEL) / 2) * whole.error)
    return Interval(value, value - half, value + half)
