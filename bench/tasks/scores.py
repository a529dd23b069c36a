"""GLUE's metrics, computed for many rows of predictions at once.

A sweep scores hundreds of operating points on the same examples, so every metric works on the last axis and
keeps the leading ones. Undefined cases follow scikit-learn: Matthews 0, F1 0; a constant prediction has
correlation 0.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.tasks.catalogue import Task

__all__ = ["constant", "scores"]

Floats = NDArray[np.float64]


def scores(task: Task, predictions: ArrayLike, labels: ArrayLike) -> dict[str, Floats]:
    """Every metric of the task, as fractions (accuracy 0.9, not 90).

    predictions: [..., N] class ids, or real values for regression; labels: [N].
    Returns metric name -> array of the predictions' leading shape, the ranking metric first.
    ValueError for no examples, hidden labels (-1), or lengths that differ. NaN predictions of a regression
    give NaN.
    """
    predicted, true = np.asarray(predictions), np.asarray(labels)
    if true.ndim != 1 or predicted.ndim < 1 or predicted.shape[-1] != len(true):
        raise ValueError(f"predictions {predicted.shape} do not match labels {true.shape}")
    if len(true) == 0 or true.min() < 0:
        raise ValueError(f"{task.name}: no labels to score against")
    return {name: METRICS[name](predicted, true) for name in task.metrics}


def constant(task: Task, chosen_on: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Scores on `labels` of the best constant answer under the ranking metric: the control of a task.

    Which constant is best is judged on `chosen_on`, the labels of the selection split; of equally good ones (always so
    for Matthews) the commonest is taken. Regression: the mean, whose correlation is 0.
    """
    selected, true = np.asarray(chosen_on), np.asarray(labels)
    answer = selected.mean()
    if not task.regression:
        classes, counts = np.unique(selected, return_counts=True)
        every = np.repeat(classes[:, None], len(selected), axis=1)
        answer = classes[np.lexsort([counts, scores(task, every, selected)[task.metrics[0]]])[-1]]
    return {name: float(value) for name, value in scores(task, np.full(len(true), answer), true).items()}


def _accuracy(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    return np.asarray((predicted == true).mean(axis=-1), dtype=np.float64)


def _f1(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    """F1 of class 1."""
    hits, guessed, actual, _ = _counts(predicted, true)
    return _ratio(2 * hits, guessed + actual)


def _matthews(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    """Phi coefficient of class 1 against class 0."""
    hits, guessed, actual, total = _counts(predicted, true)
    covariance = hits * total - guessed * actual
    return _ratio(covariance, np.sqrt(guessed * (total - guessed) * actual * (total - actual)))


def _pearson(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    x, y = predicted.astype(np.float64), true.astype(np.float64)
    # Rounding can leave a constant row a tiny variance, so constancy is read before centring.
    constant = (np.ptp(x, axis=-1) == 0) | (np.ptp(y) == 0)
    x -= x.mean(axis=-1, keepdims=True)
    y -= y.mean()
    spread = np.sqrt((x * x).sum(axis=-1) * (y * y).sum())
    return np.clip(_ratio(x @ y, np.where(constant, 0.0, spread)), -1, 1)


def _spearman(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    from scipy.stats import rankdata  # half a second to import, and one task needs it

    return _pearson(rankdata(predicted, axis=-1), rankdata(true))


def _counts(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> tuple[Floats, Floats, float, float]:
    """True positives, predicted positives, actual positives and examples, for class 1."""
    guessed, actual = predicted == 1, true == 1
    hits = np.asarray((guessed & actual).sum(axis=-1), dtype=np.float64)
    positives = np.asarray(guessed.sum(axis=-1), dtype=np.float64)
    return hits, positives, float(actual.sum()), float(len(true))


def _ratio(over: ArrayLike, under: ArrayLike) -> Floats:
    """over / under, and 0 where under is 0."""
    over, under = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    return np.divide(over, under, out=np.zeros(np.broadcast(over, under).shape), where=under != 0)


METRICS: dict[str, Callable[[NDArray[np.generic], NDArray[np.generic]], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
