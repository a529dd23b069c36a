"""The points that exports show: for each contestant, task and budget the chosen point, averaged over seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from bench.analysis.budgets import at_budget, by_budget, has_traces
from bench.analysis.comparing.seeds import geometric
from bench.sharing.folders import ResultsFolder
from bench.tasks.catalogue import Task, tasks_of


@dataclass(frozen=True)
class Shown:
    """A contestant on a task at a budget.

    Attributes:
        task: The task.
        budget: Least speed-up over the reference, on the selection split; `ANY_COST` for methods with no point at 1x.
        scores: Metric -> mean over seeds on validation, as a fraction.
        deviation: Sample deviation of the ranking metric over seeds; NaN with one seed.
        seeds: The seeds.
        examples: Number of validation examples.
        flops: Mean FLOPs of an example.
        speedup: Geometric mean of the speed-ups over the reference.
        traced: Whether all seeds have traces.
    """

    task: Task
    budget: float
    scores: dict[str, float]
    deviation: float
    seeds: tuple[int, ...]
    examples: int
    flops: float
    speedup: float
    traced: bool


def budget_name(budget: float) -> str:
    """Return the short name of a budget, such as "2x"."""
    return f"{budget:g}x" if budget else "any-cost"


def condition(budget: float, reference: str) -> str:
    """Return the condition that a budget sets: "at least 2x cheaper than teacher", or "at any cost"."""
    return f"at least {budget:g}x cheaper than {reference}" if budget else "at any cost"


def contestants(folder: ResultsFolder) -> Iterator[tuple[str, str, list[Shown]]]:
    """Yield name, label and shown points of each contestant with a point in the main table.

    A contestant is left out on a task and budget where a seed has no point, since a mean over the others would be too
    optimistic.
    """
    points, tasks = folder.points(), tasks_of(folder.settings.own_tasks)
    found: dict[str, list[Shown]] = {}
    for budget, of_budget in by_budget(points):
        rows = at_budget(of_budget, budget)
        for (method, task), of_task in rows.groupby(["method", "task"], sort=False):
            if of_task["score"].notna().all():
                found.setdefault(str(method), []).append(_shown(of_task, tasks[str(task)], budget))
    labels = points.drop_duplicates("method").set_index("method")["label"]
    for method, shown in found.items():
        yield method, str(labels[method]), shown


def _shown(rows: pd.DataFrame, task: Task, budget: float) -> Shown:
    return Shown(
        task=task,
        budget=budget,
        scores={metric: float(rows[metric].mean()) for metric in task.metrics if rows[metric].notna().all()},
        deviation=float(rows["score"].std()),
        seeds=tuple(int(seed) for seed in rows["seed"]),
        examples=int(rows["examples"].iloc[0]),
        flops=float(rows["flops"].mean()),
        speedup=geometric(rows["speedup"]),
        traced=bool(has_traces(rows).all()),
    )
