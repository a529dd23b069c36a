"""Three sentences on a finished benchmark: what was learned, the best method at a budget, the declared comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.analysis.budgets import at_budget, control_rows, teacher_rows
from bench.analysis.comparing.seeds import geometric
from bench.analysis.comparing.verdicts import LEARNED, PRIMARY
from bench.analysis.roles import Roles
from bench.analysis.statistics import learned_tasks
from bench.reporting.tables import Table
from bench.reporting.tables.format.table import display_names
from bench.reporting.tables.summaries import mean_over_tasks

BUDGETS = (4.0, 2.0, 1.0)
"""Budgets of which the first is reported where two methods have a point on every task."""


def findings(
    points: pd.DataFrame, tables: Sequence[Table], roles: Roles, *, contestant: str | None = None
) -> list[str]:
    """Return what was found, in at most three lines.

    Args:
        points: All operating points.
        tables: Tables made of them; the declared comparisons are those of the table `verdicts`.
        roles: The roles of the methods.
        contestant: The contestant of the declared comparisons; None: these are left out.
    """
    names = display_names(points)
    found = [_learned(points, names, roles), _cheapest(points, names, roles)]
    if contestant in names:
        found += [_declared(table.values, names[contestant]) for table in tables if table.name == "verdicts"]
    return [line for line in found if line]


def _learned(points: pd.DataFrame, names: dict[str, str], roles: Roles) -> str:
    teacher, constant = (
        100 * mean_over_tasks(rows, "score")
        for rows in (teacher_rows(points, reference=roles.reference), control_rows(points))
    )
    tasks = points["task"].nunique()
    if pd.isna(teacher):
        return f"{names.get(roles.reference, roles.reference)} has no score on some of the {tasks} tasks."
    learned = len(learned_tasks(points, reference=roles.reference))
    return (
        f"{names[roles.reference]}: {teacher:.1f} on average over {tasks} task{'s' * (tasks > 1)}, the best constant "
        f"answers {constant:.1f}; {learned} of {tasks} learned."
    )


def _cheapest(points: pd.DataFrame, names: dict[str, str], roles: Roles) -> str:
    tasks = points["task"].nunique()
    for budget in BUDGETS:
        chosen = at_budget(points[points["method"] != roles.reference], budget)
        scores = {
            method: (100 * mean_over_tasks(rows, "score"), geometric(rows["latency_1"]))
            for method, rows in chosen.groupby("method", sort=False)
            if rows["task"].nunique() == tasks and rows["score"].notna().all()
        }
        best = sorted(scores, key=lambda method: -scores[method][0])[:3]
        if len(best) > 1 or (best and budget == BUDGETS[-1]):
            said = [
                f"{names[method]} {scores[method][0]:.1f}"
                + (f" ({scores[method][1]:.1f}x faster on the clock)" if scores[method][1] > 0 else "")
                for method in best
            ]
            return f"At least {budget:g}x cheaper in FLOPs: {', '.join(said)}."
    return ""


def _declared(verdicts: pd.DataFrame, name: str) -> str:
    if verdicts.empty:
        return ""
    rows = verdicts[(verdicts["Comparison"] == PRIMARY) & (verdicts["Tasks"] != LEARNED) & (verdicts["A"] == name)]
    if not len(rows):
        return ""
    counts = rows["Verdict"].value_counts()
    said = ", ".join(f"{name} {counts.get(name, 0)}" for name in ("better", "worse", "equal", "not decided"))
    return f"Declared comparisons of {name} with the others, all tasks: {said} (tables/verdicts.md)."
