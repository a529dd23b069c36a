"""The chooser's numbers are those of `compare`, and every question that it offers has its answer."""

from itertools import combinations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import ROLES, TASKS

from bench.analysis.budgets import BUDGETS, at_budget
from bench.analysis.comparing.pairings import Pairing
from bench.analysis.comparing.verdicts import compare
from bench.analysis.statistics import select_tasks
from bench.reporting.page.chooser import chooser, unequal_training
from bench.reporting.page.clock import fast_enough
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
    assert block is not None
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


def test_unequal_training_is_mentioned_and_equal_training_is_not(points):
    counts = {"restarts": 0, "collapsed": False}
    known = points.assign(training_steps=200.0, **counts)
    assert unequal_training(known, ROLES) == ""
    assert "not recorded" in unequal_training(points.drop(columns="training_steps", errors="ignore"), ROLES)
    more = known.assign(training_steps=known["training_steps"].where(known["method"] != "pabee", 800.0))
    assert unequal_training(more, ROLES).endswith("PABEE 4.00.")
    untrained = known.assign(training_steps=known["training_steps"].where(known["method"] != "pabee", 0.0))
    assert unequal_training(untrained, ROLES) == "", "a method without training is no rival in training"


@given(st.dictionaries(st.sampled_from(TASKS), st.integers(100, 9000), min_size=2), st.data())
def test_a_method_without_some_tasks_has_equal_training_where_it_has_the_teachers_steps(steps, data):
    absent = data.draw(st.sets(st.sampled_from(sorted(steps)), max_size=len(steps) - 1))
    rows = [
        {"task": task, "method": method, "variant": "v", "seed": seed, "label": method, "training_steps": count}
        for task, count in steps.items()
        for method in ("teacher", "pabee")
        for seed in (0, 1)
        if method == "teacher" or task not in absent
    ]
    runs = pd.DataFrame(rows).assign(restarts=0, collapsed=False)
    assert unequal_training(runs, ROLES) == ""
    more = runs.assign(training_steps=runs["training_steps"] * (1 + runs["method"].eq("pabee")))
    assert unequal_training(more, ROLES).endswith("pabee 2.00.")


def test_each_method_is_a_row_or_named_as_without_a_point(points, choice):
    all_names = set(names(points, choice).values())
    for key, block in choice["blocks"].items():
        shown = [row["method"] for row in block["rows"]]
        assert len(shown) == len(set(shown)), key
        assert {*shown, *(name for name, _ in block["without"])} == all_names, key
        assert key.startswith("milliseconds") or block["rows"][0]["method"] in block["answer"], key


def test_what_is_offered_has_a_block_and_ablations_are_left_out(choice, points, evidence):
    for place, group in enumerate(("costs", "budgets", "tasks", "metrics")):
        for value, _ in choice[group]:
            assert any(key.split()[place] == value for key in choice["blocks"]), value
    assert "no assistant" not in str(choice["blocks"])
    assert [name for name, _ in choice["costs"]] == ["flops", "milliseconds"]
    untimed = chooser(points.drop(columns="latency_1"), ROLES, evidence, KNOWN, pd.DataFrame())
    assert [name for name, _ in untimed["costs"]] == ["flops"]


def timed_at(points: pd.DataFrame, speed) -> pd.DataFrame:
    """Give one seed's points measured speed-ups, a function of those in FLOPs; the other seed has none."""
    return points.assign(latency_1=speed(points["speedup"]).where(points["seed"] == 2))


def test_scores_at_a_budget_in_milliseconds_are_those_of_all_seeds(points, evidence):
    """With a clock that is exactly half as fast, 1x in milliseconds is 2x in FLOPs for every seed, and so on."""
    blocks = chooser(timed_at(points, lambda flops: flops / 2), ROLES, evidence, KNOWN, pd.DataFrame())["blocks"]
    for slow, fast in ((1, 2), (2, 4)):
        by_clock, by_flops = blocks[f"milliseconds {slow} all score"], blocks[f"flops {fast} all score"]
        same = {row["method"]: row for row in by_flops["rows"]}
        assert len(by_clock["rows"]) > 2 and {row["method"] for row in by_clock["rows"]} == set(same)
        for row in by_clock["rows"]:
            assert row["method"] == "Teacher" or row["measured"] >= slow * 0.98
            assert row["score"] == same[row["method"]]["score"] and row["speedup"] == same[row["method"]]["speedup"]
    assert "first seed" in by_clock["answer"]


def test_methods_are_compared_with_the_teacher_alone_at_a_budget_in_milliseconds(points, evidence):
    """Which points were timed decides which point of a method is shown, so no method is said to be the best."""
    blocks = chooser(timed_at(points, lambda flops: flops**0.9), ROLES, evidence, KNOWN, pd.DataFrame())["blocks"]
    measured = [block for key, block in blocks.items() if key.startswith("milliseconds")]
    for block in measured:
        assert not any(row["first"] for row in block["rows"]) and "not ranked" in block["answer"]
        compared = [row for row in block["rows"] if row["method"] != "Teacher" and row["teacher"]]
        assert block["comparisons"] == len(compared)
    assert measured


@given(
    st.lists(st.lists(st.floats(0.5, 20), min_size=3, max_size=3), min_size=4, max_size=4),
    st.floats(0.3, 2),
    st.sampled_from(BUDGETS),
)
def test_no_seed_is_slower_than_a_budget_in_milliseconds(speeds, rate, budget):
    """The score of a slow model of another seed is not shown beside the time of a fast one of the timed seed."""
    chosen = {}
    for at, own in zip(BUDGETS, speeds, strict=True):
        rows = pd.DataFrame({"speedup": own, "seed": range(3), "score": 0.5}).assign(method="m", task="t", budget=at)
        chosen[at] = rows.assign(latency_1=(rate * rows["speedup"]).where(rows["seed"] == 0))
    fits = [at for at, own in zip(BUDGETS, speeds, strict=True) if rate * min(own) >= budget * 0.98 * (1 + 1e-9)]
    misses = [at for at, own in zip(BUDGETS, speeds, strict=True) if rate * min(own) < budget * 0.98 * (1 - 1e-9)]
    found = fast_enough(chosen, budget, 0.98)
    assert len(found) in (0, 3) and not set(found["budget"]) & set(misses)
    assert not fits or found["budget"].max() <= fits[0]


@pytest.mark.parametrize(("measured", "floor", "there"), [(0.99, None, True), (0.9, None, False), (0.9, 0.88, True)])
def test_a_model_of_the_teachers_shape_is_at_1x_within_the_noise_of_the_clock(measured, floor, there, points, evidence):
    own = points.assign(latency_1=points["speedup"])
    full = own["method"].eq("pabee") & own["speedup"].between(0.9, 1.1)
    own = own[~own["method"].eq("pabee") | full].assign(latency_1=lambda rows: rows["latency_1"])
    own["latency_1"] = own["latency_1"].where(own["method"] != "pabee", measured)
    times = pd.DataFrame() if floor is None else no_times(own, floor)
    block = chooser(own, ROLES, evidence, KNOWN, times)["blocks"]["milliseconds 1 all score"]
    assert ("PABEE" in [row["method"] for row in block["rows"]]) == there
    assert there or next(why for name, why in block["without"] if name == "PABEE").startswith("at most 0.90×")


def no_times(points: pd.DataFrame, floor: float) -> pd.DataFrame:
    """latency.parquet with a noise floor, of a run that is not in the points."""
    columns = ["operated", "seconds", "p95_seconds", "speedup", "promised", "examples"]
    row = points.iloc[:1][["task", "method", "variant", "seed"]].assign(method="gone", batch_size=1, noise_low=floor)
    return row.assign(**dict.fromkeys(columns, 1.0))


def test_the_answer_gives_the_reference_where_it_has_the_best_score(choice):
    for key, block in choice["blocks"].items():
        rows = {row["method"]: row["score"][0] for row in block["rows"]}
        assert f"(Teacher: {rows['Teacher']:.1f})" in block["answer"], key
        cost, budget = key.split()[:2]
        words = {"flops 1": "with no more FLOPs than Teacher", "milliseconds 1": "at least as fast as Teacher"}
        assert ("highest" in block["answer"]) == (cost == "flops"), key
        assert words.get(f"{cost} {budget}", f"at least {budget}×") in block["answer"], key


def test_fewer_seeds_than_planned_are_named(choice):
    assert any("TinyBERT" in few and "RTE 1 of 2" in few for few in choice["blocks"]["flops 2 all score"]["few"])
    assert choice["blocks"]["flops 2 single score"]["few"] == []


def test_accuracy_is_offered_on_the_tasks_that_have_it(choice):
    block = choice["blocks"]["flops 1 all accuracy"]
    assert "STS-B" not in block["tasks"] and "CoLA" in block["tasks"]
    assert "the highest accuracy on" in block["answer"]


def test_one_task_and_one_other_method_have_an_answer(points, evidence):
    one = points[(points["task"] == "mnli") & points["method"].isin(["teacher", "costeff"])]
    found = chooser(one, ROLES, evidence, KNOWN, pd.DataFrame())
    assert [name for name, _ in found["tasks"]] == ["all"]
    assert "No other method" in found["blocks"]["flops 2 all score"]["answer"]


def test_without_a_point_nothing_is_offered(points, evidence):
    alone = points[points["method"] == "teacher"]
    found = chooser(alone, ROLES, evidence, KNOWN, pd.DataFrame())
    assert found["blocks"] == {} and found["costs"] == []
