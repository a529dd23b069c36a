"""Policies on every model and cascades across contestants: replays that must agree with what was counted otherwise."""

import numpy as np
import pytest
import synthetic

from bench.analysis.budgets import TOLERANCE, at_budget
from bench.analysis.combinations.policy_grid import FIXED, OWN, POLICIES, policy_grid
from bench.analysis.combinations.portfolios import gains, portfolios
from bench.analysis.comparing.resampling import Resamples
from bench.analysis.metrics import score
from bench.analysis.statistics import learned_tasks
from bench.errors import UserError
from bench.tasks.catalogue import in_order
from bench.trace import Costs, Trace

BUDGETS = (1.5, 2.0, 4.0)


@pytest.fixture(scope="module")
def grid(points, results):
    return policy_grid(points, results / "runs", budgets=BUDGETS)


@pytest.fixture(scope="module")
def chosen(points, results):
    return portfolios(points, results / "runs", budgets=BUDGETS)


def test_every_model_with_exits_meets_every_policy(grid, points):
    exits = points[(points["kind"] == "fixed_exit") & (points["task"] != "stsb")]
    models = exits[["task", "method", "variant", "seed"]].drop_duplicates()
    assert len(grid) == len(models) * len(BUDGETS) * (len(POLICIES) + 2)
    assert set(grid["policy"]) == {*POLICIES, FIXED, OWN}
    known = grid[grid["score"].notna() & (grid["policy"] != OWN)]
    assert (known["speedup"] > 0.8 * known["budget"]).all()


def test_fixed_exits_are_those_of_the_points(grid, points):
    only = points[points["kind"] == "fixed_exit"]
    own = at_budget(only, 2.0, by=("task", "method", "variant", "seed"))
    keys = ["task", "method", "variant", "seed"]
    both = grid[(grid["policy"] == FIXED) & (grid["budget"] == 2.0)].merge(own, on=keys, suffixes=("", "_points"))
    assert len(both) > 10
    np.testing.assert_allclose(both["score"], both["score_points"])
    np.testing.assert_allclose(both["speedup"], both["speedup_points"], rtol=1e-6)


def test_no_policy_is_chosen_that_was_too_dear_on_the_selection_split(points, results):
    grid = policy_grid(points, results / "runs", budgets=BUDGETS, split="calibration")
    assert (grid["speedup"].dropna() >= grid["budget"][grid["speedup"].notna()] * (1 - TOLERANCE) - 1e-9).all()
    replayed = grid[grid["policy"].isin(POLICIES)].pivot_table(
        index=["task", "method", "variant", "seed", "policy"], columns="budget", values="score"
    )
    for high, low in ((4.0, 2.0), (2.0, 1.5)):
        both = replayed[[high, low]].dropna()
        assert (
            len(both) and (both[low] >= both[high] - 1e-12).all()
        )  # a smaller speed-up allows the same thresholds and more


def test_a_portfolio_is_no_worse_than_a_single_contestant_where_it_was_chosen(points, results):
    chosen = portfolios(points, results / "runs", budgets=BUDGETS, split="calibration")
    assert {each.budget for each in chosen} == set(BUDGETS)
    for each in chosen:
        assert each.score >= each.single_score - 1e-12
        assert each.speedup >= each.budget * (1 - TOLERANCE) - 1e-9
        assert each.cascade or each.score == each.single_score


def test_a_cascade_costs_its_small_model_and_what_it_escalates(chosen, points, results):
    cascades = [each for each in chosen if each.cascade]
    assert cascades
    for each in cascades:
        folders = [results / "runs" / each.task / m / v / f"seed{each.seed}" for m, v in (each.small, each.large)]
        small, large = (Trace.load(folder / "trace-validation.parquet") for folder in folders)
        costs = [Costs.load(folder / "costs.json").flops(small.lengths)[-1] for folder in folders]
        first, second = (trace.logits[-1].argmax(axis=-1) for trace in (small, large))
        top = np.exp(small.logits[-1].astype(float))
        confidence = (top / top.sum(axis=-1, keepdims=True)).max(axis=-1)
        # Some threshold on the confidence gives these answers at this cost.
        rows = points.query("method == 'teacher' and kind == 'static' and split == 'validation'")
        full = rows[(rows["task"] == each.task) & (rows["seed"] == each.seed)]["flops"].item()
        fits = []
        for stays in (confidence > threshold for threshold in [0.0, *np.sort(confidence)]):
            cost = costs[0].mean() + np.where(stays, 0, costs[1]).mean()
            same = (np.where(stays, first, second) == each.answers).all()
            fits.append(same and full / cost == pytest.approx(each.speedup, rel=1e-4))
        assert any(fits)
        assert each.score == pytest.approx(float(score(each.metric, each.answers.astype(int), each.labels)))


def test_the_gain_is_the_difference_of_both_scores(chosen, results):
    own = [each for each in chosen if each.budget == 2.0]
    found = gains(own, Resamples(results / "runs", resamples=100))
    assert set(found) == {each.task for each in own}
    for task, estimate in found.items():
        seeds = [each for each in own if each.task == task]
        assert estimate.value == pytest.approx(np.mean([each.score - each.single_score for each in seeds]))
        assert estimate.seeds == len(seeds)


def test_a_task_is_learned_where_every_seed_gains_enough(points):
    of_calibration = points[points["split"] == "calibration"].set_index(["task", "seed"])
    control = of_calibration[of_calibration["kind"] == "control"]["score"]
    teacher = of_calibration[(of_calibration["method"] == "teacher") & (of_calibration["kind"] == "static")]["score"]
    gain = (teacher - control).groupby("task").min()
    assert learned_tasks(points.sample(frac=1, random_state=0)) == in_order(gain.index[gain >= 0.05])
    task = learned_tasks(points)[0]
    exact = points.copy()
    its = exact["task"].eq(task) & exact["method"].eq("teacher") & exact["split"].eq("calibration")
    exact.loc[its & exact["kind"].eq("static"), "score"] = exact.loc[its, "seed"].map(control[task]) + 0.3 - 0.25
    assert task in learned_tasks(exact), "0.05 with a rounding error is enough"
    weak = points.copy()
    at = weak["task"].eq(task) & weak["method"].eq("teacher") & weak["kind"].eq("static") & weak["seed"].eq(1)
    weak.loc[at, "score"] = control[task].iloc[0]
    assert task not in learned_tasks(weak)
    lost = points[~(points["task"].eq(task) & points["method"].eq("teacher") & points["seed"].eq(1))]
    assert task not in learned_tasks(lost)


@pytest.mark.parametrize("table", [policy_grid, portfolios])
@pytest.mark.parametrize("name", ["trace-validation.parquet", "trace-calibration.parquet", "costs.json"])
def test_a_damaged_record_is_refused_by_name(tmp_path, table, name):
    """A table without its rows would look complete."""
    results = synthetic.write_results(tmp_path, tasks=("mrpc",), seeds=(1,), examples=60)
    few = synthetic.read_points(results)
    file = results / "runs" / "mrpc" / "pabee" / "base" / "seed1" / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"{name}: not a readable"):
        table(few, results / "runs")


def test_nothing_is_replayed_on_a_regression(points, tmp_path):
    regression = points[points["task"] == "stsb"]
    assert policy_grid(regression, tmp_path).empty and portfolios(regression, tmp_path) == []
