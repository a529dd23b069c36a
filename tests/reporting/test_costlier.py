"""Methods that cost more than the reference at every point have rows of their own in the tables of budgets."""

import pandas as pd
import pytest
import synthetic

from bench.analysis.budgets import ANY_COST, BUDGETS, at_budget, by_budget, costlier, succeeded
from bench.analysis.comparing.pairings import every_pair, pairings
from bench.analysis.roles import Roles
from bench.reporting.tables import tables
from bench.runs.clock import to_be_timed
from bench.settings import Comparison

GROWN = tuple(
    synthetic.Contestant("lesa", f"depth{layers}", f"LESA {layers} layers", "none", (layers,), 1.0, 1.01, layers=layers)
    for layers in (9, 11)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    contestants = (*synthetic.CONTESTANTS, *GROWN)
    return synthetic.write_results(tmp_path_factory.mktemp("grown"), tasks=("cola", "rte"), contestants=contestants)


@pytest.fixture(scope="module")
def points(folder):
    return synthetic.read_points(folder)


def test_a_method_is_costlier_iff_no_point_is_within_the_reference(points):
    assert costlier(points) == {"lesa"}
    with_a_small_one = points.assign(method=points["method"].replace("first-layers", "lesa"))
    assert costlier(with_a_small_one) == set()


def test_each_contestant_is_at_some_budget(points):
    chosen = [at_budget(rows, budget) for budget, rows in by_budget(points)]
    found = pd.concat(chosen).dropna(subset="score")
    assert set(found["method"]) == set(succeeded(points)["method"])
    assert [budget for budget, _ in by_budget(points)] == [*BUDGETS, ANY_COST]
    assert [budget for budget, _ in by_budget(points[points["method"] != "lesa"])] == list(BUDGETS)


def test_its_best_point_by_selection_is_chosen(points):
    (rows,) = (at_budget(rows, budget) for budget, rows in by_budget(points) if budget == ANY_COST)
    own = points[(points["method"] == "lesa") & (points["split"] == "calibration") & (points["kind"] == "static")]
    for (task, seed), group in own.groupby(["task", "seed"]):
        row = rows[(rows["task"] == task) & (rows["seed"] == seed)].iloc[0]
        assert row["selected_score"] == group["score"].max() and row["speedup"] < 1


def test_it_is_compared_at_any_cost_and_with_the_reference_at_1x(points):
    pairs = every_pair(points, reference="teacher")
    for found in pairings(points, pairs, Comparison(), reference="teacher", budgets=BUDGETS):
        for name, budget in ((found.a, found.budget_a), (found.b, found.budget_b)):
            assert (budget == ANY_COST) == (name == "lesa")
            assert budget == 1 or name != "teacher"
        assert not (found.primary and {found.a, found.b} == {"teacher", "lesa"})


def test_the_clock_times_it(points):
    of_task = points[points["task"] == "cola"]
    timed = to_be_timed(of_task, [1.0, 2.0])
    assert {"depth9", "depth11"} <= set(timed.loc[timed["method"] == "lesa", "variant"])


def test_tables_have_its_row(points, folder):
    made = {
        table.name: table
        for table in tables(points, synthetic.ROLES, runs=folder / "runs", comparison=Comparison(resamples=100))
    }
    main = made["main"].values.set_index(["Budget", "Method"])
    row = main.xs("any cost").iloc[0]
    assert len(main.xs("any cost")) == 1 and row["Speed-up"] < 1
    assert "Any cost" in made["main"].caption_and_notes()
    summary = made["summary"].values
    shown = summary[summary["Any cost"].notna()]
    assert len(shown) == 1 and "LESA" in shown["Method"].iloc[0]
    verdicts = made["verdicts"].values
    mine = verdicts[(verdicts["A at least"] == "any") | (verdicts["B at least"] == "any")]
    assert len(mine) and mine["Verdict"].ne("").all()


def test_without_such_a_method_there_is_no_such_column(points, folder):
    less = points[points["method"] != "lesa"]
    made = {table.name: table for table in tables(less, Roles(), runs=folder / "runs")}
    assert "Any cost" not in made["summary"].values and not made["main"].values["Budget"].eq("any cost").any()
