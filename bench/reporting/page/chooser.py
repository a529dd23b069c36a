"""Data of the page's chooser: the methods at every budget, for groups of tasks, with their verdicts.

A block is the answer to one question, such as "which method at 4x on sentence pairs?". Scores, intervals and verdicts
come from the functions that `costeff compare` uses; the page shows them as they are and computes no statistics.

Points are always chosen at a budget in FLOPs, by each task's own metric, for every seed. Latency is measured for the
first seed only; the speed-up of another seed's point is estimated as the measured one, times the ratio of their
speed-ups in FLOPs. A method is at a budget in milliseconds with the points chosen at the smallest FLOPs budget where
every seed is fast enough, so its score still covers all seeds. Points between the FLOPs budgets have no times, and a
method may have a better one there, so methods are not ranked or compared with each other at a budget in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.budgets import BUDGETS, at_budget
from bench.analysis.roles import Roles
from bench.analysis.statistics import GROUPS, select_tasks
from bench.errors import UserError
from bench.reporting.page.blocks import TASK_GROUPS, Question, Reader
from bench.reporting.page.clock import clock_note, fast_enough, fastest, milliseconds_of, noise_floor
from bench.reporting.tables.costs import OF_TEACHER, training
from bench.reporting.tables.format.table import display_names
from bench.reporting.tables.main import Evidence
from bench.reporting.tables.notes import tasks_of
from bench.tasks.catalogue import Task

COSTS = {"flops": "FLOPs", "milliseconds": "milliseconds"}
_METRICS = {"score": "each task's own metric", "accuracy": "accuracy"}


def chooser(
    points: pd.DataFrame, roles: Roles, evidence: Evidence, known: Mapping[str, Task], times: pd.DataFrame
) -> dict[str, Any]:
    """Return the data of the chooser; a choice that has no points is left out.

    Args:
        points: All operating points.
        roles: The roles of the methods.
        evidence: Resamples and settings of comparisons.
        known: Map from name to task.
        times: latency.parquet; it may be empty.

    Returns:
        Titles of the choices (`costs`, `budgets`, `tasks`, `metrics`) and `blocks`, by
        "<cost> <budget> <tasks> <metric>" (see `Reader.blocks`).
    """
    points = roles.contestants(points)
    points = points.assign(**dict.fromkeys({"latency_1", "accuracy"} - set(points), np.nan))
    groups = _groups(points, known, roles.reference)
    read = Reader(roles.reference, display_names(points), evidence, milliseconds_of(points, times), _planned(points))
    noise = noise_floor(times)
    chosen = {budget: at_budget(points, budget) for budget in BUDGETS}
    itself = chosen[1.0][chosen[1.0]["method"] == roles.reference]
    others = {budget: rows[rows["method"] != roles.reference] for budget, rows in chosen.items()}
    fast = fastest(others)
    timed = {task for (_, task), value in fast.items() if not np.isnan(value)}
    blocks: dict[str, dict[str, Any]] = {}
    for cost in COSTS:
        for budget in BUDGETS:
            rows = others[budget] if cost == "flops" else fast_enough(others, budget, noise)
            for metric in _METRICS:
                seen = _in_metric(pd.concat([rows, itself]), metric)
                there = set(seen["task"]) & (timed if cost == "milliseconds" else set(seen["task"]))
                own = {name: [task for task in tasks if task in there] for name, tasks in groups.items()}
                found = read.blocks(seen, own, Question(cost, budget, metric, fast))
                blocks |= {f"{cost} {budget:g} {group} {metric}": block for group, block in found.items()}
    used = [set(part) for part in zip(*(key.split() for key in blocks), strict=True)] or [set()] * 4
    return {
        "costs": [[name, title] for name, title in COSTS.items() if name in used[0]],
        "budgets": [[f"{budget:g}", f"{budget:g}×"] for budget in BUDGETS if f"{budget:g}" in used[1]],
        "tasks": [[name, title] for name, title in TASK_GROUPS.items() if name in used[2]],
        "metrics": [[name, title] for name, title in _METRICS.items() if name in used[3]],
        "reference": read.name(roles.reference),
        "training": unequal_training(points, roles),
        "clock": clock_note(noise),
        "level": f"{100 * evidence.comparison.level:g} %",
        "blocks": blocks,
    }


def unequal_training(points: pd.DataFrame, roles: Roles) -> str:
    """Return a sentence on models with more or fewer training steps than the reference, or "" if all have as many.

    The numbers are those of the training table: means of the ratios to the reference's steps on the same task. Models
    without training, and differences of less than 5 %, do not count.
    """
    table = training(points, (), roles)
    if table is None or OF_TEACHER not in table.values:
        return "The training steps behind these models are not recorded, so they may differ between methods."
    steps = table.values[table.values[OF_TEACHER].gt(0) & table.values[OF_TEACHER].sub(1).abs().gt(0.05)]
    said = "; ".join(
        f"{row['Model']} {row[OF_TEACHER]:.2f}" for row in steps.sort_values(OF_TEACHER).to_dict("records")
    )
    return f"Training steps differ (times those of the reference, mean over tasks): {said}." if said else ""


def _planned(points: pd.DataFrame) -> dict[str, int]:
    """Map each task to the number of its seeds."""
    return {str(task): int(count) for task, count in points.groupby("task")["seed"].nunique().items()}


def _groups(points: pd.DataFrame, known: Mapping[str, Task], reference: str) -> dict[str, list[str]]:
    """Return the groups of tasks that are not empty; a group equal to an earlier one is left out."""
    groups = {"all": tasks_of(points)}
    for name in GROUPS:
        try:
            tasks = select_tasks(name, points, known, reference=reference)
        except UserError:  # no such task
            continue
        if sorted(tasks) not in [sorted(each) for each in groups.values()]:
            groups[name] = [task for task in groups["all"] if task in tasks]
    return groups


def _in_metric(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return chosen points with `score` in the metric, on the tasks that have it."""
    if metric == "score":
        return rows
    given = rows["accuracy"].astype(float)
    if (rows["metric"].eq("accuracy") | given.isna()).all():
        return rows[:0]  # each task's own metric is accuracy already, or none has it
    return rows.assign(score=given, metric="accuracy")[rows["task"].isin(rows.loc[given.notna(), "task"])]
