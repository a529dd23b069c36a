import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, matthews_corrcoef

from bench.analysis.metrics import METRICS, SUM_FORMS, constant, hidden, score, scores
from bench.tasks.catalogue import task

sizes = st.tuples(st.integers(1, 4), st.integers(1, 30))


def rows_and_labels(elements: st.SearchStrategy, dtype: type) -> st.SearchStrategy:
    return sizes.flatmap(
        lambda size: st.tuples(arrays(dtype, size, elements=elements), arrays(dtype, size[1], elements=elements))
    )


@settings(max_examples=40, deadline=None)
@given(rows_and_labels(st.integers(0, 1), np.int64))
def test_binary_metrics_are_scikit_learns(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = drawn
    cola, mrpc = scores(task("cola"), predictions, labels), scores(task("mrpc"), predictions, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row, predicted in enumerate(predictions):
            assert cola["matthews"][row] == pytest.approx(matthews_corrcoef(labels, predicted))
            assert mrpc["f1"][row] == pytest.approx(f1_score(labels, predicted, zero_division=0))
            assert mrpc["accuracy"][row] == pytest.approx(accuracy_score(labels, predicted))


@settings(max_examples=60, deadline=None)
@given(rows_and_labels(st.integers(0, 4), np.int64))
def test_metrics_of_many_classes_are_scikit_learns(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = drawn
    ours = {name: score(name, predictions, labels) for name in ("matthews", "f1_macro", "balanced_accuracy")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row, predicted in enumerate(predictions):
            assert ours["matthews"][row] == pytest.approx(matthews_corrcoef(labels, predicted), abs=1e-12)
            assert ours["f1_macro"][row] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
            assert ours["balanced_accuracy"][row] == pytest.approx(balanced_accuracy_score(labels, predicted))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_keeps_leading_axes_and_is_best_where_all_is_right(name: str) -> None:
    labels = np.array([0, 1, 1, 0, 1, 0])
    rows = np.stack([labels, 1 - labels, np.roll(labels, 1)])
    values = score(name, rows[:, None], labels)
    assert values.shape == (3, 1) and values[0, 0] == pytest.approx(1) and (values <= 1 + 1e-12).all()
    assert score(name, labels, labels).shape == ()
    assert [score(name, row, labels) for row in rows] == values[:, 0].tolist()


def test_hidden_labels() -> None:
    assert hidden(np.array([0, -1])) and not hidden(np.array([0, 1]))
    assert hidden(np.array([0.5, np.nan])) and not hidden(np.array([-1.0, 0.5]))


@settings(max_examples=40, deadline=None)
@given(rows_and_labels(st.sampled_from([0.0, 0.2, 1.0, 2.5, 3.8, 4.0, 5.0]), np.float32))
def test_correlations_are_scipys_and_zero_where_undefined(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = drawn
    ours = scores(task("stsb"), predictions, labels)
    for row, predicted in enumerate(predictions.astype(np.float64)):
        if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
            assert ours["pearson"][row] == ours["spearman"][row] == 0
        else:
            assert ours["pearson"][row] == pytest.approx(pearsonr(predicted, labels.astype(np.float64))[0])
            assert ours["spearman"][row] == pytest.approx(spearmanr(predicted, labels)[0])


def test_ranking_metric_comes_first() -> None:
    assert list(scores(task("qqp"), [1, 0], [1, 1])) == ["f1", "accuracy"]
    assert list(scores(task("stsb"), [1.0, 0.0], [1.0, 2.0])) == ["pearson", "spearman"]


def test_diverged_regression_scores_nan() -> None:
    assert np.isnan(scores(task("stsb"), [1.0, np.nan, 2.0], [1.0, 2.0, 3.0])["pearson"])
    assert np.isnan(scores(task("stsb"), [1.0, np.nan, 2.0], [1.0, 2.0, 3.0])["spearman"])


@pytest.mark.parametrize(("predictions", "labels"), [([], []), ([1, 0], [-1, -1]), ([1, 0, 1], [1, 0])])
def test_nothing_to_score(predictions: list[int], labels: list[int]) -> None:
    with pytest.raises(ValueError):
        scores(task("rte"), predictions, labels)


def test_constant() -> None:
    assert constant(task("mrpc"), [1, 1, 0], [1, 0, 0, 0]) == {"f1": pytest.approx(0.4), "accuracy": 0.25}
    # Not the commonest label: F1 is of class 1, and "always 0" has none.
    assert constant(task("qqp"), [0, 0, 0, 1], [1, 1, 0, 0])["f1"] == pytest.approx(2 / 3)
    assert constant(task("cola"), [1, 1, 0], [1, 0])["matthews"] == 0
    assert constant(task("stsb"), [1.0, 2.0], [3.0, 4.0]) == {"pearson": 0, "spearman": 0}


@settings(max_examples=60, deadline=None)
@given(rows_and_labels(st.integers(0, 1), np.int64), st.sampled_from(["accuracy", "f1", "matthews"]))
def test_metrics_of_sums_are_those_of_examples(drawn: tuple[np.ndarray, np.ndarray], name: str) -> None:
    predictions, labels = drawn
    terms, of_sums = SUM_FORMS[name]
    means = [each.mean(axis=1) for each in terms(predictions.astype(float), labels.astype(float))]
    assert of_sums(*means) == pytest.approx(score(name, predictions, labels), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(rows_and_labels(st.sampled_from([0.1, 0.3, 1.0, 2.7, 5.0]), np.float64), st.integers(0, 2**32 - 1))
def test_a_resample_without_variance_has_no_correlation(drawn: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    predictions, labels = drawn
    terms, of_sums = SUM_FORMS["pearson"]
    columns = terms(predictions, labels)
    for rows in np.random.default_rng(seed).integers(len(labels), size=(5, len(labels))):
        expected = score("pearson", predictions[:, rows], labels[rows])
        got = of_sums(*(each[:, rows].mean(axis=1) for each in columns))
        assert got == pytest.approx(expected, abs=1e-6)
