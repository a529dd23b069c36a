"""Bootstrap over examples: scores of operating points on resamples."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bench.analysis.budgets import POINT, predicted, run_folder
from bench.analysis.comparing.estimates import seed_noise
from bench.analysis.metrics import SUM_FORMS, score
from bench.errors import UserError
from bench.settings import Comparison
from bench.trace import Trace

# Size of the blocks in which resamples are drawn and multiplied (80 MB of float64).
_BLOCK = 10_000_000

Floats = NDArray[np.float64]
Point = Mapping[str, Any]
"""A row of `at_budget` or `operating_points`."""


class Resamples:
    """Scores of operating points on bootstrap resamples of a split's examples. All intervals are based on them.

    All points of a task share the same resamples, so comparisons are paired. Traces are read on demand.
    """

    def __init__(
        self,
        runs: Path,
        *,
        resamples: int,
        split: str = "validation",
        level: float = 0.95,
        noise: Mapping[str, float] | None = None,
    ) -> None:
        """Create an empty cache.

        Args:
            runs: results/<profile>/runs, with the traces.
            resamples: Number of resamples of each task's examples.
            split: The split whose traces are read.
            level: Confidence level of the bands in figures.
            noise: `seed_noise` of the profile's points, for the intervals of averages over tasks.
        """
        self.runs, self.resamples, self.split = runs, resamples, split
        self.level, self.noise = level, dict(noise or {})
        self._scores: dict[tuple[Any, ...], Floats] = {}
        self._examples: dict[str, tuple[NDArray[np.int64], NDArray[Any], Path]] = {}

    def of(self, rows: Sequence[Point]) -> Floats:
        """Return the scores [R, P] of P points of one task on R resamples, in the metric that each row names.

        Raises:
            UserError: As in `prepare`.
        """
        self.prepare(rows)
        return np.column_stack([self._scores[_key(row)] for row in rows])

    def prepare(self, rows: Iterable[Point]) -> None:
        """Resample many points together, which is much faster than one at a time.

        Raises:
            UserError: If a trace is missing or broken, or was recorded on other examples than the first trace of the
                task. A comparison without it would be left out of its family, which changes the other verdicts.
        """
        fresh = {_key(row): row for row in rows if _key(row) not in self._scores}
        for task, metric in dict.fromkeys((key[0], key[-1]) for key in fresh):
            of_task = {key: row for key, row in fresh.items() if (key[0], key[-1]) == (task, metric)}
            answers, labels = {}, np.array([])
            trace, at = None, None
            for key, row in sorted(of_task.items(), key=lambda item: str(item[0])):
                folder = run_folder(row, self.runs)
                if trace is None or folder != at:
                    trace, at = self._trace(folder, task), folder
                labels, answers[key] = trace.labels, predicted(pd.Series(row), trace)
            keys = list(answers)
            block = max(1, 2 * _BLOCK // max(len(labels), 1))
            for few in (keys[start : start + block] for start in range(0, len(keys), block)):
                predictions = [answers[key] for key in few]
                scores = resampled(metric, predictions, labels, resamples=self.resamples)
                self._scores |= dict(zip(few, scores.T.copy(), strict=True))

    def _trace(self, folder: Path, task: str) -> Trace:
        """Return the trace of a run, after checking that its examples are those of the other runs on the task."""
        file = folder / f"trace-{self.split}.parquet"
        trace = Trace.load(file)
        idx, labels, first = self._examples.setdefault(task, (trace.idx, trace.labels, file))
        if not (np.array_equal(idx, trace.idx) and np.array_equal(labels, trace.labels)):
            raise UserError(
                f"{first} and {file} were traced on different examples: run both with the same data settings"
            )
        return trace


def resamples_of(points: pd.DataFrame, runs: Path, comparison: Comparison, *, split: str = "validation") -> Resamples:
    """Return the resamples of a profile, for tables, figures and commands.

    Args:
        points: All operating points.
        runs: results/<profile>/runs, with the traces.
        comparison: Settings of comparisons.
        split: The split whose traces are read.
    """
    return Resamples(
        runs, resamples=comparison.resamples, split=split, level=comparison.level, noise=seed_noise(points)
    )


def records(rows: pd.DataFrame) -> list[Point]:
    """Return the rows as mappings, which are much faster to read than rows of a frame."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _key(row: Point) -> tuple[Any, ...]:
    return (*(row[name] for name in POINT), row["metric"])


def resampled(
    metric: str,
    predictions: Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Floats:
    """Compute scores [R, P] on R bootstrap resamples of N examples, which all P predictions share.

    Accuracy, F1 of class 1, Matthews of two classes and Pearson are functions of weighted sums over examples, so a
    block of resamples is one matrix product. Other metrics are computed one resample at a time. Undefined scores are 0.

    Args:
        metric: A key of `bench.analysis.metrics.METRICS`.
        predictions: P arrays of predictions [N].
        labels: Labels [N].
        resamples: Number R of resamples.
        seed: Seed of the resamples.
    """
    true = np.asarray(labels, float)
    predicted = np.stack([np.asarray(each, float) for each in predictions])
    rng = np.random.default_rng(seed)
    if metric not in SUM_FORMS or (metric == "matthews" and max(true.max(), predicted.max()) > 1):
        kind = float if metric == "spearman" else int
        given, gold = predicted.astype(kind), true.astype(kind)
        rows = rng.integers(len(true), size=(resamples, len(true)))
        return np.stack([score(metric, given[:, row], gold[row]) for row in rows])
    terms, finish = SUM_FORMS[metric]
    columns = terms(predicted, true)
    block = max(1, _BLOCK // len(true))
    scores = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(len(true), size=(size, len(true))) + np.arange(size)[:, None] * len(true)
        weights = np.bincount(drawn.ravel(), minlength=size * len(true)).reshape(size, -1).astype(float)
        scores.append(finish(*(weights @ each.T / len(true) for each in columns)))
    return np.concatenate(scores)
