"""Estimates of scores and differences from a few seeds and many examples, with their intervals.

Model: the score of a run differs from its expectation by the draw of the examples and by the training (the seed). With
K seeds and N examples, the variance of the mean over seeds has two parts:

* *seeds*: the sample variance over the K seeds, divided by K. It has K - 1 degrees of freedom and includes the
  interaction of seeds and examples.
* *examples*: the bootstrap variance of the mean over seeds, less the part that is already in the first, which is
  estimated from the variances of single seeds and of their mean (Owen, The pigeonhole bootstrap, 2007).

Interval: the half-width is sqrt(t_s^2 v_s + t_e^2 v_e), where each part has the Student quantile of its own degrees of
freedom (Howe, Approximate confidence limits on the mean of X + Y, 1974). Percentile and BCa intervals of a bootstrap
over three seeds are too narrow, because resamples of three values underestimate the variance. Satterthwaite's single
number of degrees of freedom is too large when the seeds agree by chance, and inaccurate at strict levels.
`benchmarks/coverage.py` measures this. Intervals are clipped to the bounds of the metric, which does not reduce their
coverage.

Average over tasks: tasks are independent, so variances add. The degrees of freedom of the summed seed parts are the
smaller of two Satterthwaite numbers: one from the estimated variances, and one from the typical seed variance of each
task over all models of the profile (`seed_noise`). The second does not depend on whether the seeds agree by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from bench.analysis.metrics import SIGNED

Floats = NDArray[np.float64]
_BISECTIONS = 60
_LARGE = 1e9


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of two scores (a minus b), as a fraction, with the parts of its variance.

    Attributes:
        value: The estimate.
        seeds_variance: The part of its variance due to seeds.
        seeds_freedom: Degrees of freedom of `seeds_variance`; 0 for one seed, where the variance is unknown.
        examples_variance: The part of its variance due to examples.
        examples_freedom: Degrees of freedom of `examples_variance`.
        seeds: Number of seeds.
        bounds: Smallest and largest possible value.
        noise: Typical seed variance on the task over all models of the profile; 0 if unknown.
    """

    value: float
    seeds_variance: float
    seeds_freedom: float
    examples_variance: float
    examples_freedom: float
    seeds: int
    bounds: tuple[float, float] = (-1.0, 1.0)
    noise: float = 0.0

    def half(self, level: float) -> float:
        """Return half the width of the two-sided interval at `level`, without the bounds."""
        return float(half_width((1 - level) / 2, *self.parts))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the two-sided interval at `level`, clipped to the bounds."""
        half, (least, most) = self.half(level), self.bounds
        return max(self.value - half, least), min(self.value + half, most)

    @property
    def parts(self) -> tuple[float, float, float, float]:
        """Return the arguments of `half_width`: both variances, each followed by its degrees of freedom."""
        return self.seeds_variance, self.seeds_freedom, self.examples_variance, self.examples_freedom


def half_width(
    tail: ArrayLike,
    seeds_variance: ArrayLike,
    seeds_freedom: ArrayLike,
    examples_variance: ArrayLike,
    examples_freedom: ArrayLike,
) -> Floats:
    """Return the error that is exceeded on one side with probability at most `tail`; arguments broadcast."""
    total = np.zeros(())
    for variance, freedom in ((seeds_variance, seeds_freedom), (examples_variance, examples_freedom)):
        quantile = stdtrit(np.clip(freedom, 1, _LARGE), tail)
        total = total + np.square(quantile) * variance
    return np.asarray(np.sqrt(total))


def tails(shifts: ArrayLike, estimates: Sequence[Estimate]) -> Floats:
    """Return one-sided p-values [M] of "the true value is at most 0" for estimates with the values `shifts` [M].

    This inverts `half_width`: a p-value is the tail at which the lower limit of the interval is 0.
    """
    values = np.asarray(shifts, dtype=np.float64)
    parts = np.array([each.parts for each in estimates], dtype=np.float64).reshape(-1, 4).T
    low, high = np.full(values.shape, -150.0), np.full(values.shape, np.log(0.5))  # bounds of log(tail)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        beyond = half_width(np.exp(middle), *parts) > np.abs(values)
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    tail = np.where(values == 0, 0.5, np.exp(high))
    return np.asarray(np.where(values < 0, 1 - tail, tail))


def variances(scores: ArrayLike, resampled: ArrayLike) -> tuple[Floats, Floats]:
    """Split the variance of the mean over K seeds into the part due to seeds and that due to examples.

    Args:
        scores: Values [K, ...] of the seeds.
        resampled: Values [R, K, ...] on R resamples of the examples, shared by all seeds.

    Returns:
        Both parts [...]. With one seed the first is 0.
    """
    observed, drawn = np.asarray(scores, dtype=np.float64), np.asarray(resampled, dtype=np.float64)
    seeds = len(observed)
    of_examples = np.var(drawn.mean(axis=1), axis=0, ddof=1)
    if seeds == 1:
        return np.zeros_like(of_examples), of_examples
    of_seeds = np.var(observed, axis=0, ddof=1) / seeds
    of_both = np.maximum(np.var(drawn, axis=0, ddof=1).mean(axis=0) - of_examples, 0.0) / (seeds - 1)
    # The total variance is at least that of the bootstrap.
    return of_seeds, np.maximum.reduce([of_examples - of_both, of_examples - of_seeds, np.zeros_like(of_examples)])


def estimate_mean(
    scores: Floats, resampled: Floats, examples: int, *, bounds: tuple[float, float] = (-1.0, 1.0), noise: float = 0.0
) -> Estimate:
    """Compute the estimate of the mean over K seeds.

    Args:
        scores: Values [K] of the seeds.
        resampled: Values [R, K] on R resamples of the examples.
        examples: Number of examples.
        bounds: Smallest and largest possible value.
        noise: Typical seed variance on the task; 0 if unknown.
    """
    of_seeds, of_examples = variances(scores, resampled)
    seeds = len(scores)
    return Estimate(
        float(np.mean(scores)), float(of_seeds), seeds - 1, float(of_examples), examples - 1, seeds, bounds, noise
    )


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates on different tasks, which are independent."""
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


def average_if_known(estimates: Iterable[Estimate | None]) -> Estimate | None:
    """Return the mean of estimates on different tasks; None if one is missing or there are none."""
    given = list(estimates)
    known = [each for each in given if each is not None]
    return average(known) if known and len(known) == len(given) else None


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances, given with their degrees of freedom."""
    under = sum(part**2 / freedom for part, freedom in parts if part > 0)
    return sum(part for part, _ in parts) ** 2 / under if under > 0 else _LARGE


def seed_noise(points: pd.DataFrame) -> dict[str, float]:
    """Map each task to the typical variance over seeds of the score at full depth: the median over all models.

    A mean would be that of a few models that did not learn with one seed, and would change the degrees of freedom of
    all other comparisons. Tasks with one seed are left out.
    """
    rows = points[(points["kind"] == "static") & (points["split"] == "validation")]
    of_model = rows.groupby(["task", "method", "variant"])["score"].var(ddof=1).dropna()
    return {str(task): float(value) for task, value in of_model.groupby(level="task").median().items()}


def bounds(metric: str, *, difference: bool) -> tuple[float, float]:
    """Return the smallest and largest possible value of a metric, or of the difference of two values."""
    least = -1.0 if metric in SIGNED else 0.0
    return (least - 1.0, 1.0 - least) if difference else (least, 1.0)
