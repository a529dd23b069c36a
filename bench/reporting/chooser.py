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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.budgets import BUDGETS, POINT, TOLERANCE, at_budget, timed_points
from bench.analysis.comparing.equivalence import classify_differences
from bench.analysis.comparing.estimates import Estimate, average, average_if_known
from bench.analysis.comparing.resampling import Point, records
from bench.analysis.comparing.seeds import geometric
from bench.analysis.comparing.verdicts import estimate, mean_estimate, scored
from bench.analysis.roles import Roles
from bench.analysis.statistics import GROUPS, select_tasks
from bench.errors import UserError
from bench.reporting.tables.comparisons import PHRASES
from bench.reporting.tables.costs import OF_TEACHER, training
from bench.reporting.tables.format.table import display_names
from bench.reporting.tables.main import Evidence
from bench.reporting.tables.notes import tasks_of
from bench.tasks.catalogue import Task
from bench.tasks.catalogue import title as task_title

COSTS = {"flops": "FLOPs", "milliseconds": "milliseconds"}
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
    points = points.assign(**dict.fromkeys({"latency_1", "accuracy"} - set(points), np.nan))
    groups = _groups(points, known, roles.reference)
    read = _Reader(roles.reference, display_names(points), evidence, _times(points, times), _planned(points))
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
        "tasks": [[name, title] for name, title in _GROUPS.items() if name in used[2]],
        "metrics": [[name, title] for name, title in _METRICS.items() if name in used[3]],
        "reference": read.name(roles.reference),
        "training": unequal_training(points, roles),
        "clock": _clock(noise),
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


def noise_floor(times: pd.DataFrame) -> float:
    """Return the smallest measured speed-up that counts as 1x: the lower noise floor of the latency table.

    It is at most 1 - `TOLERANCE`.

    Args:
        times: latency.parquet; it may be empty.
    """
    floors = times.loc[times["batch_size"] == 1, "noise_low"] if "noise_low" in times else pd.Series(dtype=float)
    return float(np.nanmin([1 - TOLERANCE, *floors]))


def fast_enough(chosen: Mapping[float, pd.DataFrame], budget: float, noise: float) -> pd.DataFrame:
    """Return the points of each method and task, for all seeds, whose speed-up on the clock reaches a budget.

    Of the FLOPs budgets where all seeds are fast enough, the smallest is taken, which has the best score on the
    selection split.

    Args:
        chosen: Map from FLOPs budget to its rows of `at_budget`.
        budget: The speed-up to reach on the clock, less `TOLERANCE`.
        noise: Speed-up that counts as 1x.
    """
    rows = _timed(chosen)
    rows = rows[rows["measured"] >= (noise if budget == 1 else budget * (1 - TOLERANCE))]
    return rows[rows["budget"] == rows.groupby(["method", "task"])["budget"].transform("min")]


def fastest(chosen: Mapping[float, pd.DataFrame]) -> dict[tuple[str, str], float]:
    """Map method and task to the largest speed-up on the clock that all seeds reach; NaN if none was timed."""
    return _timed(chosen).groupby(["method", "task"])["measured"].max().to_dict()


def _timed(chosen: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all FLOPs budgets with `measured`, the speed-up on the clock of the slowest seed."""
    rows = pd.concat(chosen.values(), ignore_index=True)
    groups = [rows[name] for name in ("method", "task", "budget")]
    known, promised = rows["latency_1"].astype(float), rows["speedup"].astype(float)
    estimated = promised * (known / promised).groupby(groups).transform(geometric)
    return rows.assign(measured=known.fillna(estimated).groupby(groups).transform("min"))


def _clock(noise: float) -> str:
    """Return a note on budgets in milliseconds."""
    return (
        "Time is measured for the first seed only, at batch size 1; for the other seeds it is estimated in proportion "
        "to FLOPs. Each method has the points chosen at the smallest budget in FLOPs where every seed is fast enough; "
        "scores, intervals and verdicts are those of these points for all seeds. The clock is noisy: a measured "
        f"speed-up of {noise:.2f} or more counts as 1×."
    )


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


def _times(points: pd.DataFrame, times: pd.DataFrame) -> dict[tuple[Any, ...], float]:
    """Map each timed point to its milliseconds per example at batch size 1."""
    return {_key(row): float(row["milliseconds"]) for row in records(timed_points(points, times))}


def _key(row: Point) -> tuple[Any, ...]:
    return tuple(row[name] for name in POINT)


@dataclass(frozen=True)
class Question:
    """What a block answers, apart from the group of tasks.

    Attributes:
        cost: Key of `COSTS`.
        budget: The budget, as a speed-up over the reference, which is itself taken at 1x.
        metric: Key of the metrics.
        fastest: Map from method and task to the largest speed-up on the clock that all seeds reach.
    """

    cost: str
    budget: float
    metric: str
    fastest: Mapping[tuple[str, str], float]

    def why(self, method: str, tasks: Sequence[str]) -> str:
        """Return the measured speed-up that keeps a method from a budget in milliseconds; "" for FLOPs."""
        if self.cost == "flops":
            return ""
        speeds = {task: self.fastest.get((method, task), np.nan) for task in tasks}
        if np.isnan(list(speeds.values())).any():
            return "not timed on every task"
        slowest = min(speeds, key=speeds.__getitem__)
        return f"at most {speeds[slowest]:.2f}× as fast, measured on {task_title(slowest)}"


@dataclass(frozen=True)
class _Reader:
    """What the blocks are made from.

    Attributes:
        reference: The reference contestant.
        names: Display names of the methods.
        evidence: Resamples and settings of comparisons.
        times: Milliseconds of timed points.
        planned: Number of seeds of each task.
    """

    reference: str
    names: Mapping[str, str]
    evidence: Evidence
    times: Mapping[tuple[Any, ...], float]
    planned: Mapping[str, int]

    def name(self, method: str) -> str:
        """Return the display name of a method."""
        return self.names.get(method, method)

    def blocks(
        self, rows: pd.DataFrame, groups: Mapping[str, Sequence[str]], question: Question
    ) -> dict[str, dict[str, Any]]:
        """Return the block of each group of tasks.

        Args:
            rows: The chosen points, one per method, task and seed.
            groups: Map from name to tasks.
            question: The question.

        Returns:
            Per group the titles of its `tasks`; `rows`, the best score first and the reference last; `without`, the
            methods that lack a point on a task, each with its measured speed-up for budgets in milliseconds; `few`,
            those with fewer seeds than planned; `comparisons`, the number that the verdicts are corrected for;
            `answer`, a sentence; and the `command` that prints the same differences.
        """
        resamples = self.evidence.splits["validation"]
        chosen: dict[str, dict[str, list[Point]]] = {}
        for row in scored(records(rows)):
            chosen.setdefault(row["method"], {}).setdefault(row["task"], []).append(row)
        resamples.prepare(row for tasks in chosen.values() for own in tasks.values() for row in own)

        @cache
        def gap(a: str, b: str, task: str) -> Estimate | None:
            try:
                return estimate(chosen[a][task], chosen[b][task], resamples)
            except UserError:  # no seed in common
                return None

        methods = [method for method in self.names if method != self.reference]
        made = {}
        for name, tasks in groups.items():
            known = [
                method for method in [*methods, self.reference] if tasks and set(tasks) <= set(chosen.get(method, {}))
            ]
            if not set(known) - {self.reference}:
                continue
            pairs = [pair for pair in combinations(known, 2) if question.cost == "flops" or self.reference in pair]
            found = classify_differences(
                [average_if_known(gap(a, b, task) for task in tasks) for a, b in pairs], self.evidence.comparison
            )
            verdicts = _both_ways(pairs, found)
            lines = [self._line(method, chosen[method], tasks) for method in known]
            lines.sort(key=lambda line: (line["method"] == self.reference, -line["score"][0]))
            first = lines[0]["method"]
            for line in lines:
                line["first"] = verdicts.get((line["method"], first)) if question.cost == "flops" else None
                line["teacher"] = verdicts.get((line["method"], self.reference))
            count = int((found["verdict"] != "").sum())
            made[name] = {
                "rows": [{**line, "method": self.name(line["method"])} for line in lines],
                "without": [
                    [self.name(method), question.why(method, tasks)] for method in methods if method not in known
                ],
                "few": [few for method in known if (few := self._few(method, chosen[method], tasks))],
                "comparisons": count,
                "tasks": [task_title(task) for task in tasks],
                "answer": self._answer(lines, question, self._where(name, tasks)),
                "command": f"costeff compare {first} --speedup {question.budget:g}"
                + f" --tasks {name}" * (name != "all"),
            }
        return made

    def _line(self, method: str, tasks: Mapping[str, Sequence[Point]], wanted: Sequence[str]) -> dict[str, Any]:
        """Return score, interval and costs of a method: means over the seeds of each task, then over tasks."""
        rows = {task: scored(tasks[task]) for task in wanted}
        mean = average([mean_estimate(its, self.evidence.splits["validation"]) for its in rows.values()])
        timed = [[self.times[_key(row)] for row in its if _key(row) in self.times] for its in rows.values()]

        def over(column: str) -> float | None:
            values = [geometric([row.get(column, np.nan) for row in its]) for its in rows.values()]
            return None if np.isnan(values).any() else geometric(values)

        return {
            "method": method,
            "score": [100 * each for each in (mean.value, *mean.interval(self.evidence.comparison.level))],
            "speedup": over("speedup"),
            "measured": over("latency_1"),
            "milliseconds": float(np.mean([np.mean(each) for each in timed])) if all(timed) else None,
            "models": ", ".join(dict.fromkeys(str(row["label"]) for its in rows.values() for row in its)),
        }

    def _few(self, method: str, tasks: Mapping[str, Sequence[Point]], wanted: Sequence[str]) -> str:
        """Return a method's name and the tasks where it has fewer seeds than planned, or "" if there are none."""
        counts = {task: len({row["seed"] for row in tasks[task]}) for task in wanted}
        few = [
            f"{task_title(task)} {count} of {self.planned[task]}"
            for task, count in counts.items()
            if count < self.planned[task]
        ]
        return f"{self.name(method)} ({', '.join(few)})" if few else ""

    def _where(self, group: str, tasks: Sequence[str]) -> str:
        """Return the words for the tasks of a block."""
        if len(tasks) == 1:
            return task_title(tasks[0])
        if group == "all":
            return "all tasks" if len(tasks) == len(self.planned) else f"{len(tasks)} of {len(self.planned)} tasks"
        return f"{_GROUPS[group]} ({len(tasks)} tasks)"

    def _answer(self, lines: Sequence[Mapping[str, Any]], question: Question, where: str) -> str:
        """Return a sentence that names the best score beside the reference's, and the verdicts on it."""
        name = self.name(self.reference)
        first, rivals = lines[0], [line for line in lines[1:] if line["method"] != self.reference]
        itself = next((f" ({name}: {line['score'][0]:.1f})" for line in lines if line["method"] == self.reference), "")
        if question.cost == "milliseconds":
            return self._measured(question, [first, *rivals], f"{question.metric} on {where}{itself}")
        least = f"at least {question.budget:g}× fewer" if question.budget > 1 else "no more"
        said = f"Among methods with {least} FLOPs than {name}, {self.name(first['method'])} has the highest "
        said += f"{question.metric} on {where}, {first['score'][0]:.1f}{itself}."
        words: dict[str, list[str]] = {}
        for line in rivals:
            word = line["first"][3] if line["first"] else "not comparable"
            words.setdefault(_OPPOSITE.get(word, word), []).append(self.name(line["method"]))
        said += "".join(f" {_SAID[word]}: {'; '.join(words[word])}." for word in _SAID if word in words)
        said += "" if words else " No other method has a point on every task."
        if first["teacher"]:
            difference, low, high, word = first["teacher"]
            said += f" Against {name}: {word} ({difference:+.1f}, {low:+.1f} to {high:+.1f})."
        return said

    def _measured(self, question: Question, lines: Sequence[Mapping[str, Any]], what: str) -> str:
        """Return a sentence on the methods at a budget in milliseconds, without a ranking."""
        fast = f"at least {question.budget:g}× as fast" if question.budget > 1 else "at least as fast"
        scores = [line["score"][0] for line in lines]
        several = len(lines) > 1
        reached = f"{min(scores):.1f} to {max(scores):.1f}" if several else f"{scores[0]:.1f}"
        budgets = ", ".join(f"{budget:g}×" for budget in BUDGETS)
        return (
            f"{len(lines)} method{'s are' if several else ' is'} measured (first seed) to be {fast} as "
            f"{self.name(self.reference)}: {what}, {reached}. Only points chosen at {budgets} in FLOPs are timed. A "
            "method may have a better point between them, so methods are not ranked here."
        )


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
