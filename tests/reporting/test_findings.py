"""The findings are the numbers of the points, in at most three lines, whatever is missing."""

import re

import numpy as np
import pandas as pd
import pytest
import synthetic

from bench.analysis.budgets import at_budget, succeeded
from bench.analysis.roles import Roles
from bench.reporting.everything import complete
from bench.reporting.findings import BUDGETS, findings
from bench.reporting.tables.summaries import summary

ROLES = Roles("teacher", None, {})


def test_the_best_method_at_the_budget_is_the_one_of_the_points(points):
    said = findings(complete(points), [], ROLES)
    assert 1 <= len(said) <= 3 and all("\n" not in line for line in said)
    [line] = [line for line in said if line.startswith("At least")]
    budget = float(re.findall(r"At least (\d+)x", line)[0])
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


def test_failed_runs_alone_are_one_line(points):
    failed = points.drop_duplicates(["task", "method", "variant", "seed"])
    failed = failed[["task", "method", "variant", "label", "seed", "selection"]]
    said = findings(complete(failed.assign(status="failed", reason="it broke")), [], ROLES)
    assert succeeded(failed.assign(status="failed")).empty
    assert [line for line in said if "no score" in line] == said and isinstance(failed, pd.DataFrame)


def test_the_summary_needs_neither_teacher_nor_traces_nor_rivals(points):
    few = synthetic.ROLES.contestants(points[points["task"].isin(["mnli", "rte"])]).assign(milliseconds=np.nan)
    for some in (few, few[few["method"] != "teacher"], few[few["method"] == "costeff"]):
        values = summary(some, [], synthetic.ROLES, None).values
        assert len(values) == some["method"][some["kind"] != "control"].nunique()
