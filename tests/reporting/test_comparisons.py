"""A comparison shows the number of its seeds, and names the tasks where a run is missing."""

import re

import pytest
from synthetic import FAILED, ROLES

from bench.analysis.budgets import at_budget
from bench.analysis.comparing.pairings import every_pair, pairings
from bench.analysis.comparing.verdicts import compare
from bench.analysis.statistics import learned_tasks
from bench.reporting.tables import evidence_of
from bench.reporting.tables.comparisons import note_seeds, printed, verdicts
from bench.settings import Comparison

COMPARISON = Comparison(resamples=100)
TITLES = {"stsb": "STS-B", "mnli": "MNLI", "rte": "RTE"}


@pytest.fixture(scope="module")
def some(points):
    return points[points["task"].isin(list(TITLES))]


@pytest.fixture(scope="module")
def found(some, results):
    points = some
    evidence = evidence_of(points, results / "runs", COMPARISON)
    pairs = every_pair(points, reference="teacher", ablations=ROLES.ablations)
    wanted = pairings(points, pairs, COMPARISON, reference="teacher", budgets=(1.0, 4.0))
    learned = learned_tasks(points, reference="teacher")
    rows = compare(points, wanted, evidence.splits["validation"], COMPARISON, learned=learned)
    return note_seeds(rows, points, learned)


def test_a_note_names_exactly_the_tasks_with_fewer_seeds_than_planned(found, some):
    chosen = {budget: at_budget(some, budget) for budget in (1.0, 4.0)}
    planned = some.groupby("task")["seed"].nunique()
    noted = 0
    for row in found[found["verdict"] != ""].itertuples():
        few = {}
        for task in TITLES if row.task == "all tasks" else [row.task] if row.task in TITLES else []:
            sides = [
                set(rows.loc[(rows["task"] == task) & (rows["method"] == method) & rows["score"].notna(), "seed"])
                for method, rows in ((row.a, chosen[row.budget_a]), (row.b, chosen[row.budget_b]))
            ]
            if len(common := sides[0] & sides[1]) < planned[task]:
                few[TITLES[task]] = f"{len(common)} of {planned[task]}"
        if row.task in ("all tasks", *TITLES):
            assert dict(re.findall(r"([\w-]+) (\d+ of \d+)", row.note)) == few, row
            noted += bool(few)
    assert noted > 0, "the made-up results have a failed run"


def test_the_failed_run_is_noted_in_averages_and_in_its_task_alone(found):
    task, method = FAILED[0], FAILED[1]
    own = found[((found["a"] == method) | (found["b"] == method)) & (found["verdict"] != "")]
    assert own.loc[own["task"] == task, "note"].str.contains("seeds: RTE 1 of 2").all()
    assert not own.loc[own["task"] == "mnli", "note"].str.contains("seeds:").any()


def test_the_number_of_seeds_is_printed(found, some, results):
    seeds = printed(found, {})["Seeds"]
    assert (seeds.notna() == (found["verdict"] != "")).all() and set(seeds.dropna()) == {1, 2}
    table = verdicts(some, [], ROLES, evidence_of(some, results / "runs", COMPARISON))
    assert table.values["Seeds"].isin([1, 2]).any() and "| Seeds |" in re.sub(" +", " ", table.markdown())
