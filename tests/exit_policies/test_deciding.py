"""Decisions exit by exit equal those of the replay, even where the statistic is close to the threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.exit_policies.deciding import fixed, rule
from bench.exit_policies.policies import Agreement, Confidence, Entropy, FullDepth, Patience, Policy, replay

POLICIES = [Entropy(), Entropy(exit_start=2), Confidence(), Patience(), Patience(exit_start=2), FullDepth()]
REGRESSION = [Agreement(), Agreement(exit_start=2), Agreement(run=2)]
CLOSE = [Patience(tolerance=1.0), Patience(exit_start=2, tolerance=20.0)]  # on regression


def exits_taken(decide, logits: np.ndarray) -> np.ndarray:
    """Return the exits [N], from one decision per exit on the examples that remain, as the engine makes them."""
    exits = np.full(logits.shape[1], len(logits) - 1)
    rows = np.arange(logits.shape[1])
    for e in range(len(logits) - 1):
        going = decide([logits[i, rows] for i in range(e + 1)])
        assert going.dtype == bool and going.shape == rows.shape
        exits[rows[going]] = e
        rows = rows[~going]
        if not len(rows):
            break
    return exits


def same_decisions(policy: Policy, logits: np.ndarray, threshold) -> None:
    expected = replay(policy, logits, threshold)
    np.testing.assert_array_equal(exits_taken(rule(policy, threshold), logits), expected)
    for i in range(logits.shape[1]):
        np.testing.assert_array_equal(exits_taken(rule(policy, threshold), logits[:, i : i + 1]), expected[i : i + 1])


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(POLICIES + REGRESSION + CLOSE))
def test_decisions_are_the_replays(data, policy):
    exits, count = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    outputs = 1 if policy in REGRESSION + CLOSE else data.draw(st.integers(2, 3))
    values = st.sampled_from([0.0, 1.0, -1.0, 30.0, -100.0]) | st.floats(-50, 50, width=32)
    logits = data.draw(arrays(np.float32, (exits, count, outputs), elements=values))
    statistic = policy.statistic(logits).ravel()
    # On a statistic, next to it, anywhere, and at both ends of the range.
    at = data.draw(st.sampled_from(statistic.tolist()))
    near = [at, np.nextafter(at, np.inf), np.nextafter(at, -np.inf), at + 1e-12, at - 1e-12]
    one = st.sampled_from([*near, *policy.thresholds(5, exits, outputs).tolist()]) | st.floats(0, 4)
    same_decisions(policy, logits, data.draw(one))
    same_decisions(policy, logits, data.draw(st.lists(one, min_size=exits, max_size=exits)))


@pytest.mark.parametrize("policy", [Entropy(), Confidence()], ids=str)
def test_a_threshold_on_the_statistic_itself_is_a_tie(policy):
    logits = np.random.default_rng(0).normal(size=(4, 200, 3)).astype(np.float32)
    for threshold in policy.statistic(logits)[0, :50]:
        same_decisions(policy, logits[:, :60], float(threshold))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("policy", [Entropy(), Confidence(), Patience()], ids=str)
def test_a_broken_answer_is_treated_as_the_replay_treats_it(policy, value):
    logits = np.zeros((3, 2, 2), dtype=np.float32)
    logits[0, 0, 1] = value
    with np.errstate(invalid="ignore"):
        for threshold in (0.5, 0.6931471805599453, 1.0, 2.0):
            same_decisions(policy, logits, threshold)


def test_an_own_policy_is_evaluated_too():
    class Second(Entropy):
        """A contestant's own rule: its decisions are its own, not those of the class it comes from."""

        def decide(self, statistic, threshold):
            return statistic >= np.asarray(threshold)

    same_decisions(Second(), np.random.default_rng(1).normal(size=(4, 20, 2)).astype(np.float32), 0.5)


@pytest.mark.parametrize("exit_index", [0, 2, 3])
def test_a_fixed_exit_is_the_exit_of_all_examples(exit_index):
    assert (exits_taken(fixed(exit_index), np.zeros((4, 5, 2), dtype=np.float32)) == exit_index).all()
