"""The chooser's numbers are those of `compare`, and every question that it offers has its answer."""

from itertools import combinations

import pandas as pd
import pytest
from synthetic import ROLES, TASKS

from bench.analysis.budgets import at_budget
from bench.analysis.comparing.pairings import Pairing
from bench.analysis.comparing.verdicts import compare
from bench.analysis.statistics import select_tasks
from bench.reporting.chooser import chooser, unequal_training
from bench.reporting.tables import evidence_of
from bench.settings import Comparison
from bench.tasks.catalogue import TASKS as KNOWN
from bench.tasks.catalogue import title

COMPARISON = Comparison(resamples=200)


@pytest.fixture(scope="module")
def evidence(points, results):
    return evidence_of(points, results / "runs", COMPARISON)


@pytest.fixture(scope="module")
def choice(points, evidence):
    return chooser(points, ROLES, evidence, KNOWN, pd.DataFrame())


def names(points: pd.DataFrame, choice: dict) -> dict[str, str]:
    from bench.reporting.tables.format.table import display_names

    return display_names(ROLES.contestants(points))


@pytest.mark.parametrize("group", ["all", "pairs", "single"])
@pytest.mark.parametrize("budget", [1.0, 2.0, 4.0])
def test_differences_intervals_and_verdicts_are_those_of_compare(group, budget, points, evidence, choice):
    block = choice["blocks"].get(f"flops {budget:g} {group} score")
    if block is None:
        pytest.skip("no method has a point here")
    titles = names(points, choice)
    named = {name: method for method, name in titles.items()}
    tasks = list(TASKS) if group == "all" else select_tasks(group, points, KNOWN, reference="teacher")
    assert block["tasks"] == [title(task) for task in tasks]
    methods = [named[row["method"]] for row in block["rows"]]
    asked = [
        Pairing(a, 1.0 if a == "teacher" else budget, b, 1.0 if b == "teacher" else budget)
        for a, b in combinations(methods, 2)
    ]
    some = points[points["task"].isin(tasks)]
    found = compare(some, asked, evidence.splits["validation"], COMPARISON, single_tasks=False)
    expected = {(row.a, row.b): row for row in found.itertuples()}
    for row in block["rows"][1:]:
        want = expected[methods[0], named[row["method"]]]
        difference, low, high, verdict = row["first"]
        assert (difference, low, high) == pytest.approx((-100 * want.difference, -100 * want.high, -100 * want.low))
        assert {"better": "worse", "worse": "better"}.get(verdict, verdict) == want.verdict
    assert block["comparisons"] == len(asked)


def test_scores_are_means_over_seeds_then_tasks_and_the_best_is_first(points, choice):
    block = choice["blocks"]["flops 2 all score"]
    titles = names(points, choice)
    chosen = at_budget(points, 2.0)
    for row in block["rows"]:
        if row["method"] != titles["teacher"]:
            own = chosen[chosen["method"].map(titles) == row["method"]]
            assert row["score"][0] == pytest.approx(100 * own.groupby("task")["score"].mean().mean())
            assert row["score"][1] <= row["score"][0] <= row["score"][2]
            assert row["speedup"] >= 2 * 0.9
    scores = [row["score"][0] for row in block["rows"] if row["method"] != titles["teacher"]]
    assert scores == sorted(scores, reverse=True)
    assert block["rows"][-1]["method"] == titles["teacher"]


def test_unequal_training_is_said_and_equal_training_is_not(points):
    known = points.assign(training_steps=200.0)
    assert unequal_training(known, {}) == ""
    assert "not recorded" in unequal_training(points.drop(columns="training_steps", errors="ignore"), {})
    more = known.assign(training_steps=known["training_steps"].where(known["method"] != "costeff", 800.0))
    assert unequal_training(more, {"costeff": "COST-EFF"}).endswith("COST-EFF 800.")
    untrained = known.assign(training_steps=known["training_steps"].where(known["method"] != "costeff", 0.0))
    assert unequal_training(untrained, {}) == "", "a method without training is no rival in training"


def test_each_method_is_a_row_or_named_as_without_a_point(points, choice):
    everyone = set(names(points, choice).values())
    for key, block in choice["blocks"].items():
        shown = [row["method"] for row in block["rows"]]
        assert len(shown) == len(set(shown)), key
        assert {*shown, *block["without"]} == everyone, key
        assert block["rows"][0]["method"] in block["answer"], key


def test_what_is_offered_has_a_block_and_ablations_are_left_out(choice, points, evidence):
    for place, group in enumerate(("costs", "budgets", "tasks", "metrics")):
        for value, _ in choice[group]:
            assert any(key.split()[place] == value for key in choice["blocks"]), value
    assert "no assistant" not in str(choice["blocks"])
    assert [name for name, _ in choice["costs"]] == ["flops", "milliseconds"]
    untimed = chooser(points.drop(columns="latency_1"), ROLES, evidence, KNOWN, pd.DataFrame())
    assert [name for name, _ in untimed["costs"]] == ["flops"]


def test_a_budget_in_milliseconds_chooses_among_timed_points(points, evidence):
    timed = points.assign(latency_1=points["speedup"].where(points["seed"] == 1) / 2)
    blocks = chooser(timed, ROLES, evidence, KNOWN, pd.DataFrame())["blocks"]
    by_clock, by_flops = blocks["milliseconds 1 all score"], blocks["flops 2 all score"]
    for row in by_clock["rows"][:-1]:
        assert row["measured"] >= 0.9 and row["speedup"] == pytest.approx(2 * row["measured"])
    assert {row["method"] for row in by_clock["rows"]} <= {row["method"] for row in by_flops["rows"]}
    assert len(by_clock["rows"]) > 2 and by_clock["rows"][0]["first"] is None


def test_accuracy_is_offered_on_the_tasks_that_have_it(points, choice):
    block = choice["blocks"]["flops 1 all accuracy"]
    assert "STS-B" not in block["tasks"] and "CoLA" in block["tasks"]
    assert "the highest accuracy on" in block["answer"]


def test_one_task_and_one_rival_is_still_an_answer(points, evidence):
    one = points[(points["task"] == "mnli") & points["method"].isin(["teacher", "costeff"])]
    found = chooser(one, ROLES, evidence, KNOWN, pd.DataFrame())
    assert [name for name, _ in found["tasks"]] == ["all"]
    assert "No other method" in found["blocks"]["flops 2 all score"]["answer"]


def test_without_a_point_nothing_is_offered(points, evidence):
    alone = points[points["method"] == "teacher"]
    found = chooser(alone, ROLES, evidence, KNOWN, pd.DataFrame())
    assert found["blocks"] == {} and found["costs"] == []
