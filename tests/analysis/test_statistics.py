import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given, settings

from bench.analysis import budgets, statistics
from bench.analysis.comparing.resampling import resampled
from bench.analysis.metrics import scores
from bench.errors import UserError
from bench.tasks.catalogue import TASKS, task
from bench.trace import Trace

POINTS = st.lists(st.tuples(st.floats(0.3, 1.0), st.integers(10**6, 10**9)), min_size=1, max_size=12)
LEAST = 2.0 * (1 - budgets.TOLERANCE)


def test_budget_is_met_on_the_selection_split_by_the_best_score_there(points):
    rows = budgets.at_budget(points, 2.0)
    found = rows[rows["score"].notna()]
    assert (found["selected_speedup"] >= LEAST).all()
    usable = budgets.operating_points(points)
    rivals = usable[(usable["split"] == "calibration") & (usable["speedup"] >= LEAST)]
    best = rivals.groupby(["task", "method", "seed"])["score"].max()
    chosen = found.set_index(["task", "method", "seed"])["selected_score"]
    pd.testing.assert_series_equal(chosen, best, check_names=False)


def test_budget_reports_the_same_point_on_validation(points):
    row = budgets.at_budget(points, 2.0).query("method == 'costeff' and task == 'mnli' and seed == 1").iloc[0]
    keys = ["task", "method", "variant", "seed", "kind", "point"]
    twin = points[(points[keys] == row[keys]).all(axis=1) & (points["split"] == "validation")]
    assert row["split"] == "validation" and row["score"] == twin["score"].item()


def test_of_equal_points_the_simplest_is_used(points):
    kept = points[(points["kind"] != "uniform") | (points["task"] != "rte")]
    twins = kept[kept["kind"] == "static"].assign(kind="per_exit", point=99)
    both = pd.concat([twins, kept], ignore_index=True)
    assert not budgets.at_budget(both, 1.0)["point"].eq(99).any()
    assert not budgets.chosen_frontier(both)["point"].eq(99).any()


def test_selection_on_validation_chooses_there(points):
    rows = budgets.at_budget(points.assign(selection="validation"), 2.0).dropna(subset=["score"])
    assert (rows["score"] == rows["selected_score"]).all() and (rows["speedup"] >= LEAST).all()


def test_budget_out_of_reach_and_failed_run_leave_a_row_with_its_reason(points):
    rows = budgets.at_budget(points, 2.0).set_index(["task", "method", "seed"])
    assert rows.loc[("mnli", "teacher", 1), "reason"] == "no point at 2x"
    assert rows.loc[("rte", "tinybert", 1), "reason"] == synthetic.REASON
    assert np.isnan(rows.loc[("rte", "tinybert", 1), "score"])


def test_full_depth_with_exits_still_counts_at_1x(points):
    rows = budgets.at_budget(points, 1.0).query("method == 'teacher'")
    assert rows["speedup"].eq(1.0).all() and len(rows) == len(synthetic.TASKS) * 2


def test_cascade_is_operated_at_its_members_where_it_has_no_rule(points):
    rows = budgets.at_budget(points, 2.0).query("method == 'cascadebert'")
    assert rows.loc[rows["task"] == "stsb", "kind"].eq("fixed_exit").all()
    assert not rows.loc[rows["task"] == "mrpc", "kind"].eq("fixed_exit").any()


def test_replayed_predictions_give_the_stored_scores(points, results):
    for _, row in budgets.chosen_frontier(points).query("seed == 1").iterrows():
        trace = Trace.load(budgets.run_folder(row, results / "runs") / "trace-validation.parquet")
        again = scores(task(row["task"]), budgets.predicted(row, trace), trace.labels)
        assert float(again[row["metric"]]) == pytest.approx(row["score"], abs=1e-9)


def test_points_of_two_selections_are_refused(points):
    mixed = pd.concat([points, points.assign(selection="validation")])
    with pytest.raises(UserError, match="one profile"):
        budgets.at_budget(mixed, 2.0)


@pytest.mark.parametrize("name", TASKS)
def test_bootstrap_of_every_metric_matches_scoring_the_resample(name):
    each = task(name)
    rng = np.random.default_rng(3)
    labels = rng.uniform(0, 5, 60) if each.regression else rng.integers(len(each.labels), size=60)
    flips = rng.random((2, 60)) < 0.3
    answers = labels + rng.normal(size=(2, 60)) if each.regression else np.where(flips, 0, labels)
    got = resampled(each.metrics[0], list(answers), labels, resamples=5, seed=11)
    drawn = np.random.default_rng(11).integers(60, size=(5, 60))
    expected = [scores(each, answers[:, rows], labels[rows])[each.metrics[0]] for rows in drawn]
    np.testing.assert_allclose(got, expected, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.55, 0.95))
def test_bootstrap_interval_holds_the_observed_score(seed, skill):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=200)
    answers = np.where(rng.random(200) < skill, labels, 1 - labels)
    spread = resampled("accuracy", [answers], labels, resamples=500)
    low, high = np.percentile(spread, [2.5, 97.5])
    assert low <= (answers == labels).mean() <= high


def test_bootstrap_interval_covers_the_truth_about_95_times_in_100():
    covered = 0
    for seed in range(300):
        correct = np.random.default_rng(seed).random(300) < 0.8
        spread = resampled("accuracy", [correct], np.ones(300), resamples=400, seed=seed)
        low, high = np.percentile(spread, [2.5, 97.5])
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / 300 <= 0.985


@settings(max_examples=50, deadline=None)
@given(POINTS, st.tuples(st.floats(0.3, 1.0), st.integers(10**6, 10**9)))
def test_hypervolume_never_falls_with_another_point(rows, extra):
    def area(some):
        score, flops = zip(*some, strict=True)
        return statistics.hypervolume(score, flops, teacher_flops=5e8, floor=0.4)

    assert area([*rows, extra]) >= area(rows) - 1e-9


@settings(max_examples=50, deadline=None)
@given(POINTS)
def test_elue_of_the_reference_against_itself_is_zero(rows):
    curve = {flops: score for score, flops in rows}
    flops, score = list(curve), list(curve.values())
    assert statistics.elue(score, flops, score, flops) == pytest.approx(0, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(POINTS, st.floats(-0.3, 0.3))
def test_elue_of_a_lifted_reference_is_the_lift_even_outside_its_range(rows, lift):
    curve = {flops: score for score, flops in rows}
    flops, score = np.array(list(curve)), np.array(list(curve.values()))
    assert statistics.elue(score + lift, flops, score, flops) == pytest.approx(lift, abs=1e-9)
    top = score[flops.argmax()]
    assert statistics.elue([top + lift], [1e12], score, flops) == pytest.approx(lift, abs=1e-9)


def test_elue_is_linear_in_log_flops():
    assert statistics.elue([0.5], [1e7], [0.2, 0.6], [1e6, 1e8]) == pytest.approx(0.1)
    assert np.isnan(statistics.elue([0.5], [1e7], [], []))


@settings(max_examples=50, deadline=None)
@given(POINTS, POINTS)
def test_the_share_outside_counts_what_the_reference_does_not_reach(rows, others):
    own, reference = (np.array([flops for _, flops in each], dtype=float) for each in (rows, others))
    assert statistics.outside(reference, reference) == 0
    low, high = reference.min(), reference.max()
    beyond = np.concatenate([own[(own >= low) & (own <= high)], [low / 2, high * 2]])
    assert statistics.outside(beyond, reference) == pytest.approx(2 / len(beyond))
    assert statistics.outside([high * 1.01], reference) == 0  # exit heads of the same model
    assert np.isnan(statistics.outside([], reference)) and np.isnan(statistics.outside(own, []))


def test_summary_of_controls(points):
    summary = statistics.frontier_summary(points, synthetic.ROLES).set_index(["task", "method", "seed"])
    assert summary.xs("first-layers", level="method")["elue"].abs().max() < 1e-9
    assert summary.xs("first-layers", level="method")["outside"].max() == 0
    assert (summary.xs("teacher", level="method")["hypervolume"] == 0).all()
    assert summary.xs("costeff", level="method")["hypervolume"].gt(0).all()
    assert ("rte", "tinybert", 1) in summary.index and np.isnan(summary.loc[("rte", "tinybert", 1), "score_2x"])


def test_the_teacher_keeps_all_of_its_gain(points):
    own = statistics.gains(budgets.at_budget(points, 1.0), points).query("method == 'teacher'")
    np.testing.assert_allclose(own["gain"], own["teacher_gain"])
    assert statistics.kept(own["gain"], own["teacher_gain"]) == pytest.approx(1)


def test_what_is_kept_is_a_ratio_of_sums():
    assert statistics.kept([0.5, 0.0], [0.5, 0.5]) == 0.5
    # A mean of ratios would say 5.25.
    assert statistics.kept([0.25, 0.1], [0.5, 0.01]) == pytest.approx(0.35 / 0.51)
    assert np.isnan(statistics.kept([0.1], [0.0])) and np.isnan(statistics.kept([np.nan], [0.5]))
