"""The table to begin with: one row for each method, its score at each budget beside the teacher, time and training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.budgets import RUN, at_budget, succeeded, teacher_rows
from bench.analysis.comparing.intervals import Interval, budget_differences
from bench.analysis.roles import Roles
from bench.analysis.statistics import learned_tasks
from bench.reporting.tables.main import BUDGETS, Evidence
from bench.reporting.tables.notes import learned_note, tasks_of
from bench.reporting.tables.table import Format, Table, difference, display_names, plain, score

CLOCK_BUDGET = 4.0
"""The budget whose milliseconds are shown."""


def summary(points: pd.DataFrame, notes: Sequence[str], roles: Roles, evidence: Evidence | None) -> Table:
    """Return the mean score of each method at each budget, with its difference from the teacher at full depth.

    The mean is over the learned tasks, or over all tasks if none was learned.

    Args:
        points: All operating points.
        notes: Notes that all tables share.
        roles: The roles of the methods.
        evidence: Resamples for the intervals of the differences; None: without intervals.
    """
    learned = [task for task in tasks_of(points) if task in learned_tasks(points, reference=roles.reference)]
    tasks = learned or tasks_of(points)
    shown = roles.contestants(points[points["task"].isin(tasks)])
    gaps = budget_differences(shown, roles, evidence.splits["validation"] if evidence else None, BUDGETS, tasks)
    teacher = teacher_rows(shown, reference=roles.reference)
    training = succeeded(shown).drop_duplicates(RUN).groupby("method")
    names = display_names(points)
    methods = shown.loc[shown["kind"] != "control", "method"].drop_duplicates()
    lines: dict[str, dict[str, Any]] = {method: {"Method": names[method]} for method in methods}
    timed = f"ms at {CLOCK_BUDGET:g}x"
    for budget in BUDGETS:
        chosen = at_budget(shown[shown["method"] != roles.reference], budget)
        for method, rows in chosen.groupby("method"):
            lines[str(method)][f"{budget:g}x"] = _cell(rows, gaps.get((str(method), budget)))
            if budget == CLOCK_BUDGET:
                lines[str(method)][timed] = _mean(rows, "milliseconds")
    if len(teacher):
        lines[roles.reference] |= {"1x": score(100 * _mean(teacher, "score")), timed: _mean(teacher, "milliseconds")}
    for method, rows in training:
        flops = rows.get("training_flops_in_all", pd.Series(dtype=float)).mean() / 1e12
        lines[str(method)]["Training, TFLOP"] = flops
    formats: dict[str, Format] = {timed: plain, "Training, TFLOP": plain}
    columns = ["Method", *(f"{budget:g}x" for budget in BUDGETS), timed, "Training, TFLOP"]
    values = pd.DataFrame([lines[name] for name in sorted(lines, key=lambda name: name != roles.reference)]).reindex(
        columns=columns
    )
    formats = {name: form for name, form in formats.items() if values[name].notna().any()}
    return Table(
        "summary",
        f"Mean score on {'the learned' if learned else 'all'} tasks at the given minimum speed-ups over the teacher",
        values.drop(columns=[name for name in (timed, "Training, TFLOP") if name not in formats]),
        formats,
        notes=[
            *notes,
            "In brackets: difference from the teacher at full depth, in points, with its interval over seeds and "
            "examples for this comparison alone (table verdicts has the corrected ones). A dash: no point at this "
            "budget on some task. Milliseconds: one example at a time, mean over tasks, of the points at "
            f"{CLOCK_BUDGET:g}x (of the teacher at 1x). Training: of one model on one task, with every model that it "
            "needs, such as its teacher.",
            *([learned_note(learned)] if learned else []),
        ],
    )


def _mean(rows: pd.DataFrame, column: str) -> float:
    """Return the mean over tasks of the means over seeds; NaN where a task has no value."""
    return float(rows.groupby("task")[column].mean().mean(skipna=False)) if len(rows) else np.nan


def _cell(rows: pd.DataFrame, gap: Interval | None) -> str | None:
    """Return the mean score and its difference from the teacher, or None without a point on every task."""
    if gap is None:
        return None
    low, high = (100 * edge for edge in (gap.low, gap.high))
    interval = "" if np.isnan(low) else f", {difference(low)} to {difference(high)}"
    return f"{score(100 * _mean(rows, 'score'))} ({difference(100 * gap.value)}{interval})"
