"""Properties of lines and bands of frontiers for any seeds, costs and scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import ROLES

from bench.analysis.budgets import chosen_frontier
from bench.analysis.comparing.estimates import seed_noise
from bench.analysis.comparing.intervals import means
from bench.analysis.comparing.ranking import ranking
from bench.analysis.comparing.resampling import Resamples, records
from bench.errors import UserError
from bench.reporting.figures.curves import average_curves, task_curve
from bench.settings import Comparison

POINT = st.tuples(st.integers(1, 30), st.floats(0, 1), st.booleans())
SEEDS = st.lists(st.lists(POINT, min_size=1, max_size=8), min_size=1, max_size=5)


def table(seeds: list[list[tuple[int, float, bool]]]) -> pd.DataFrame:
    rows = [(seed, *point) for seed, points in enumerate(seeds) for point in points]
    return pd.DataFrame(rows, columns=["seed", "flops", "score", "constant"])


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_at_each_cost_a_seed_has_its_most_expensive_point_within_it(seeds: list[list[tuple[int, float, bool]]]) -> None:
    curve = task_curve(table(seeds), None)
    start = max(min(cost for cost, *_ in points) for points in seeds)
    assert list(curve.cost) == sorted({cost for points in seeds for cost, *_ in points if cost >= start})
    for cost, score, low, high in zip(curve.cost, curve.score, curve.low, curve.high, strict=True):
        within = [[point for point in points if point[0] <= cost] for points in seeds]
        each = [max(points, key=lambda point: point[:2])[1] for points in within]
        assert score == pytest.approx(np.mean(each))
        assert min(each) - 1e-9 <= score <= max(each) + 1e-9
        assert np.isnan(low) and np.isnan(high), "no traces, no band"


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_a_cost_is_constant_where_every_seed_is(seeds: list[list[tuple[int, float, bool]]]) -> None:
    rows = table(seeds)
    assert task_curve(rows.assign(constant=True), None).constant.all()
    assert not task_curve(rows.assign(constant=rows["seed"] > 0), None).constant.any()
    assert not task_curve(rows.drop(columns="constant"), None).constant.any()


def test_line_and_band_have_the_chosen_points(points: pd.DataFrame, results: Path) -> None:
    resamples = Resamples(results / "runs", resamples=200)
    front = chosen_frontier(points[(points["seed"] == 1) & (points["task"] == "mnli")])
    for method, rows in front.groupby("method"):
        curve = task_curve(rows, resamples)
        assert set(zip(curve.cost, curve.score, strict=True)) <= set(zip(rows["flops"], rows["score"], strict=True))
        assert set(curve.cost) == set(rows["flops"])
        assert (curve.low < curve.score).all() and (curve.score < curve.high).all(), method
        assert (curve.low >= 0).all() and (curve.high <= 1).all()
    with pytest.raises(UserError, match="no trace"):
        task_curve(front[front["method"] == "pabee"], Resamples(results / "no", resamples=200))


def test_a_band_is_the_interval_that_tables_print(points: pd.DataFrame, results: Path) -> None:
    resamples = Resamples(results / "runs", resamples=200, noise=seed_noise(points))
    some = points[
        points["method"].isin(["teacher", "tinybert", "first-layers"]) & points["task"].isin(["cola", "mrpc", "mnli"])
    ]
    curves = average_curves(some, ROLES, resamples=resamples)
    scopes = {"all": ["cola", "mrpc", "mnli"]}
    first = curves.loc[curves.groupby("method")["budget"].idxmin()].set_index("method")
    assert set(first.index) == {"teacher", "tinybert", "first-layers"}
    for method, row in first.iterrows():
        found = ranking(some, resamples, Comparison(resamples=200), budgets=[row["budget"]], scopes=scopes)
        of_table = found.set_index("method").loc[method, ["low", "score", "high"]].tolist()
        assert row[["low", "score", "high"]].tolist() == pytest.approx(of_table)
    assert average_curves(some, ROLES)[["low", "high"]].isna().all(axis=None)


def test_resamples_of_a_point_do_not_depend_on_the_caller(points: pd.DataFrame, results: Path) -> None:
    rows = chosen_frontier(points[(points["seed"] == 1) & (points["task"] == "rte") & (points["method"] == "costeff")])
    rows = records(rows)
    together = Resamples(results / "runs", resamples=50)
    together.prepare(rows[3:5])
    np.testing.assert_array_equal(together.of(rows), Resamples(results / "runs", resamples=50).of(rows))


def test_a_band_contains_its_mean_and_widens_with_the_seeds_disagreement(points: pd.DataFrame, results: Path) -> None:
    some = points[points["task"].isin(["cola", "rte"]) & points["method"].isin(["teacher", "pabee", "tinybert"])]
    bare = average_curves(some, ROLES)
    assert bare[["low", "high"]].isna().all(axis=None), "no traces, no band"
    curves = average_curves(some, ROLES, resamples=Resamples(results / "runs", resamples=200))
    assert curves[["low", "high"]].notna().all(axis=None)
    assert (curves["low"] <= curves["score"]).all() and (curves["score"] <= curves["high"]).all()
    pd.testing.assert_series_equal(curves["score"], bare["score"])
    with pytest.raises(UserError, match="no trace"):
        average_curves(some, ROLES, resamples=Resamples(results / "nowhere", resamples=9))


def test_the_averages_band_is_the_average_of_the_tasks_estimates(points: pd.DataFrame, results: Path) -> None:
    some = points[points["task"].isin(["cola", "mrpc"]) & points["method"].isin(["teacher", "tinybert"])]
    resamples = Resamples(results / "runs", resamples=200)
    row = average_curves(some, ROLES, resamples=resamples).query("method == 'tinybert'").iloc[0]
    static = some[(some["method"] == "tinybert") & (some["kind"] == "static") & (some["split"] == "validation")]
    (expected,) = means([[records(group) for _, group in static.groupby("task")]], resamples)
    assert (row["score"], row["low"], row["high"]) == pytest.approx(expected)
    single = [means([[records(group)]], resamples)[0] for _, group in static.groupby("task")]
    assert expected.high - expected.low < max(each.high - each.low for each in single)
