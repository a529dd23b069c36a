"""Averages and verdicts: their laws, and by simulation that they err as seldom as they say."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given, settings

from bench.analysis.comparing.resampling import Resamples, resampled
from bench.analysis.comparing.seeds import deviation_of_mean, geometric, over_seeds, over_tasks
from bench.analysis.comparing.verdicts import ALL, ONE_SEED, Estimate, average, compare, judged, spread
from bench.errors import UserError
from bench.settings import Comparison
from bench.trace import Trace

WORDS = {"better", "worse", "equal", "not decided"}
QUICK = Comparison(resamples=300)
SEEDS = st.dictionaries(
    st.sampled_from(["cola", "rte", "mnli"]),
    st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=1, max_size=5),
    min_size=1,
)


def frame(by_task: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        (task, "m", seed, score, 2.0 + seed) for task, scores in by_task.items() for seed, score in enumerate(scores)
    ]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "score", "speedup"])


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_an_average_weighs_tasks_equally_however_many_seeds_each_has(by_task):
    means = over_seeds(frame(by_task), ["method", "task"], ["score"], ratios=["speedup"])
    whole = over_tasks(means, ["method"], ["score"], list(by_task), ratios=["speedup"]).iloc[0]
    known = [[score for score in scores if score == score] for scores in by_task.values()]
    expected = np.mean([np.mean(scores) if scores else np.nan for scores in known])
    assert whole["score"] == pytest.approx(expected, nan_ok=True)
    assert whole["seeds"] == min(len(scores) for scores in known)
    deviations = [np.std(scores, ddof=1) if len(scores) > 1 else np.nan for scores in known]
    formula = np.sqrt(np.sum(np.square(deviations))) / len(known)
    assert whole["score_std"] == pytest.approx(formula, nan_ok=True, abs=1e-12)
    speedups = [geometric(pd.Series([2.0 + seed for seed in range(len(scores))])) for scores in by_task.values()]
    assert whole["speedup"] == pytest.approx(geometric(pd.Series(speedups)))


def test_the_deviation_of_an_average_is_that_of_averages_of_single_runs():
    rng = np.random.default_rng(0)
    spreads = np.array([0.01, 0.03, 0.02])
    single = rng.normal(scale=spreads, size=(200_000, 3)).mean(axis=1)
    assert deviation_of_mean(pd.Series(spreads)) == pytest.approx(single.std(), rel=0.01)


def simulated(rng, seeds: int, truth: float, of_seeds: float, examples: int = 150, resamples: int = 200) -> Estimate:
    """Two methods' accuracies on shared examples: which are hard is shared, a training shifts its own skill."""
    hard = rng.normal(size=examples)
    answers = [
        hard + rng.normal(scale=0.7, size=examples) < 1.0 + shift
        for shift in np.concatenate([rng.normal(truth, of_seeds, seeds), rng.normal(0, of_seeds, seeds)])
    ]
    true = np.ones(examples)
    boot = resampled("accuracy", answers, true, resamples=resamples, seed=int(rng.integers(1 << 30)))
    observed = np.array([np.mean(each) for each in answers])
    return spread(observed[:seeds] - observed[seeds:], boot[:, :seeds] - boot[:, seeds:], examples, rng)


@pytest.mark.parametrize(("seeds", "of_seeds"), [(1, 0.0), (2, 0.05), (3, 0.05), (3, 0.2), (5, 0.2)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds, of_seeds):
    rng = np.random.default_rng(seeds)
    made = judged_alone([simulated(rng, seeds, 0.0, of_seeds) for _ in range(250)])
    covered = ((made["low"] <= 0) & (made["high"] >= 0)).mean()
    assert 0.91 <= covered <= 0.996


def judged_alone(estimates: list[Estimate]) -> pd.DataFrame:
    return pd.concat([judged([each], QUICK) for each in estimates], ignore_index=True)


@pytest.mark.parametrize(("seeds", "of_seeds"), [(1, 0.0), (3, 0.1)])
def test_twelve_comparisons_without_a_difference_err_together_as_seldom_as_one(seeds, of_seeds):
    rng = np.random.default_rng(4)
    strict = Comparison(margin=0.0)
    wrong = 0
    for _ in range(100):
        words = judged([simulated(rng, seeds, 0.0, of_seeds) for _ in range(12)], strict)["verdict"]
        wrong += words.isin(["better", "worse"]).any()
    assert wrong / 100 <= 0.11


def test_a_real_difference_is_found_among_many_and_a_small_one_called_equal():
    rng = np.random.default_rng(5)
    found = [
        judged([simulated(rng, 5, 1.0, 0.05), *(simulated(rng, 5, 0, 0.05) for _ in range(9))], QUICK)
        for _ in range(40)
    ]
    assert np.mean([table["verdict"].iloc[0] == "better" for table in found]) > 0.9
    wide = Comparison(margin=2.0)
    alike = [judged([simulated(rng, 1, 0.0, 0.0, examples=20_000, resamples=100)], wide) for _ in range(10)]
    assert np.mean([table["verdict"].iloc[0] == "equal" for table in alike]) > 0.9


ESTIMATES = st.lists(
    st.one_of(
        st.none(),
        st.builds(
            Estimate, st.floats(-0.3, 0.3), st.floats(0, 0.1), st.floats(1, 1e4) | st.just(np.inf), st.integers(1, 5)
        ),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(ESTIMATES)
def test_intervals_exclude_zero_exactly_where_holm_rejects(estimates):
    table = judged(estimates, QUICK)
    assert len(table) == len(estimates) and set(table["verdict"]) <= WORDS
    made = table[table["difference"].notna()]
    rejected = made["p"] <= 0.05
    outside = (made["low"] > 0) | (made["high"] < 0)
    touching = np.isclose(made["low"], 0, atol=1e-9) | np.isclose(made["high"], 0, atol=1e-9)
    assert (outside == rejected)[~touching].all()
    inside = (made["low"] >= -0.01) & (made["high"] <= 0.01)
    assert (made.loc[inside, "verdict"] == "equal").all()
    assert (made.loc[outside & ~inside, "verdict"] != "not decided").all()


@settings(max_examples=40, deadline=None)
@given(ESTIMATES.filter(lambda some: any(some)))
def test_more_comparisons_never_make_a_verdict_bolder(estimates):
    alone = [judged([each], QUICK)["p"].iloc[0] for each in estimates if each]
    together = judged(estimates, QUICK)["p"].dropna()
    assert (together.to_numpy() >= np.array(alone) - 1e-12).all()


def test_the_average_of_one_task_is_that_task():
    one = Estimate(0.02, 0.01, 7.0, 3)
    same = average([one])
    assert (same.difference, same.seeds) == (0.02, 3)
    assert (same.error, same.freedom) == pytest.approx((0.01, 7.0))
    assert average([one] * 4).error == pytest.approx(0.005)


@pytest.fixture(scope="module")
def both(points, results):
    resamples = Resamples(results / "runs", resamples=300)
    pairs = [("costeff", "cut"), ("cut", "costeff"), ("costeff", "costeff")]
    return {pair: compare(points, [pair], resamples, QUICK) for pair in pairs}


def test_a_method_is_equal_to_itself(both):
    table = both["costeff", "costeff"]
    made = table[table["seeds"] > 0]
    assert len(made) and made["verdict"].eq("equal").all()
    assert made[["difference", "low", "high"]].eq(0).all(axis=None)


def test_compare_is_antisymmetric(both):
    one, other = both["costeff", "cut"], both["cut", "costeff"]
    np.testing.assert_allclose(one["low"], -other["high"], atol=1e-12)
    mirrored = {"better": "worse", "worse": "better"}
    assert list(one["verdict"]) == [mirrored.get(word, word) for word in other["verdict"]]
    assert one["verdict"].isin(["better", "worse"]).any()


def test_the_costs_really_reached_stand_beside_the_verdict(both, points):
    row = both["costeff", "cut"].query("task == 'mnli' and budget == 4").iloc[0]
    cut = points.query("task == 'mnli' and method == 'cut' and split == 'validation' and kind == 'static'")
    assert row["speedup_b"] == pytest.approx(6.0, rel=0.01) and cut["speedup"].max() == pytest.approx(6.0, rel=0.01)
    assert row["speedup_a"] >= 3.9
    assert row["difference"] == pytest.approx(row["score_a"] - row["score_b"])


def test_a_budget_with_the_same_points_is_no_new_comparison(points, results):
    resamples = Resamples(results / "runs", resamples=300)
    several = compare(points, [("tinybert", "pabee")], resamples, QUICK, budgets=(1.0, 1.01))
    once = compare(points, [("tinybert", "pabee")], resamples, QUICK, budgets=(1.0,))
    assert several.attrs["comparisons"] >= once.attrs["comparisons"]
    doubled = compare(points, [("tinybert", "pabee")], resamples, QUICK, budgets=(1.0, 1.0))
    pd.testing.assert_frame_equal(doubled, once)


def test_what_cannot_be_compared_says_why_and_is_not_counted(points, results):
    resamples = Resamples(results / "runs", resamples=100)
    table = compare(points, [("teacher", "costeff")], resamples, QUICK, budgets=[4.0])
    assert table["note"].tolist() == ["teacher: no point at 4x"] and table["verdict"].tolist() == ["not decided"]
    assert table.attrs["comparisons"] == 0
    with pytest.raises(UserError, match="no method 'nobody'"):
        compare(points, [("nobody", "costeff")], resamples, QUICK)


def test_a_failed_seed_is_left_out_on_both_sides_and_one_seed_says_so(points, results):
    resamples = Resamples(results / "runs", resamples=100)
    table = compare(points, [("tinybert", "costeff")], resamples, QUICK, budgets=[1.0]).set_index("task")
    assert table.loc["rte", "seeds"] == 1 and table.loc["rte", "note"] == ONE_SEED
    assert table.loc["mnli", "seeds"] == 2 and table.loc[ALL, "note"] == f"{ONE_SEED} (rte)"


def test_traces_of_other_examples_and_missing_ones_are_not_compared(tmp_path):
    results = synthetic.write_results(tmp_path, tasks=("rte",), seeds=(2,), examples=60)
    path = results / "runs" / "rte" / "pabee" / "base" / "seed2" / "trace-validation.parquet"
    trace = Trace.load(path)
    Trace(trace.idx + 1, trace.labels, trace.lengths, trace.difficulty, trace.logits).save(path)
    points = synthetic.read_points(results)
    for reason in ("different examples", "no trace"):
        resamples = Resamples(results / "runs", resamples=100)
        table = compare(points, [("teacher", "pabee")], resamples, QUICK, budgets=[1.0])
        assert reason in table["note"].item() and table["verdict"].item() == "not decided"
        path.unlink(missing_ok=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_resamples_pair_what_was_asked_for_at_different_times(seed):
    rng = np.random.default_rng(seed)
    labels, answers = rng.integers(2, size=50), rng.integers(2, size=(2, 50))
    together = resampled("f1", list(answers), labels, resamples=20)
    apart = [resampled("f1", [each], labels, resamples=20)[:, 0] for each in answers]
    np.testing.assert_allclose(together, np.column_stack(apart))
