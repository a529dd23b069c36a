"""Blocks of the page's chooser: rows, verdicts and answer of one question.

A block is the answer to one question, such as "which method at 4x on sentence pairs?". Scores, intervals and verdicts
come from the functions that `costeff compare` uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.budgets import BUDGETS
from bench.analysis.comparing.equivalence import classify_differences
from bench.analysis.comparing.estimates import Estimate, average, average_if_known
from bench.analysis.comparing.resampling import Point, records
from bench.analysis.comparing.seeds import geometric
from bench.analysis.comparing.verdicts import estimate, mean_estimate, scored
from bench.errors import UserError
from bench.reporting.page.clock import key
from bench.reporting.tables.comparisons import PHRASES
from bench.reporting.tables.main import Evidence
from bench.tasks.catalogue import title as task_title

TASK_GROUPS = {"all": "all tasks", "pairs": "sentence pairs", "single": "single texts", "learned": "learned tasks"}
_OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Question:
    """What a block answers, apart from the group of tasks.

    Attributes:
        cost: Key of `COSTS`.
        budget: The budget, as a speed-up over the reference, which is itself taken at 1x.
        metric: `score`, each task's own metric, or `accuracy`.
        fastest: Map from method and task to the largest measured speed-up that all seeds reach.
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
class Reader:
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
        timed = [[self.times[key(row)] for row in its if key(row) in self.times] for its in rows.values()]

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
        return f"{TASK_GROUPS[group]} ({len(tasks)} tasks)"

    def _answer(self, lines: Sequence[Mapping[str, Any]], question: Question, where: str) -> str:
        """Return a sentence with the best score, that of the reference, and the verdicts."""
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
        said += "".join(f" {_SAID[word]} {'; '.join(words[word])}." for word in _SAID if word in words)
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


_SAID = {**PHRASES, "not comparable": "No seed in common with:"}


def _both_ways(pairs: Sequence[tuple[str, str]], found: pd.DataFrame) -> dict[tuple[str, str], list[Any]]:
    """Map (a, b) and (b, a) to difference, low, high (in points) and verdict; a pair without a verdict is left out."""
    verdicts: dict[tuple[str, str], list[Any]] = {}
    for (a, b), row in zip(pairs, found.itertuples(), strict=True):
        if row.verdict:
            verdicts[a, b] = [100 * row.difference, 100 * row.low, 100 * row.high, row.verdict]
            opposite = _OPPOSITE.get(row.verdict, row.verdict)
            verdicts[b, a] = [-100 * row.difference, -100 * row.high, -100 * row.low, opposite]
    return verdicts
