"""Estimates of scores and differences from a few seeds and many examples, with their intervals.

Model: the score of a run differs from its expectation by the draw of the examples and by the training (the seed). With
K seeds and N examples, the variance of the mean over seeds has two parts:

* *seeds*: the sample variance over the K seeds, divided by K. It has K - 1 degrees of freedom and contains what an
  example does to one seed alone.
* *examples*: the bootstrap variance of the mean over seeds, less what it shares with the first part, estimated from how
  much less the mean scatters than one seed (Owen, The pigeonhole bootstrap, 2007).

Interval: the half-width is sqrt(t_s^2 v_s + t_e^2 v_e), where each part has the Student quantile of its own degrees of
freedom (Howe, Approximate confidence limits on the mean of X + Y, 1974). Percentile and BCa intervals of a bootstrap
over three seeds are too narrow, because three values resampled contain too little variance; Satterthwaite's single
number of degrees of freedom is large just when the seeds happen to agree, and errs at strict levels.
`benchmarks/coverage.py` measures this. An interval is cut at the bounds of its metric, which costs no coverage: no true
value lies outside them.

Average over tasks: tasks are independent, so variances add. The degrees of freedom of the summed seed parts are the
smaller of two Satterthwaite numbers: one from the variances at hand, one from the typical seed variance of each task
over all models of the profile (`seed_noise`). The second does not depend on how well the seeds at hand agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
SIGNED = ("matthews", "pearson", "spearman")
"""Metrics from -1 to 1; the others run from 0 to 1."""
_BISECTIONS = 60
_LARGE = 1e9


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of two (a minus b), as a fraction, and the parts of its variance."""

    value: float
    seeds_variance: float
    seeds_freedom: float
    """Degrees of freedom of `seeds_variance`; 0 for one seed, whose part is unknown."""
    examples_variance: float
    examples_freedom: float
    seeds: int
    bounds: tuple[float, float] = (-1.0, 1.0)
    """What the metric allows."""
    noise: float = 0.0
    """The typical seed variance on the task over all models of the profile; 0 where it is not known."""

    def half(self, level: float) -> float:
        """Return half the width of the two-sided interval at `level`, before it is cut at the bounds."""
        return float(half_width((1 - level) / 2, *self.parts))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the two-sided interval at `level`, within the bounds."""
        half, (least, most) = self.half(level), self.bounds
        return max(self.value - half, least), min(self.value + half, most)

    @property
    def parts(self) -> tuple[float, float, float, float]:
        """Arguments of `half_width`: both variances, each before its degrees of freedom."""
        return self.seeds_variance, self.seeds_freedom, self.examples_variance, self.examples_freedom


def half_width(
    tail: ArrayLike,
    seeds_variance: ArrayLike,
    seeds_freedom: ArrayLike,
    examples_variance: ArrayLike,
    examples_freedom: ArrayLike,
) -> Floats:
    """Return the error that is exceeded with probability `tail` at most, on one side; arguments broadcast."""
    total = np.zeros(())
    for variance, freedom in ((seeds_variance, seeds_freedom), (examples_variance, examples_freedom)):
        quantile = stdtrit(np.clip(freedom, 1, _LARGE), tail)
        total = total + np.square(quantile) * variance
    return np.asarray(np.sqrt(total))


def tails(shifts: ArrayLike, estimates: Sequence[Estimate]) -> Floats:
    """Return one-sided p-values [M] of "the true value is at most 0", where the estimates' values are `shifts` [M].

    The inverse of `half_width`: the tail at which the lower limit of the interval is 0.
    """
    values = np.asarray(shifts, dtype=np.float64)
    parts = np.array([each.parts for each in estimates], dtype=np.float64).reshape(-1, 4).T
    low, high = np.full(values.shape, -150.0), np.full(values.shape, np.log(0.5))  # of the tail's logarithm
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        beyond = half_width(np.exp(middle), *parts) > np.abs(values)
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    tail = np.where(values == 0, 0.5, np.exp(high))
    return np.asarray(np.where(values < 0, 1 - tail, tail))


def variances(scores: ArrayLike, resampled: ArrayLike) -> tuple[Floats, Floats]:
    """Split the variance of the mean over K seeds: the part from the seeds and from the examples; see the module.

    Args:
        scores: [K, ...] observed values of each seed.
        resampled: [R, K, ...] the same on R resamples of the examples, shared by all seeds.

    Returns:
        Both parts, of the arguments' trailing shape. With one seed the first is 0.
    """
    observed, drawn = np.asarray(scores, dtype=np.float64), np.asarray(resampled, dtype=np.float64)
    seeds = len(observed)
    of_examples = np.var(drawn.mean(axis=1), axis=0, ddof=1)
    if seeds == 1:
        return np.zeros_like(of_examples), of_examples
    of_seeds = np.var(observed, axis=0, ddof=1) / seeds
    of_both = np.maximum(np.var(drawn, axis=0, ddof=1).mean(axis=0) - of_examples, 0.0) / (seeds - 1)
    # The total is never below the bootstrap's own.
    return of_seeds, np.maximum.reduce([of_examples - of_both, of_examples - of_seeds, np.zeros_like(of_examples)])


def spread(
    scores: Floats, resampled: Floats, examples: int, *, bounds: tuple[float, float] = (-1.0, 1.0), noise: float = 0.0
) -> Estimate:
    """Return the estimate from K seeds' values [K] and their resamples [R, K] of N `examples`."""
    of_seeds, of_examples = variances(scores, resampled)
    seeds = len(scores)
    return Estimate(
        float(np.mean(scores)), float(of_seeds), seeds - 1, float(of_examples), examples - 1, seeds, bounds, noise
    )


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent tasks' estimates."""
    count = len(estimates)
    several = [each for each in estimates if each.seeds_freedom > 0]
    own = _freedom([(each.seeds_variance, each.seeds_freedom) for each in several])
    typical = _freedom([(each.noise, each.seeds_freedom) for each in several])
    of_examples = [(each.examples_variance, each.examples_freedom) for each in estimates]
    return Estimate(
        value=sum(each.value for each in estimates) / count,
        seeds_variance=sum(each.seeds_variance for each in several) / count**2,
        seeds_freedom=min(own, typical) if several else 0.0,
        examples_variance=sum(each.examples_variance for each in estimates) / count**2,
        examples_freedom=_freedom(of_examples),
        seeds=min(each.seeds for each in estimates),
        bounds=(sum(each.bounds[0] for each in estimates) / count, sum(each.bounds[1] for each in estimates) / count),
    )


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances, given as (variance, its degrees of freedom)."""
    under = sum(part**2 / freedom for part, freedom in parts if part > 0)
    return sum(part for part, _ in parts) ** 2 / under if under > 0 else _LARGE


def seed_noise(points: pd.DataFrame) -> dict[str, float]:
    """Map each task to the variance over seeds of a full-depth model's score, mean over all models of the profile.

    Tasks with one seed are left out.
    """
    rows = points[(points["kind"] == "static") & (points["split"] == "validation")]
    of_model = rows.groupby(["task", "method", "variant"])["score"].var(ddof=1).dropna()
    return {str(task): float(value) for task, value in of_model.groupby(level="task").mean().items()}


def bounds(metric: str, *, difference: bool) -> tuple[float, float]:
    """Return the least and greatest value of a metric, or of a difference of two of its values."""
    least = -1.0 if metric in SIGNED else 0.0
    return (least - 1.0, 1.0 - least) if difference else (least, 1.0)
