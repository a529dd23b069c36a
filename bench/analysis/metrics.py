"""Metrics, computed for many rows of predictions at once, or from sums over examples.

A sweep over thresholds scores hundreds of operating points on the same examples, so every metric reduces the last axis
and keeps the leading ones. Undefined cases follow scikit-learn: Matthews correlation and F1 are 0. The correlation of
constant predictions is 0.

Accuracy, F1, Matthews correlation and Pearson correlation are functions of sums over examples. The bootstrap and the
threshold search compute such sums for many weights or decisions by matrix products, and pass them to `f1_of_sums`,
`matthews_of_sums` and `pearson_of_sums`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.tasks.catalogue import Task

Floats = NDArray[np.float64]
_ROUNDING = 1e-12
"""Largest variance, relative to the mean square, that counts as 0."""


def scores(task: Task, predictions: ArrayLike, labels: ArrayLike) -> dict[str, Floats]:
    """Compute every metric of a task, as fractions (accuracy 0.9, not 90).

    Args:
        task: The task.
        predictions: [..., N] class ids, or real values for a regression. NaN gives NaN.
        labels: [N] labels.

    Returns:
        Metric -> scores of shape [...]; the ranking metric is first.

    Raises:
        ValueError: There are no examples, labels are hidden, or lengths differ.
    """
    return {name: score(name, predictions, labels) for name in task.metrics}


def score(metric: str, predictions: ArrayLike, labels: ArrayLike) -> Floats:
    """Compute one metric. Arguments, shapes and errors are those of `scores`."""
    predicted, true = np.asarray(predictions), np.asarray(labels)
    if true.ndim != 1 or predicted.ndim < 1 or predicted.shape[-1] != len(true):
        raise ValueError(f"predictions {predicted.shape} do not match labels {true.shape}")
    if len(true) == 0 or hidden(true):
        raise ValueError("no labels to score against")
    return METRICS[metric](predicted, true)


def hidden(labels: ArrayLike) -> bool:
    """Return whether any of the labels [N] is hidden: -1 for classes, NaN for real values."""
    true = np.asarray(labels)
    return bool(np.isnan(true).any() if true.dtype.kind == "f" else (true < 0).any())


def constant(task: Task, chosen_on: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return scores of the constant baseline: the best answer that is the same for all examples.

    The answer is chosen by the ranking metric. Of equally good answers (for Matthews correlation all of them) the most
    frequent class is chosen. For a regression the answer is the mean, whose correlation is 0.

    Args:
        task: The task.
        chosen_on: [M] labels of the selection split, on which the answer is chosen.
        labels: [N] labels on which it is scored.

    Returns:
        Metric -> score.
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
    """Return the F1 score of class 1."""
    guessed, actual = predicted == 1, true == 1
    return f1_of_sums((guessed & actual).sum(axis=-1), guessed.sum(axis=-1), actual.sum())


def _f1_macro(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    """Return the mean F1 score of the classes that occur in the labels or in the row's predictions."""
    hits, guessed, actual = _confusion(predicted, true)
    present = (guessed + actual) > 0
    return _ratio(_ratio(2 * hits, guessed + actual).sum(axis=-1), present.sum(axis=-1))


def _balanced_accuracy(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    """Return the mean recall of the classes that occur in the labels."""
    hits, _, actual = _confusion(predicted, true)
    return _ratio(_ratio(hits, actual).sum(axis=-1), (actual > 0).sum())


def _matthews(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    """Return the phi coefficient for two classes, or its generalisation R_K for more (Gorodkin, 2004, eq. 8)."""
    hits, guessed, actual = _confusion(predicted, true)
    total = float(len(true))
    covariance = hits.sum(axis=-1) * total - guessed @ actual
    spread = (total**2 - (guessed**2).sum(axis=-1)) * (total**2 - (actual**2).sum())
    return _ratio(covariance, np.sqrt(spread))


def _pearson(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    x, y = predicted.astype(np.float64), true.astype(np.float64)
    # After centring, rounding can give a constant row a tiny variance.
    constant = (np.ptp(x, axis=-1) == 0) | (np.ptp(y) == 0)
    x -= x.mean(axis=-1, keepdims=True)
    y -= y.mean()
    return pearson_of_sums(0.0, 0.0, np.where(constant, 0.0, (x * x).sum(axis=-1)), (y * y).sum(), x @ y)


def _spearman(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> Floats:
    from scipy.stats import rankdata  # slow to import (0.5 s), used by one task only

    return _pearson(rankdata(predicted, axis=-1), rankdata(true))


def _confusion(predicted: NDArray[np.generic], true: NDArray[np.generic]) -> tuple[Floats, Floats, Floats]:
    """Return hits [..., C], predictions [..., C] and labels [C] of each class id up to the largest one that occurs."""
    classes = range(1, int(max(predicted.max(), true.max())) + 1)
    said = [predicted == each for each in classes]
    right = [true == each for each in classes]
    hits = [(a & b).sum(axis=-1) for a, b in zip(said, right, strict=True)]
    guessed, actual = [a.sum(axis=-1) for a in said], [b.sum() for b in right]
    # Class 0 follows from the totals.
    hits.insert(0, (predicted == true).sum(axis=-1) - sum(hits))
    guessed.insert(0, len(true) - sum(guessed) + np.zeros(predicted.shape[:-1]))
    actual.insert(0, len(true) - sum(actual))
    return np.stack(hits, axis=-1) * 1.0, np.stack(guessed, axis=-1) * 1.0, np.array(actual) * 1.0


def f1_of_sums(hits: ArrayLike, guessed: ArrayLike, actual: ArrayLike) -> Floats:
    """Compute the F1 score of class 1 from numbers, or shares, of examples.

    Args:
        hits: Examples of class 1 that are predicted as class 1.
        guessed: Examples that are predicted as class 1.
        actual: Examples of class 1. All arguments broadcast.
    """
    return _ratio(2 * np.asarray(hits), np.asarray(guessed) + actual)


def matthews_of_sums(hits: ArrayLike, guessed: ArrayLike, actual: ArrayLike, total: float = 1.0) -> Floats:
    """Compute the Matthews correlation of two classes from numbers of examples, or from shares (`total` = 1).

    Args:
        hits: As in `f1_of_sums`.
        guessed: As in `f1_of_sums`.
        actual: As in `f1_of_sums`.
        total: Number of all examples.
    """
    hits, guessed, actual = np.asarray(hits), np.asarray(guessed), np.asarray(actual)
    spread = np.sqrt(guessed * (total - guessed) * actual * (total - actual))
    return _ratio(hits * total - guessed * actual, spread)


def pearson_of_sums(
    x: ArrayLike, y: ArrayLike, xx: ArrayLike, yy: ArrayLike, xy: ArrayLike, total: float = 1.0
) -> Floats:
    """Compute the Pearson correlation from sums over examples, or from means (`total` = 1).

    Args:
        x: Sum of the predictions, less a constant near their mean, which keeps variances accurate.
        y: Sum of the labels, less a constant near their mean.
        xx: Sum of squares of these predictions.
        yy: Sum of squares of these labels.
        xy: Sum of products of both.
        total: Number of examples.
    """
    x, y, xx, yy = np.asarray(x), np.asarray(y), np.asarray(xx), np.asarray(yy)
    of_x, of_y = xx - x * x / total, yy - y * y / total
    # A variance of 0 may be positive by rounding.
    constant = (of_x <= _ROUNDING * xx) | (of_y <= _ROUNDING * yy)
    spread = np.sqrt(np.where(constant, 0.0, of_x * of_y))
    return np.clip(_ratio(np.asarray(xy) - x * y / total, spread), -1, 1)


def _ratio(over: ArrayLike, under: ArrayLike) -> Floats:
    """Return over / under, or 0 where under is 0."""
    over, under = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    return np.divide(over, under, out=np.zeros(np.broadcast(over, under).shape), where=under != 0)


METRICS: dict[str, Callable[[NDArray[np.generic], NDArray[np.generic]], Floats]] = {
    "matthews": _matthews,
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "pearson": _pearson,
    "spearman": _spearman,
}

TITLES = {
    "f1": "F1",
    "f1_macro": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
"""Name of a metric in tables and figures, where it differs."""

SIGNED = ("matthews", "pearson", "spearman")
"""Metrics with the range -1 to 1; that of the others is 0 to 1."""


def _count_terms(x: Floats, y: Floats) -> tuple[Floats, ...]:
    guessed, actual = (x == 1).astype(float), (y == 1).astype(float)
    return guessed * actual, guessed, actual[None]


def _moment_terms(x: Floats, y: Floats) -> tuple[Floats, ...]:
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    return x, y[None], x * x, (y * y)[None], x * y


SUM_FORMS: dict[str, tuple[Callable[[Floats, Floats], tuple[Floats, ...]], Callable[..., Floats]]] = {
    "accuracy": (lambda x, y: ((x == y).astype(float),), lambda correct: correct),
    "f1": (_count_terms, f1_of_sums),
    "matthews": (_count_terms, matthews_of_sums),
    "pearson": (_moment_terms, pearson_of_sums),
}
"""Metric -> a function that maps predictions [P, N] and labels [N] to terms [P or 1, N], and the metric as a function
of weighted means of these terms over examples. Matthews correlation has this form for two classes only."""
