"""One threshold an exit: never worse than one for all, and the same on every run."""

import numpy as np
import pandas as pd
import pytest
from toys import encoder, learned, trace

from bench.choosing.frontier import hypervolume
from bench.choosing.points import evaluate
from bench.choosing.policies import Agreement, Confidence, Entropy, FullDepth, Patience, replay_many
from bench.choosing.thresholds import per_exit
from bench.measuring.counting import measure
from bench.tasks.catalogue import task

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
    one = evaluate(replay_many(policy, data.logits, policy.knobs(GRID, 5, 2)), data, costs, task("sst2"))
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


def test_trials_replay_to_what_the_table_says(costs):
    found, data = study(costs), learned()
    vectors = found.trials.filter(like="threshold_").to_numpy()
    again = evaluate(replay_many(Entropy(), data.logits, vectors), data, costs, task("sst2"))
    np.testing.assert_array_equal(again["score"], found.trials["score"])
    np.testing.assert_array_equal(again["flops"], found.trials["flops"])
    assert (found.trials["origin"] == "sampled").sum() == TRIALS


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
