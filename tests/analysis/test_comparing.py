"""Averages over seeds and tasks, and the verdicts on pairs of methods."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given, settings

from bench.analysis.comparing.estimates import seed_noise
from bench.analysis.comparing.intervals import differences, means
from bench.analysis.comparing.pairings import pairings
from bench.analysis.comparing.resampling import Resamples, resampled
from bench.analysis.comparing.seeds import deviation_of_mean, geometric, over_seeds, over_tasks
from bench.analysis.comparing.verdicts import ALL, BUDGETS, ONE_SEED, comparable, compare, interquartile_mean
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


def compared(points, results, pairs, *, budgets=BUDGETS, resamples=300, comparison=QUICK, **how):
    """`compare` of pairs of methods at the same speed-ups."""
    asked = pairings(points, pairs, comparison, reference="teacher", budgets=budgets)
    return compare(points, asked, Resamples(results / "runs", resamples=resamples), comparison, **how)


@pytest.fixture(scope="module")
def both(points, results):
    pairs = [("costeff", "first-layers"), ("first-layers", "costeff"), ("costeff", "costeff")]
    return {pair: compared(points, results, [pair]) for pair in pairs}


def test_a_method_is_equal_to_itself(both):
    table = both["costeff", "costeff"]
    made = table[table["seeds"] > 0]
    assert len(made) and made["verdict"].eq("equal").all()
    assert made[["difference", "low", "high"]].eq(0).all(axis=None)


def test_compare_is_antisymmetric(both):
    one, other = both["costeff", "first-layers"], both["first-layers", "costeff"]
    np.testing.assert_allclose(one["low"], -other["high"], atol=1e-12)
    mirrored = {"better": "worse", "worse": "better"}
    assert list(one["verdict"]) == [mirrored.get(word, word) for word in other["verdict"]]
    assert one["verdict"].isin(["better", "worse"]).any()


def test_the_costs_really_reached_stand_beside_the_verdict(both, points):
    row = both["costeff", "first-layers"].query("task == 'mnli' and budget_a == 4").iloc[0]
    cut = points.query("task == 'mnli' and method == 'first-layers' and split == 'validation' and kind == 'static'")
    assert row["speedup_b"] == pytest.approx(6.0, rel=0.01) and cut["speedup"].max() == pytest.approx(6.0, rel=0.01)
    assert row["speedup_a"] >= 3.9
    assert row["difference"] == pytest.approx(row["score_a"] - row["score_b"])


def test_a_budget_with_the_same_points_is_no_new_comparison(points, results):
    once = compared(points, results, [("tinybert", "pabee")], budgets=(1.0,))
    for again in (1.0, 1.0001):
        pd.testing.assert_frame_equal(compared(points, results, [("tinybert", "pabee")], budgets=(1.0, again)), once)


def test_an_impossible_comparison_has_a_reason_no_verdict_and_is_not_counted(points, results):
    table = compared(points, results, [("pabee", "costeff")], budgets=[100.0], resamples=100)
    assert table["note"].tolist() == ["pabee: no point at 100x; costeff: no point at 100x"]
    assert table["verdict"].tolist() == [""] and table.attrs["comparisons"] == {}
    both = compared(points, results, [("pabee", "costeff")], budgets=[2.0, 100.0], resamples=100)
    once = compared(points, results, [("pabee", "costeff")], budgets=[2.0], resamples=100)
    pd.testing.assert_frame_equal(both[both["budget_a"] == 2].reset_index(drop=True), once, check_dtype=False)
    with pytest.raises(UserError, match="no method 'nobody'"):
        compared(points, results, [("nobody", "costeff")])


@pytest.mark.parametrize("swapped", [False, True])
def test_a_method_is_compared_with_the_teacher_at_1x_whatever_its_own_speed_up(points, results, swapped):
    pair = ("teacher", "costeff") if swapped else ("costeff", "teacher")
    table = compared(points, results, [pair], budgets=(2.0, 4.0), resamples=100, single_tasks=False)
    own, teacher = ("b", "a") if swapped else ("a", "b")
    assert table[f"budget_{own}"].tolist() == [2.0, 4.0] and table[f"budget_{teacher}"].tolist() == [1.0, 1.0]
    assert (table[f"speedup_{own}"] >= [1.95, 3.9]).all() and np.allclose(table[f"speedup_{teacher}"], 1.0)


def test_primary_comparisons_are_corrected_apart(points, results):
    declared = Comparison(resamples=100, primary={"contestant": "costeff", "speedups": [2]})
    pairs = [("costeff", "tinybert"), ("costeff", "first-layers"), ("tinybert", "pabee"), ("pabee", "teacher")]
    how = {"budgets": (1.0, 2.0), "resamples": 100, "single_tasks": False, "comparison": declared}
    table = compared(points, results, pairs, **how)
    primary = table[table["family"] == "primary"]
    assert set(zip(primary["a"], primary["b"], strict=True)) == {pairs[0], pairs[1], pairs[3]}
    assert set(primary["budget_a"]) == {2.0}
    alone = compared(points, results, [pairs[0], pairs[1], pairs[3]], **how | {"budgets": (2.0,)})
    np.testing.assert_allclose(primary["p"], alone["p"])
    assert table.attrs["comparisons"]["primary", ALL] == (primary["verdict"] != "").sum()
    for chosen in (pairs, [("costeff", name) for name in ("teacher", "pabee", "tinybert", "first-layers")]):
        wanted = pairings(points, chosen, declared, reference="teacher", budgets=BUDGETS)
        each = {"budgets": BUDGETS, "resamples": 100, "single_tasks": False}
        counts = compared(points, results, chosen, **each).attrs["comparisons"]
        assert comparable(points, wanted) == sum(count for (_, scope), count in counts.items() if scope == ALL)


def test_a_verdict_rests_on_the_tasks_without_which_it_would_be_another(points, results):
    table = compared(points, results, [("costeff", "first-layers")], budgets=[4.0], resamples=100, single_tasks=False)
    row = table.iloc[0]
    rests, differences = set(row["rests_on"].split(", ")) - {""}, []
    for task in sorted(set(points["task"])):
        rest = compared(
            points[points["task"] != task], results, [("costeff", "first-layers")], budgets=[4.0], single_tasks=False
        )
        assert (rest.iloc[0]["verdict"] != row["verdict"]) == (task in rests)
        differences.append(rest.iloc[0]["difference"])
    assert row["least_without_one"] == pytest.approx(min(differences))
    assert row["most_without_one"] == pytest.approx(max(differences))


def test_a_task_that_neither_method_has_leaves_no_verdict_on_all_tasks(points, results):
    pair = ("costeff", "tinybert")
    less = points[(points["task"] != "mrpc") | ~points["method"].isin(pair)]
    table = compared(less, results, [pair], budgets=[2.0], resamples=100).set_index("task")
    assert table.loc[ALL, "verdict"] == "" and "MRPC" in table.loc[ALL, "note"]
    assert table.loc["mnli", "verdict"] in WORDS


def test_the_typical_variance_is_not_that_of_a_few_models():
    rows = [
        {"task": "rte", "method": f"m{model}", "variant": "full", "seed": seed, "kind": "static", "split": "validation"}
        | {"score": 0.5 + 0.01 * seed - (0.4 if model == 0 and seed == 0 else 0)}
        for model in range(5)
        for seed in range(3)
    ]
    assert seed_noise(pd.DataFrame(rows)) == pytest.approx({"rte": 1e-4})


def test_f1_tasks_are_compared_by_accuracy_too(points, results):
    table = compared(points, results, [("costeff", "tinybert")], budgets=[1.0], resamples=100).set_index("task")
    known = table.loc["mrpc"]
    assert known["accuracy"] != known["difference"] and known["accuracy_verdict"] in WORDS
    assert pd.isna(table.loc["rte", "accuracy"]) and table.loc["rte", "accuracy_verdict"] == ""
    others = table.drop(index=[ALL, "mrpc"])["difference"].sum()
    assert table.loc[ALL, "accuracy"] == pytest.approx((others + known["accuracy"]) / (len(table) - 1))


def test_a_failed_seed_is_left_out_on_both_sides_and_one_seed_is_noted(points, results):
    table = compared(points, results, [("tinybert", "costeff")], budgets=[1.0], resamples=100).set_index("task")
    assert table.loc["rte", "seeds"] == 1 and table.loc["rte", "note"] == ONE_SEED
    assert table.loc["mnli", "seeds"] == 2 and table.loc[ALL, "note"] == f"{ONE_SEED} (RTE)"


def shifted(trace: Trace) -> Trace:
    return dataclasses.replace(trace, idx=trace.idx + 1)


def relabelled(trace: Trace) -> Trace:
    return dataclasses.replace(trace, labels=1 - trace.labels)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: shifted(Trace.load(file)).save(file), "different examples"),
        (lambda file: relabelled(Trace.load(file)).save(file), "different examples"),
        (lambda file: file.unlink(), "no trace"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "not a readable trace"),
    ],
)
def test_a_comparison_with_an_unusable_trace_is_refused_by_name(tmp_path, damage, reason):
    """Without its row the family would be smaller, and other verdicts would change."""
    results = synthetic.write_results(tmp_path, tasks=("rte",), seeds=(2,), examples=60)
    file = results / "runs" / "rte" / "pabee" / "base" / "seed2" / "trace-validation.parquet"
    damage(file)
    points = synthetic.read_points(results)
    with pytest.raises(UserError, match=reason) as refusal:
        compared(points, results, [("teacher", "pabee"), ("teacher", "costeff")], budgets=[1.0], resamples=100)
    assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_resamples_of_separate_calls_are_paired(seed):
    rng = np.random.default_rng(seed)
    labels, answers = rng.integers(2, size=50), rng.integers(2, size=(2, 50))
    together = resampled("f1", list(answers), labels, resamples=20)
    apart = [resampled("f1", [each], labels, resamples=20)[:, 0] for each in answers]
    np.testing.assert_allclose(together, np.column_stack(apart))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_the_interquartile_mean_is_the_mean_of_the_middle_half(values):
    repeated = np.sort(np.repeat(values, 4))
    assert interquartile_mean(np.array(values)) == pytest.approx(repeated[len(values) : 3 * len(values)].mean())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_means_and_differences_agree_without_traces(seeds: list[int]) -> None:
    rows = [{"seed": seed, "score": 0.1 * place} for place, seed in enumerate(dict.fromkeys(seeds))]
    zero = [row | {"score": 0.0} for row in rows]
    (mean,), (difference,) = means([[rows]], None), differences([[(rows, zero)]], None)
    assert mean.value == pytest.approx(difference.value) and np.isnan(mean.low) and np.isnan(difference.high)
