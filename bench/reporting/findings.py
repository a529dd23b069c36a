"""Sentences on a finished benchmark: what was learned, the best methods at a budget, the declared comparisons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from bench.analysis.budgets import at_budget, control_rows, teacher_rows
from bench.analysis.comparing.seeds import geometric
from bench.analysis.comparing.verdicts import ALL, LEARNED, PRIMARY
from bench.analysis.roles import Roles
from bench.analysis.statistics import LEARNED_GAIN, learned_tasks
from bench.reporting.tables import Table
from bench.reporting.tables.comparisons import PHRASES
from bench.reporting.tables.format.table import display_names
from bench.reporting.tables.notes import tasks_of, title_of
from bench.reporting.tables.summaries import mean_over_tasks
from bench.store import RunKey, read_json, run_named

BUDGETS = (4.0, 2.0, 1.0)
"""Budgets of which the first is reported where two methods have a point on every task."""
_FEW_TASKS, _FEW_SEEDS = 3, 3
_APART = 1.4
"""Ratio of the actual speed-up to the budget, or its inverse, from which the actual one is stated."""


def findings(
    points: pd.DataFrame,
    tables: Sequence[Table],
    roles: Roles,
    *,
    contestant: str | None = None,
    sources: Collection[str] = (),
    level: float = 0.95,
) -> list[str]:
    """Return what was found, in short lines: what was learned, the best methods, the declared comparisons.

    The last two have a line for the learned tasks and one for all tasks, or one line where these are the same.

    Args:
        points: All operating points.
        tables: Tables made of them; the declared comparisons are those of the table `verdicts`.
        roles: The roles of the methods.
        contestant: The contestant of the declared comparisons; None: these are left out.
        sources: The contestants that it is trained from (`sources_of`), which are no rivals.
        level: Confidence level of the intervals.
    """
    names, tasks = _short_names(points), tasks_of(points)
    learned = learned_tasks(points, reference=roles.reference)
    scopes = {ALL: tasks} if len(tasks) > 1 else {title_of(tasks[0]): tasks}
    if 0 < len(learned) < len(tasks):
        scopes = {LEARNED: learned, **scopes}
    found = [_learned(points, names, roles, learned)]
    found += [_cheapest(points[points["task"].isin(some)], names, roles, scope) for scope, some in scopes.items()]
    table = next((table.values for table in tables if table.name == "verdicts"), pd.DataFrame())
    if contestant in names and not table.empty:
        rows = table[(table["Comparison"] == PRIMARY) & table["Tasks"].isin(list(scopes))]
        compared = rows[rows["Verdict"].ne("")].groupby("Tasks").size().to_dict()
        rows = rows[rows["A"] == display_names(points)[contestant]]
        budgets = [max(map(_budget, pair)) for pair in zip(rows["A at least"], rows["B at least"], strict=True)]
        named = {title: names[method] for method, title in display_names(points).items()}
        rows = rows.assign(budget=budgets, A=rows["A"].map(named), B=rows["B"].map(named))
        rows = rows.sort_values("budget", kind="stable")
        own = [names[source] for source in sorted(sources) if source in names and source != roles.reference]
        own = [name for name in own if name in set(rows["B"])]
        rows = rows[~rows["B"].isin(own)]
        if len(rows):
            found += [
                _head(points, names[contestant], {scope: compared.get(scope, 0) for scope in scopes}, level),
                *(
                    _verdicts(
                        rows[(rows["budget"] == budget) & (rows["Tasks"] == scope)],
                        rows,
                        scope,
                        budget,
                        names.get(roles.reference, ""),
                    )
                    for budget in dict.fromkeys(rows["budget"])
                    for scope in scopes
                ),
            ]
        if own and len(rows):
            found.append(f"Left out, since {names[contestant]} is trained from them: {'; '.join(own)}.")
    return [line for line in found if line]


def _short_names(points: pd.DataFrame) -> dict[str, str]:
    """Return the display names without their brackets, where they stay distinct."""
    names = display_names(points)
    short = {method: re.sub(r" *\([^()]*\)", "", name) for method, name in names.items()}
    count = Counter(short.values())
    return {method: short[method] if count[short[method]] == 1 else name for method, name in names.items()}


def sources_of(contestant: str, runs: Path) -> set[str]:
    """Return the contestants whose models a contestant's training needs, directly or through others.

    Args:
        contestant: The contestant.
        runs: results/<profile>/runs, whose run.json name the runs needed (since 0.3).
    """
    found: set[str] = set()
    pending = [contestant]
    while pending:
        for path in sorted(runs.glob(f"*/{pending.pop()}/*/*/run.json")):
            key = RunKey.of(path.parent.relative_to(runs))
            for need in read_json(path, "status").get("asked", {}).get("needs", {}):
                name = run_named(need, key).method
                if name not in found | {contestant}:
                    found.add(name)
                    pending.append(name)
    return found


def _learned(points: pd.DataFrame, names: dict[str, str], roles: Roles, learned: Sequence[str]) -> str:
    teacher, constant = (
        100 * mean_over_tasks(rows, "score", tasks_of(points))
        for rows in (teacher_rows(points, reference=roles.reference), control_rows(points))
    )
    tasks = points["task"].nunique()
    if pd.isna(teacher):
        return f"{names.get(roles.reference, roles.reference)} has no score on some of the {tasks} tasks."
    where = f"on average over {tasks} tasks" if tasks > 1 else f"on {title_of(tasks_of(points)[0])}"
    return (
        f"{names[roles.reference]}: {teacher:.1f} points {where}, constant baseline {constant:.1f}; {len(learned)} of "
        f"{tasks} task{'s' * (tasks > 1)} learned (every seed at least {100 * LEARNED_GAIN:g} points above it)."
    )


def _cheapest(points: pd.DataFrame, names: dict[str, str], roles: Roles, scope: str) -> str:
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
                + (f" (measured {scores[method][1]:.1f}x)" if scores[method][1] > 0 else "")
                for method in best
            ]
            return f"Best at a calculated speed-up of at least {budget:g}x, {scope}: {', '.join(said)}."
    return ""


def _budget(text: str) -> float:
    """Return the number of a budget of the table `verdicts`, such as "2x"; 0 for any cost."""
    return float(text.removesuffix("x")) if text != "any" else 0.0


def _head(points: pd.DataFrame, name: str, compared: Mapping[str, int], level: float) -> str:
    """Return the line that explains those of `_verdicts`.

    Args:
        points: All operating points.
        name: The contestant.
        compared: Map from scope to the number of comparisons for which its verdicts are corrected.
        level: Confidence level of the intervals.
    """
    counts = ", ".join(f"{scope} {count}" for scope, count in compared.items())
    tasks, seeds = points["task"].nunique(), int(points.groupby("task")["seed"].nunique().min())
    few = ""
    if tasks < _FEW_TASKS or seeds < _FEW_SEEDS:
        few = f" {tasks} task{'s' * (tasks > 1)} and {seeds} seed{'s' * (seeds > 1)}: the statistical power is low."
    return (
        f"{name} against the others; in brackets: difference in points, {100 * level:g} % interval. Verdicts are "
        f"corrected for the number of comparisons ({counts}), intervals are not.{few}"
    )


def _verdicts(own: pd.DataFrame, rows: pd.DataFrame, scope: str, budget: float, reference: str) -> str:
    """Return the line of a budget and scope: all others by verdict, then those without a point.

    Args:
        own: Declared comparisons of the contestant at the budget in the scope.
        rows: All its declared comparisons.
        scope: The tasks.
        budget: The speed-up; 0 is any cost.
        reference: Short name of the reference, whose difference is given.
    """
    if own.empty:
        return ""
    parts = []
    for word, phrase in PHRASES.items():
        alike = own[own["Verdict"] == word].sort_values("Difference")
        named = [
            f"{row['B']} ({row['Difference']:+.1f}, {row['Low']:+.1f} to {row['High']:+.1f})" * (row["B"] == reference)
            or row["B"]
            for _, row in alike.iterrows()
        ]
        parts += [f"{phrase.lower()} {'; '.join(named)}"] if named else []
    if len(without := own[own["Verdict"] == ""]):
        parts.append(f"no point on some task: {'; '.join(without['B'])}")
    if again := [name for name in dict.fromkeys(rows["B"]) if name not in set(own["B"])]:
        parts.append(f"as at a smaller speed-up: {'; '.join(again)}")
    at = f"at {budget:g}x" if budget else "at any cost"
    reached = own["Speed-up A"].max()
    if budget and not budget / _APART <= reached <= budget * _APART and reached > 0:
        at += f" (actually {reached:.1f}x)"
    return f"{own['A'].iloc[0]} {at}, {scope}: {'. '.join(parts)}."
