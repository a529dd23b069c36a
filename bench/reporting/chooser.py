"""Data of the page's chooser: the methods at every budget, for groups of tasks, with their verdicts.

A block is the answer to one question, such as "which method at 4x on sentence pairs?". Scores, intervals and verdicts
come from the functions that `costeff compare` uses; the page shows them as they are and computes no statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.budgets import BUDGETS, POINT, RUN, succeeded, timed_points
from bench.analysis.comparing.equivalence import classify_differences
from bench.analysis.comparing.estimates import Estimate, average, average_if_known
from bench.analysis.comparing.resampling import Point, records
from bench.analysis.comparing.seeds import geometric
from bench.analysis.comparing.verdicts import chosen_points, estimate, mean_estimate, scored
from bench.analysis.roles import Roles
from bench.analysis.statistics import GROUPS, select_tasks
from bench.errors import UserError
from bench.reporting.tables.comparisons import PHRASES
from bench.reporting.tables.format.table import display_names
from bench.reporting.tables.main import Evidence
from bench.reporting.tables.notes import tasks_of
from bench.tasks.catalogue import Task
from bench.tasks.catalogue import title as task_title

COSTS = {"flops": "FLOPs", "milliseconds": "milliseconds"}
_SPEEDUP = {"flops": "speedup", "milliseconds": "latency_1"}
_GROUPS = {"all": "all tasks", "pairs": "sentence pairs", "single": "single texts", "learned": "learned tasks"}
_METRICS = {"score": "each task's own metric", "accuracy": "accuracy"}
_OPPOSITE = {"better": "worse", "worse": "better"}


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
        "<cost> <budget> <tasks> <metric>" (see `_Reader.blocks`).
    """
    points = roles.contestants(points)
    lacking = [name for name in ("latency_1", "accuracy") if name not in points]
    points = points.assign(flops_speedup=points["speedup"], **dict.fromkeys(lacking, np.nan))
    groups = _groups(points, known, roles.reference)
    read = _Reader(roles.reference, display_names(points), evidence, _times(points, times))
    blocks: dict[str, dict[str, Any]] = {}
    for cost in _SPEEDUP:
        for metric in _METRICS:
            seen = _view(points, cost, metric, roles.reference)
            own = {name: [task for task in tasks if task in set(seen["task"])] for name, tasks in groups.items()}
            for budget in BUDGETS:
                found = read.blocks(seen, budget, own, COSTS[cost], "accuracy" if metric == "accuracy" else "score")
                blocks |= {f"{cost} {budget:g} {group} {metric}": block for group, block in found.items()}
    used = [set(part) for part in zip(*(key.split() for key in blocks), strict=True)] or [set()] * 4
    return {
        "costs": [[name, title] for name, title in COSTS.items() if name in used[0]],
        "budgets": [[f"{budget:g}", f"{budget:g}×"] for budget in BUDGETS if f"{budget:g}" in used[1]],
        "tasks": [[name, title] for name, title in _GROUPS.items() if name in used[2]],
        "metrics": [[name, title] for name, title in _METRICS.items() if name in used[3]],
        "reference": read.name(roles.reference),
        "training": unequal_training(points, read.names),
        "level": f"{100 * evidence.comparison.level:g} %",
        "blocks": blocks,
    }


def unequal_training(points: pd.DataFrame, names: Mapping[str, str]) -> str:
    """Return a sentence on contestants with more or fewer training steps than the others, or "" if all have as many.

    Models without training, and differences of less than 5 %, do not count.
    """
    runs = succeeded(points).drop_duplicates(RUN)
    if not runs.get("training_steps", pd.Series(dtype=float)).notna().any():
        return "The training steps behind these models are not recorded, so they may differ between methods."
    steps = runs[runs["training_steps"] > 0].groupby("method")["training_steps"].mean()
    if steps.max() <= 1.05 * steps.min():
        return ""
    said = "; ".join(f"{names.get(str(method), method)} {mean:.0f}" for method, mean in steps.sort_values().items())
    return f"Training steps differ (mean over runs, with those of the models that are continued): {said}."


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


def _view(points: pd.DataFrame, cost: str, metric: str, reference: str) -> pd.DataFrame:
    """Return the points with `speedup` in the cost and `score` in the metric, on the tasks that have both.

    The reference is 1x by definition, so noise of the clock does not move it.
    """
    speedup = points[_SPEEDUP[cost]].astype(float)
    itself = points["method"].eq(reference) & speedup.notna()
    seen = points.assign(speedup=speedup.where(~itself, points["flops_speedup"].astype(float)))
    if metric == "accuracy":
        given = points["accuracy"].astype(float)
        if (points["metric"].eq("accuracy") | given.isna()).all():
            return seen[:0]  # each task's own metric is accuracy already, or none has it
        seen = seen.assign(score=given, metric="accuracy")
        seen = seen[seen["task"].isin(seen.loc[seen["score"].notna(), "task"])]
    if cost != "flops":  # a task on which nothing was timed has no budget in milliseconds
        seen = seen[seen["task"].isin(seen.loc[seen["speedup"].notna(), "task"])]
    return seen


def _times(points: pd.DataFrame, times: pd.DataFrame) -> dict[tuple[Any, ...], float]:
    """Map each timed point to its milliseconds per example at batch size 1."""
    return {_key(row): float(row["milliseconds"]) for row in records(timed_points(points, times))}


def _key(row: Point) -> tuple[Any, ...]:
    return tuple(row[name] for name in POINT)


@dataclass(frozen=True)
class _Reader:
    """What the blocks are made from.

    Attributes:
        reference: The reference contestant.
        names: Display names of the methods.
        evidence: Resamples and settings of comparisons.
        times: Milliseconds of timed points.
    """

    reference: str
    names: Mapping[str, str]
    evidence: Evidence
    times: Mapping[tuple[Any, ...], float]

    def name(self, method: str) -> str:
        """Return the display name of a method."""
        return self.names.get(method, method)

    def blocks(
        self, points: pd.DataFrame, budget: float, groups: Mapping[str, Sequence[str]], cost: str, metric: str
    ) -> dict[str, dict[str, Any]]:
        """Return the block of each group of tasks at one budget.

        Args:
            points: Operating points whose `speedup` is that of the budget.
            budget: The budget, as a speed-up over the reference, which is itself taken at 1x.
            groups: Map from name to tasks.
            cost: Title of the cost.
            metric: Name of the scores.

        Returns:
            Per group the titles of its `tasks`; `rows`, the best score first and the reference last; `without`, the
            methods that lack a point on a task; `comparisons`, the number that the verdicts are corrected for;
            `answer`, a sentence; and the `command` that prints the same differences.
        """
        resamples = self.evidence.splits["validation"]
        chosen = chosen_points(points[points["method"] != self.reference], budget)
        chosen |= chosen_points(points[points["method"] == self.reference], 1.0)
        resamples.prepare(row for tasks in chosen.values() for rows in tasks.values() for row in rows)

        @cache
        def gap(a: str, b: str, task: str) -> Estimate | None:
            try:
                return estimate(chosen[a][task], chosen[b][task], resamples)
            except UserError:  # no seed in common
                return None

        methods = [method for method in dict.fromkeys(points["method"]) if method != self.reference]
        made = {}
        for name, tasks in groups.items():
            known = [
                method for method in [*methods, self.reference] if tasks and set(tasks) <= set(chosen.get(method, {}))
            ]
            if not set(known) - {self.reference}:
                continue
            pairs = list(combinations(known, 2))
            found = classify_differences(
                [average_if_known(gap(a, b, task) for task in tasks) for a, b in pairs], self.evidence.comparison
            )
            verdicts = _both_ways(pairs, found)
            lines = [self._line(method, chosen[method], tasks) for method in known]
            lines.sort(key=lambda line: (line["method"] == self.reference, -line["score"][0]))
            first = lines[0]["method"]
            for line in lines:
                line["first"] = verdicts.get((line["method"], first))
                line["teacher"] = verdicts.get((line["method"], self.reference))
            count = int((found["verdict"] != "").sum())
            made[name] = {
                "rows": [{**line, "method": self.name(line["method"])} for line in lines],
                "without": [self.name(method) for method in methods if method not in known],
                "comparisons": count,
                "tasks": [task_title(task) for task in tasks],
                "answer": self._answer(lines, budget, cost, (metric, _GROUPS[name])),
                "command": f"costeff compare {first} --speedup {budget:g}" + f" --tasks {name}" * (name != "all"),
            }
        return made

    def _line(self, method: str, tasks: Mapping[str, Sequence[Point]], wanted: Sequence[str]) -> dict[str, Any]:
        """Return score, interval and costs of a method: means over the seeds of each task, then over tasks."""
        rows = {task: scored(tasks[task]) for task in wanted}
        mean = average([mean_estimate(its, self.evidence.splits["validation"]) for its in rows.values()])
        timed = [[self.times[_key(row)] for row in its if _key(row) in self.times] for its in rows.values()]

        def over(column: str) -> float | None:
            value = geometric([geometric([row.get(column, np.nan) for row in its]) for its in rows.values()])
            return None if np.isnan(value) else value

        return {
            "method": method,
            "score": [100 * each for each in (mean.value, *mean.interval(self.evidence.comparison.level))],
            "speedup": over("flops_speedup"),
            "measured": over("latency_1"),
            "milliseconds": float(np.mean([np.mean(each) for each in timed])) if all(timed) else None,
            "models": ", ".join(dict.fromkeys(str(row["label"]) for its in rows.values() for row in its)),
        }

    def _answer(self, lines: Sequence[Mapping[str, Any]], budget: float, cost: str, what: tuple[str, str]) -> str:
        """Return a sentence that names the best score and the verdicts on it."""
        first, rivals = lines[0], [line for line in lines[1:] if line["method"] != self.reference]
        budget_said = f"at least {budget:g}× fewer {cost}" if budget > 1 else "at any cost"
        highest = f"{what[0]} on {what[1]}, {first['score'][0]:.1f}, with {budget_said}"
        said = f"{self.name(first['method'])} has the highest {highest}."
        words: dict[str, list[str]] = {}
        for line in rivals:
            word = line["first"][3] if line["first"] else "not comparable"
            words.setdefault(_OPPOSITE.get(word, word), []).append(self.name(line["method"]))
        said += "".join(f" {_SAID[word]}: {'; '.join(words[word])}." for word in _SAID if word in words)
        said += "" if words else " No other method has a point on every task."
        if first["teacher"]:
            low, high, word = first["teacher"][1:]
            said += f" Against {self.name(self.reference)} at 1×: {word}"
            said += f" ({first['teacher'][0]:+.1f}, {low:.1f} to {high:.1f})."
        return said


_SAID = {**PHRASES, "not comparable": "No seed in common with"}


def _both_ways(pairs: Sequence[tuple[str, str]], found: pd.DataFrame) -> dict[tuple[str, str], list[Any]]:
    """Map (a, b) and (b, a) to difference, low, high (in points) and verdict; a pair without a verdict is left out."""
    verdicts: dict[tuple[str, str], list[Any]] = {}
    for (a, b), row in zip(pairs, found.itertuples(), strict=True):
        if row.verdict:
            verdicts[a, b] = [100 * row.difference, 100 * row.low, 100 * row.high, row.verdict]
            opposite = _OPPOSITE.get(row.verdict, row.verdict)
            verdicts[b, a] = [-100 * row.difference, -100 * row.high, -100 * row.low, opposite]
    return verdicts
