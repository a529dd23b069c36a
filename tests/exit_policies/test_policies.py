"""Exit policies: each paper's definition computed by hand, and the properties that replay relies on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from scipy.stats import entropy

from bench.errors import UserError
from bench.exit_policies.policies import (
    Agreement,
    Confidence,
    Divergence,
    Entropy,
    FullDepth,
    Patience,
    Policy,
    Similarity,
    decide_now,
    policy_for,
    replay,
    replay_many,
)
from bench.tasks.catalogue import task

FAMILIES = [Entropy, Confidence, Patience, Similarity, Divergence, Agreement, FullDepth]


@st.composite
def operated(draw) -> tuple[Policy, np.ndarray]:
    """A policy and logits it can read."""
    family = draw(st.sampled_from(FAMILIES))
    exits, count = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    outputs = 1 if family is Agreement else draw(st.integers(1 if family is Patience else 2, 4))
    logits = draw(arrays(np.float32, (exits, count, outputs), elements=st.floats(-200, 200, width=32)))
    own = {"tolerance": draw(st.floats(0.01, 300))} if family is Patience else {}
    return family(exit_start=draw(st.integers(1, exits)), **own), logits


def predictions(*rows: str) -> np.ndarray:
    """One example a row, one class digit an exit: "0110" -> one-hot logits [E, N, 3]."""
    classes = np.array([[int(digit) for digit in row] for row in rows]).T
    return np.eye(3)[classes] * 4


def test_entropy_is_the_natural_log_entropy_and_survives_underflow():
    logits = np.random.default_rng(0).normal(size=(3, 50, 4)) * 5
    np.testing.assert_allclose(
        Entropy().statistic(logits), entropy(softmax(logits, axis=-1), axis=-1), rtol=1e-9, atol=1e-12
    )
    for gap in (0.0, 104.0, 1e4):
        value = Entropy().statistic(np.array([[[0.0, gap]]], dtype=np.float32))
        assert value == pytest.approx(np.log(2) if gap == 0 else 0.0, abs=1e-12)
    very_sure = np.array([[[0.0, 200.0]], [[0.0, 1.0]]], dtype=np.float32)
    assert replay(Entropy(), very_sure, 0.1).tolist() == [0]


def test_comparisons_are_strict():
    sure = np.array([[[0.0, 1e4]], [[0.0, 1e4]]])  # entropy exactly 0, confidence 1
    assert replay(Entropy(), sure, 0.0).tolist() == [1]
    assert replay(Entropy(), sure, 1e-12).tolist() == [0]
    assert replay(Confidence(), sure, 1.0).tolist() == [1]
    assert replay(Confidence(), sure, 0.999).tolist() == [0]
    values = np.array([[[1.0]], [[1.5]], [[1.5]]])
    assert replay(Agreement(), values, 0.5).tolist() == [2]
    assert replay(Agreement(), values, 0.51).tolist() == [1]


@pytest.mark.parametrize(
    ("row", "patience", "expected"),
    [
        ("000000", 1, 2),  # the earliest exit is t + 1
        ("000000", 3, 4),
        ("000000", 5, 6),
        ("000000", 0, 6),  # t = 0 is full depth
        ("000000", 6, 6),  # and so is t >= L
        ("000000", 9, 6),
        ("010101", 1, 6),  # never twice the same
        ("001111", 2, 5),  # 0 0 agree once, the 1 resets the counter
        ("001011", 1, 2),
        ("011222", 2, 6),
        ("011122", 2, 4),
        ("012000", 2, 6),
    ],
)
def test_patience_is_pabees_counter(row, patience, expected):
    assert replay(Patience(), predictions(row), patience) + 1 == expected


def test_patience_counts_from_exit_start():
    assert (replay(Patience(exit_start=3), predictions("000000", "001111"), 1) + 1).tolist() == [4, 4]


def left_by_pabee(values: list[float], patience: int, tolerance: float) -> int:
    """Return the exit, from 0, of one regression example: PABEE's loop over layers, written out."""
    counter, before = 0, None
    for exit_index, value in enumerate(values):
        if before is not None and abs(value - before) < tolerance:
            counter += 1
        else:
            counter = 0
        before = value
        if counter == patience:
            return exit_index
    return len(values) - 1


@given(st.data())
def test_patience_on_regression_counts_agreements_within_the_tolerance(data):
    exits, count = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    near = st.sampled_from([1.0, 1.05, 1.0999, 1.1, 1.2, 1.25, 3.0]) | st.floats(0, 5, width=32)
    values = data.draw(arrays(np.float32, (exits, count, 1), elements=near))
    tolerance = data.draw(st.sampled_from([0.1, 0.05, 1.0]) | st.floats(1e-3, 5))
    for patience in range(1, exits + 2):
        expected = [left_by_pabee(values[:, i, 0].astype(float).tolist(), patience, tolerance) for i in range(count)]
        assert replay(Patience(tolerance=tolerance), values, patience).tolist() == expected
    assert replay(Patience(tolerance=tolerance), values, 0).tolist() == [exits - 1] * count


def test_patience_on_regression_by_hand():
    values = np.array([[1.0, 0.0], [1.05, 2.0], [1.2, 2.05], [1.22, 2.06], [1.23, 2.07]])[..., None]
    assert replay(Patience(), values, 1).tolist() == [1, 2]
    assert replay(Patience(), values, 2).tolist() == [4, 3]  # 1.05 to 1.2 resets the first one's counter
    assert replay(Patience(), values, 3).tolist() == [4, 4]
    assert replay(Patience(tolerance=0.2), values, 2).tolist() == [2, 3]


def test_agreement_asks_for_a_run_of_close_predictions():
    values = np.array([[1.0, 0.0], [1.05, 2.0], [1.2, 2.05], [1.22, 2.06], [1.23, 2.07]])[..., None]
    assert replay(Agreement(), values, 0.1).tolist() == [1, 2]
    assert replay(Agreement(run=2), values, 0.1).tolist() == [4, 3]
    assert replay(Agreement(run=2), values, np.inf).tolist() == [2, 2]


@given(operated())
def test_statistics_are_causal_and_the_engine_decides_as_the_replay(case):
    policy, logits = case
    exits, count, outputs = logits.shape
    statistic = policy.statistic(logits)
    assert statistic.shape == (exits, count)
    for threshold in policy.thresholds(6, exits, outputs):
        left = np.full(count, -1)
        for e in range(exits):
            prefix = logits[: e + 1]
            np.testing.assert_array_equal(policy.statistic(prefix)[e], statistic[e])
            leaving = (left < 0) & (decide_now(policy, prefix, threshold) if e < exits - 1 else True)
            left[leaving] = e
        np.testing.assert_array_equal(left, replay(policy, logits, threshold))


@given(operated())
def test_thresholds_run_from_the_first_exit_allowed_to_full_depth(case):
    policy, logits = case
    exits, _, outputs = logits.shape
    left = replay_many(policy, logits, policy.thresholds(8, exits, outputs))
    assert (np.diff(left, axis=0) >= 0).all()
    assert (left[-1] == exits - 1).all()
    assert (left >= min(policy.earliest, exits - 1)).all()
    if not isinstance(policy, Patience | FullDepth):
        assert (left[0] == min(policy.earliest, exits - 1)).all()


@given(operated(), st.integers(0, 10**6))
def test_many_thresholds_at_once_equal_one_at_a_time(case, seed):
    policy, logits = case
    exits, _, outputs = logits.shape
    thresholds = policy.thresholds(7, exits, outputs)
    vectors = np.random.default_rng(seed).choice(thresholds, (5, exits))
    many = replay_many(policy, policy.statistic(logits), vectors)
    for row, vector in zip(many, vectors, strict=True):
        np.testing.assert_array_equal(row, replay(policy, logits, vector))
    for row, threshold in zip(replay_many(policy, logits, thresholds), thresholds, strict=True):
        np.testing.assert_array_equal(row, replay(policy, logits, np.full(exits, threshold)))


@given(operated(), st.integers(0, 10**6))
def test_exits_below_exit_start_are_never_read(case, seed):
    policy, logits = case
    other = logits.copy()
    below = policy.exit_start - 1
    other[:below] = np.random.default_rng(seed).normal(size=other[:below].shape) * 50
    thresholds = policy.thresholds(6, len(logits), logits.shape[-1])
    np.testing.assert_array_equal(replay_many(policy, logits, thresholds), replay_many(policy, other, thresholds))


def test_regression_leaves_by_agreement():
    for name in ("entropy", "confidence"):
        assert policy_for(name, task("stsb").regression, exit_start=2) == Agreement(exit_start=2)
        assert policy_for(name, task("sst2").regression).name == name
    assert policy_for("patience", True, 2) == policy_for("patience", False, 2) == Patience(exit_start=2)
    assert policy_for("patience", True, tolerance=0.3) == Patience(tolerance=0.3)
    assert policy_for("none", task("stsb").regression) == FullDepth()


@pytest.mark.parametrize(
    ("name", "on", "start", "culprit"),
    [
        ("entropie", "sst2", 1, "entropie"),
        ("agreement", "sst2", 1, "agreement"),
        ("entropy", "sst2", 0, "exit_start"),
    ],
)
def test_wrong_policies_are_named(name, on, start, culprit):
    with pytest.raises(UserError, match=culprit):
        policy_for(name, task(on).regression, start)


def test_a_vector_of_the_wrong_length_is_an_error():
    with pytest.raises(ValueError, match="3 exits"):
        replay(Entropy(), np.zeros((3, 2, 2)), [0.1, 0.2])
    with pytest.raises(UserError, match=r"thresholds\.grid is 1"):
        Entropy().thresholds(1, 3, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3), st.floats(0.001, 1.1), st.booleans())
def test_an_example_exits_after_a_run_of_small_scores(seed, run, exit_start, threshold, jensen_shannon):
    """Count successive small scores and exit when the count reaches `run`."""
    logits = np.random.default_rng(seed).normal(scale=2, size=(6, 30, 3)).astype(np.float32)
    p = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=-1, keepdims=True)
    expected = []
    for n in range(30):
        counter, left = 0, 5
        for e in range(exit_start, 6):
            middle = (p[e, n] + p[e - 1, n]) / 2
            score = -(middle * np.log(middle)).sum()
            if jensen_shannon:
                score -= sum(-(q * np.log(q)).sum() / 2 for q in (p[e, n], p[e - 1, n]))
            counter = counter + 1 if score < threshold else 0
            if counter >= run:
                left = e
                break
        expected.append(left)
    policy = Divergence(exit_start, run) if jensen_shannon else Similarity(exit_start, run)
    assert replay(policy, logits, threshold).tolist() == expected
