"""One threshold an exit: never worse than a corner, than one for all or than all there are; the same on every run."""

from fractions import Fraction
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import encoder, learned, trace

from bench.analysis import thresholds as searching
from bench.analysis.frontier import hypervolume
from bench.analysis.points import evaluate
from bench.analysis.thresholds import per_exit
from bench.exit_policies.policies import (
    Agreement,
    Confidence,
    Entropy,
    FullDepth,
    Patience,
    Policy,
    policy_for,
    replay_many,
)
from bench.measuring.counting import measure
from bench.tasks.catalogue import task
from bench.trace import Costs, Trace

GRID, TRIALS = 40, 120
ENTROPY = Entropy()


@pytest.fixture(scope="module")
def costs():
    return measure(encoder(heads=[4] * 5, ffn=[64] * 5, exits=[1, 2, 3, 4, 5], num_labels=2))


def study(costs, policy=ENTROPY, seed=0, data=None, name="sst2"):
    return per_exit(policy, learned() if data is None else data, costs, task(name), grid=GRID, trials=TRIALS, seed=seed)


@pytest.mark.parametrize("policy", [Entropy(), Confidence(), Patience(), Entropy(exit_start=2)], ids=str)
def test_the_frontier_is_never_below_the_uniform_one(costs, policy):
    found, data = study(costs, policy), learned()
    own = evaluate(replay_many(policy, data.logits, found.vectors), data, costs, task("sst2"))
    one = evaluate(replay_many(policy, data.logits, policy.thresholds(GRID, 5, 2)), data, costs, task("sst2"))
    for row in one.itertuples():
        assert ((own["score"] >= row.score) & (own["flops"] <= row.flops)).any()
    assert own["flops"].is_monotonic_increasing and own["score"].is_monotonic_increasing


def test_exits_that_differ_in_sureness_gain_from_thresholds_of_their_own(costs):
    trials = study(costs).trials
    areas = [
        hypervolume(rows["score"], rows["flops"], teacher_flops=trials["flops"].max(), floor=0.5)
        for rows in (trials, trials[trials["origin"] == "uniform"])
    ]
    assert areas[0] > areas[1] + 0.005


def test_two_studies_are_identical_and_seeds_differ(costs):
    first, second, other = study(costs), study(costs), study(costs, seed=1)
    pd.testing.assert_frame_equal(first.trials, second.trials, check_exact=True)
    assert first.vectors == second.vectors
    assert not first.trials.equals(other.trials)


def test_replayed_trials_equal_the_table(costs):
    found, data = study(costs), learned()
    vectors = found.trials.filter(like="threshold_").to_numpy()
    again = evaluate(replay_many(Entropy(), data.logits, vectors), data, costs, task("sst2"))
    np.testing.assert_array_equal(again["score"], found.trials["score"])
    np.testing.assert_array_equal(again["flops"], found.trials["flops"])
    assert (found.trials["origin"] == "sampled").sum() == TRIALS
    assert not (study(costs, Patience()).trials["origin"] == "sampled").any()  # 24 vectors: all were tried


def test_regression_searches_tolerances(costs):
    rng = np.random.default_rng(0)
    labels = rng.uniform(0, 5, 200).astype(np.float32)
    values = labels + rng.normal(size=(5, 200)) * np.array([2, 1, 0.6, 0.3, 0.2])[:, None]
    found = study(costs, Agreement(), data=trace(values[..., None], labels), name="stsb")
    assert len(found.vectors) > 3
    assert not found.trials["score"].isna().any()


@pytest.mark.parametrize(("policy", "exits"), [(FullDepth(), 5), (Entropy(), 1), (Entropy(), 2), (Patience(), 3)])
def test_nothing_to_search_is_an_empty_study(costs, policy, exits):
    found = study(costs, policy, data=trace(learned().logits[:exits], learned().labels))
    assert found.vectors == [] and found.trials.empty


@st.composite
def small_cases(draw) -> tuple[Policy, str, Trace, Costs]:
    """A rule, a task whose metric is of any kind, few examples and exits; costs that grow with depth and length."""
    name = draw(st.sampled_from(["sst2", "mrpc", "cola", "mnli", "stsb"]))
    exits, count = draw(st.integers(3, 5)), draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    outputs = task(name).outputs
    logits = np.round(rng.normal(size=(exits, count, outputs)) * draw(st.sampled_from([0.1, 2, 50])), 1)
    labels = rng.uniform(0, 5, count).astype(np.float32) if name == "stsb" else rng.integers(outputs, size=count)
    policy = policy_for(draw(st.sampled_from(["entropy", "confidence", "patience"])), task(name).regression, 1)
    if draw(st.booleans()) and policy.earliest < exits - 3:
        policy = type(policy)(exit_start=2)
    steps = np.cumsum(rng.integers(1, 5, exits)).tolist()
    costs = Costs(7, 5, tuple(steps), tuple((Fraction(0), Fraction(step), Fraction(0)) for step in steps))
    return policy, name, trace(logits, labels, rng.integers(3, 30, count)), costs


def attained(policy: Policy, name: str, data: Trace, costs: Costs, vectors) -> np.ndarray:
    """[K, 2] score and cost of thresholds on a trace."""
    table = evaluate(replay_many(policy, data.logits, vectors), data, costs, task(name))
    return table[["score", "flops"]].to_numpy()


def nothing_beats(found: np.ndarray, others: np.ndarray) -> bool:
    return all(((found[:, 0] >= s - 1e-12) & (found[:, 1] <= c * (1 + 1e-12))).any() for s, c in others)


@pytest.mark.parametrize("whole", [True, False])
@given(case=small_cases(), grid=st.integers(2, 5), trials=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_nothing_in_the_space_beats_what_is_found(case, grid, trials, whole):
    policy, name, data, costs = case
    exits, _, outputs = data.logits.shape
    values = policy.thresholds(grid, exits, outputs)
    free = range(policy.earliest, exits - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_WHOLE", 2_000_000 if whole else 0)
        result = per_exit(policy, data, costs, task(name), grid=grid, trials=trials, seed=0)
    if len(free) < 2:
        assert result.vectors == []
        return
    found = attained(policy, name, data, costs, result.vectors)
    corners = np.full((exits, exits), values[-1])
    for k in free:
        corners[k, k] = values[0]
    assert nothing_beats(found, attained(policy, name, data, costs, corners))
    assert nothing_beats(found, attained(policy, name, data, costs, values))
    if whole:
        every = np.full((len(values) ** len(free), exits), values[-1])
        every[:, free.start : free.stop] = list(product(values, repeat=len(free)))
        assert nothing_beats(found, attained(policy, name, data, costs, every))


@given(case=small_cases(), grid=st.integers(2, 12), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_all_thresholds_of_an_exit_at_once_are_judged_as_one_at_a_time(case, grid, seed):
    policy, name, data, costs = case
    space = searching._Space.of(policy, data, costs, task(name), grid)
    rng = np.random.default_rng(seed)
    choices = np.stack([rng.integers(len(levels), size=3) for levels in space.levels], axis=1)
    np.testing.assert_array_equal(space.exits_taken(choices), replay_many(policy, data.logits, space.vectors(choices)))
    for f, levels in enumerate(space.levels):
        score, cost = searching._Neighbours(space).at(choices, f)
        for level in range(len(levels)):
            changed = choices.copy()
            changed[:, f] = level
            expected = space.evaluate(changed)
            np.testing.assert_allclose(score[:, level], expected[0], atol=1e-6 if name == "stsb" else 1e-12)
            np.testing.assert_allclose(cost[:, level], expected[1])


@pytest.mark.parametrize(
    ("policy", "name"), [(Entropy(), "sst2"), (Confidence(), "cola"), (Patience(), "mrpc")], ids=str
)
def test_with_eleven_free_exits_no_change_of_one_threshold_helps(policy, name):
    data = learned(count=40, exits=12)
    costs = Costs(7, 5, tuple(range(1, 13)), tuple((Fraction(0), Fraction(n), Fraction(0)) for n in range(1, 13)))
    result = per_exit(policy, data, costs, task(name), grid=10, trials=20, seed=0)
    found = attained(policy, name, data, costs, result.vectors)
    thresholds = policy.thresholds(10, 12, 2)
    for vector in result.vectors:
        for e in range(policy.earliest, 11):
            others = np.repeat([vector], len(thresholds), axis=0)
            others[:, e] = thresholds
            assert nothing_beats(found, attained(policy, name, data, costs, others))


def test_many_examples_are_searched_by_a_sample_and_judged_in_full(monkeypatch, costs):
    monkeypatch.setattr(searching, "_EXAMPLES", 50)
    counts, some = [], searching._Space.some

    def counted(space: searching._Space, seed: int) -> searching._Space:
        counts.append(len((chosen := some(space, seed)).labels))
        return chosen

    monkeypatch.setattr(searching._Space, "some", counted)
    found, data = study(costs), learned()
    assert set(counts) == {50} and len(data.labels) > 50
    assert nothing_beats(
        attained(Entropy(), "sst2", data, costs, found.vectors),
        attained(Entropy(), "sst2", data, costs, Entropy().thresholds(GRID, 5, 2)),
    )
