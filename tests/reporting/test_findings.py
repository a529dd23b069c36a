"""The findings are the numbers of the points and verdicts, in a few lines, whatever is missing."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import synthetic

from bench.analysis.budgets import at_budget, succeeded
from bench.analysis.roles import Roles
from bench.reporting.everything import complete
from bench.reporting.findings import BUDGETS, findings, sources_of
from bench.reporting.tables import Table, evidence_of
from bench.reporting.tables.comparisons import verdicts
from bench.reporting.tables.summaries import summary
from bench.settings import Comparison, Primary

ROLES = Roles("teacher", None, {})


def test_the_best_method_at_the_budget_is_the_one_of_the_points(points):
    said = findings(complete(points), [], ROLES)
    assert 1 <= len(said) <= 3 and all("\n" not in line for line in said)
    [line] = [line for line in said if line.startswith("Best at a calculated") and "learned" not in line]
    budget = float(re.findall(r"at least (\d+)x", line)[0])
    assert budget in BUDGETS
    chosen = at_budget(points[points["method"] != "teacher"], budget)
    means = chosen.groupby(["method", "task"])["score"].mean().unstack()
    whole = means.dropna()[lambda table: table.index.isin(chosen["method"])].mean(axis=1)
    assert f"{100 * whole.max():.1f}" in line


@pytest.mark.parametrize("left", ["teacher", "one method", "one task", "no rival"])
def test_incomplete_results_are_marked(points, left):
    if left == "teacher":
        own = points[points["method"] == "teacher"]
    elif left == "one method":
        own = points[points["method"].isin(["teacher", "costeff"])]
    elif left == "one task":
        own = points[points["task"] == points["task"].iloc[0]]
    else:
        own = points[points["method"] != "teacher"]
    said = findings(complete(own), [], ROLES, contestant="costeff")
    assert said and not any("nan" in line.lower() for line in said)


def test_a_teacher_without_a_score_on_one_task_has_no_average(points):
    task = points["task"].iloc[0]
    lost = points["method"].eq("teacher") & points["task"].eq(task) & points["kind"].ne("control")
    some = points[~lost]
    failed = points[lost].drop_duplicates(["task", "method", "variant", "seed"])
    failed = failed[["task", "method", "variant", "label", "seed", "selection"]].assign(
        status="failed", reason="it broke"
    )
    said = findings(complete(pd.concat([some, failed])), [], ROLES, contestant="costeff")
    assert "has no score on some of the 6 tasks" in said[0] and "on average" not in said[0]


def test_failed_runs_alone_are_one_line(points):
    failed = points.drop_duplicates(["task", "method", "variant", "seed"])
    failed = failed[["task", "method", "variant", "label", "seed", "selection"]]
    said = findings(complete(failed.assign(status="failed", reason="it broke")), [], ROLES)
    assert succeeded(failed.assign(status="failed")).empty
    [line] = said
    assert "no score" in line


def test_the_summary_needs_neither_teacher_nor_traces_nor_rivals(points):
    few = synthetic.ROLES.contestants(points[points["task"].isin(["mnli", "rte"])]).assign(milliseconds=np.nan)
    for some in (few, few[few["method"] != "teacher"], few[few["method"] == "costeff"]):
        values = summary(some, [], synthetic.ROLES, None).values
        assert len(values) == some["method"][some["kind"] != "control"].nunique()


DECLARED = Comparison(resamples=100, primary=Primary(contestant="costeff", speedups=[2.0, 4.0, 8.0]))


def declared(points: pd.DataFrame, results, tasks) -> tuple[pd.DataFrame, Table, list[str]]:
    some = complete(points[points["task"].isin(tasks)])
    table = verdicts(some, [], synthetic.ROLES, evidence_of(some, results / "runs", DECLARED))
    return some, table, findings(some, [table], synthetic.ROLES, contestant="costeff")


@pytest.mark.parametrize("tasks", [["stsb"], ["mnli", "rte", "wnli", "cola"]])
def test_every_declared_comparison_is_named_with_its_verdict(tasks, points, results):
    weak = points["kind"].eq("control") & points["split"].eq("calibration") & points["task"].eq("wnli")
    _, table, said = declared(points.assign(score=points["score"].where(~weak, 1.0)), results, tasks)
    assert all(len(line) < 400 for line in said)
    rows = table.values[(table.values["Comparison"] == "primary") & (table.values["A"] == "COST-EFF")]
    assert set(rows["Verdict"]) - {""} and ("learned tasks" in set(rows["Tasks"])) == (len(tasks) > 1)
    for row in rows.to_dict("records"):
        start = rf"COST-EFF at {row['A at least']}( \(actually [\d.]+x\))?, {row['Tasks']}: "
        [line] = [each for each in said if re.match(start, each)]
        name = re.sub(r" \(.*\)", "", row["B"])
        if row["B"] == "Teacher" and row["Verdict"]:
            name = f"Teacher ({row['Difference']:+.1f}, {row['Low']:+.1f} to {row['High']:+.1f})"
        [part] = [part for part in re.split(r"\. (?=[a-z])|: (?=[bwe])", line) if name in part]
        assert (row["Verdict"] or "no point") in part, row


def test_few_tasks_are_named_and_many_are_not(points, results):
    one = " ".join(declared(points, results, ["stsb"])[2])
    assert "on STS-B" in one and "all tasks" not in one and "1 task and 2 seeds" in one and "95 % interval" in one
    third = points[points["seed"] == 1].assign(seed=3)
    many = pd.concat([points, third])
    table = verdicts(
        complete(points), [], synthetic.ROLES, evidence_of(points, results / "runs", DECLARED)
    )  # of two seeds: only the number of seeds in the points matters here
    said = " ".join(findings(complete(many), [table], synthetic.ROLES, contestant="costeff"))
    assert "on average over 6 tasks" in said and "statistical power" not in said


def test_a_contestants_sources_are_no_rivals(points, results):
    some, table, said = declared(points, results, ["stsb"])
    without = findings(some, [table], synthetic.ROLES, contestant="costeff", sources={"pabee", "teacher"})
    assert any("PABEE" in line for line in said[3:])
    rivals, apart = " ".join(without[2:]).split("Left out")
    assert "PABEE" not in rivals and "PABEE" in apart and "Teacher" not in apart
    assert any("Teacher (" in line for line in without)


def test_sources_are_followed_through_other_contestants_and_tasks(tmp_path):
    needs = {
        ("rte", "costeff"): ["assistant/full"],
        ("rte", "assistant"): ["teacher/base", "mnli/donor/full/seed0"],
        ("mnli", "donor"): ["costeff/full"],  # a circle must end
        ("rte", "pabee"): ["other/full"],
    }
    for (task, method), names in needs.items():
        folder = tmp_path / task / method / "full" / "seed0"
        folder.mkdir(parents=True)
        run = {"status": "ok", "asked": {"needs": dict.fromkeys(names, "0" * 16)}}
        (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    assert sources_of("costeff", tmp_path) == {"assistant", "teacher", "donor"}
    assert sources_of("teacher", tmp_path) == set()
