"""Sentences on a finished benchmark: what was learned, the best methods at a budget, the declared comparisons."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from bench.analysis.budgets import at_budget, control_rows, teacher_rows
from bench.analysis.comparing.seeds import geometric
from bench.analysis.comparing.verdicts import LEARNED, PRIMARY
from bench.analysis.roles import Roles
from bench.analysis.statistics import LEARNED_GAIN, learned_tasks
from bench.reporting.tables import Table
from bench.reporting.tables.comparisons import PHRASES
from bench.reporting.tables.format.table import display_names
from bench.reporting.tables.notes import tasks_of, title_of
from bench.reporting.tables.summaries import mean_over_tasks
from bench.store import read_json

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
) -> list[str]:
    """Return what was found: two lines, and those of the declared comparisons (one per speed-up, and one before them).

    Args:
        points: All operating points.
        tables: Tables made of them; the declared comparisons are those of the table `verdicts`.
        roles: The roles of the methods.
        contestant: The contestant of the declared comparisons; None: these are left out.
        sources: The contestants that it is trained from (`sources_of`), which are no rivals.
    """
    names = display_names(points)
    found = [_learned(points, names, roles), _cheapest(points, names, roles)]
    table = next((table.values for table in tables if table.name == "verdicts"), pd.DataFrame())
    if contestant in names and not table.empty:
        rows = table[(table["Comparison"] == PRIMARY) & (table["Tasks"] != LEARNED)]
        count = int(rows["Verdict"].ne("").sum())
        rows = rows[rows["A"] == names[contestant]]
        budgets = [max(map(_budget, pair)) for pair in zip(rows["A at least"], rows["B at least"], strict=True)]
        rows = rows.assign(budget=budgets).sort_values("budget", kind="stable")
        reference = names.get(roles.reference, "")
        found.append(_against(rows, reference, points, count))
        own = [names[source] for source in sorted(sources) if source in names and source != roles.reference]
        lines = _rivals(rows[~rows["B"].isin([reference, *own])], contestant, points["task"].nunique())
        own = [name for name in own if name in set(rows["B"])]
        if own and lines:
            lines[-1] += f" Not counted as rivals, since {names[contestant]} is trained from them: {'; '.join(own)}."
        found += lines
    return [line for line in found if line]


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
            for need in read_json(path, "status").get("asked", {}).get("needs", {}):
                # <contestant>/<variant>, or the path of a run on another task.
                parts = need.split("/")
                name = parts[0] if len(parts) == 2 else parts[1]
                if name not in found | {contestant}:
                    found.add(name)
                    pending.append(name)
    return found


def _learned(points: pd.DataFrame, names: dict[str, str], roles: Roles) -> str:
    teacher, constant = (
        100 * mean_over_tasks(rows, "score", tasks_of(points))
        for rows in (teacher_rows(points, reference=roles.reference), control_rows(points))
    )
    tasks = points["task"].nunique()
    where = f"on average over {tasks} tasks" if tasks > 1 else f"on {_one(points)}"
    if pd.isna(teacher):
        return f"{names.get(roles.reference, roles.reference)} has no score on some of the {tasks} tasks."
    learned = len(learned_tasks(points, reference=roles.reference))
    return (
        f"{names[roles.reference]}: {teacher:.1f} {where}, constant baseline {constant:.1f}; {learned} of {tasks} "
        f"task{'s' * (tasks > 1)} learned (with every seed at least {100 * LEARNED_GAIN:g} points above this baseline "
        "on the selection split)."
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
                + (f" (measured speed-up {scores[method][1]:.1f}x)" if scores[method][1] > 0 else "")
                for method in best
            ]
            timed = any(scores[method][1] > 0 for method in best)
            first = "; latency is measured for the first seed" * timed
            return f"At a calculated speed-up of at least {budget:g}x: {', '.join(said)}{first}."
    return ""


def _one(points: pd.DataFrame) -> str:
    """Return the title of the first task."""
    return title_of(tasks_of(points)[0])


def _budget(text: str) -> float:
    """Return the number of a budget of the table `verdicts`, such as "2x"; 0 for any cost."""
    return float(text.removesuffix("x")) if text != "any" else 0.0


def _interval(row: pd.Series) -> str:
    return f"{row['Difference']:+.1f} ({row['Low']:+.1f} to {row['High']:+.1f})"


def _against(rows: pd.DataFrame, reference: str, points: pd.DataFrame, comparisons: int) -> str:
    """Return the line on the declared contestant against the reference, or "" if they are not compared.

    Args:
        rows: Declared comparisons of the contestant, in the order of the speed-ups.
        reference: Display name of the reference.
        points: All operating points.
        comparisons: Number of all declared comparisons, for which verdicts are corrected.
    """
    with_reference = rows[rows["B"] == reference]
    if with_reference.empty:
        return ""
    said = []
    for budget in dict.fromkeys(rows["budget"]):
        own = with_reference[with_reference["budget"] == budget]
        head = f"at {_times(budget)}"
        if own.empty:
            said.append(f"{head} the same points as before")
            continue
        row = own.iloc[0]
        real = f" (actual speed-up {row['Speed-up A']:.1f}x)" if _is_apart(row["Speed-up A"], budget) else ""
        result = f"{_interval(row)}, {row['Verdict']}" if row["Verdict"] else f"not compared ({row['Note']})"
        said.append(f"{head}{real} {result}")
    tasks = points["task"].nunique()
    where = f"on average over {tasks} tasks" if tasks > 1 else f"on one task ({_one(points)})"
    seeds = int(points.groupby("task")["seed"].nunique().min())
    few = ""
    if tasks < _FEW_TASKS or seeds < _FEW_SEEDS:
        few = (
            f" With {tasks} task{'s' * (tasks > 1)} and {seeds} seed{'s' * (seeds > 1)} the statistical power is low; "
            f"verdicts are corrected for {comparisons} comparisons, intervals are not."
        )
    return f"{rows['A'].iloc[0]} against {reference} {where}: {'; '.join(said)}.{few}"


def _rivals(rows: pd.DataFrame, contestant: str, tasks: int) -> list[str]:
    """Return a line for each speed-up: the rivals by verdict, the smallest difference, and how many have no point.

    Args:
        rows: Declared comparisons with rivals, in the order of the speed-ups.
        contestant: The contestant that is declared.
        tasks: Number of tasks.
    """
    said = []
    rivals = list(dict.fromkeys(rows["B"]))
    somewhere = " on at least one task" * (tasks > 1)
    for budget, own in rows.groupby("budget"):
        decided = own[own["Verdict"] != ""]
        parts = []
        for word in (word for word in PHRASES if word in set(decided["Verdict"])):
            alike = decided[decided["Verdict"] == word].sort_values("Difference")
            named = [_with_speed(row["B"], row["Speed-up B"], budget) for _, row in alike.iterrows()]
            parts.append(f"{PHRASES[word]} {'; '.join(named)}.")
        line = " ".join(parts)
        if len(decided):
            nearest = decided.loc[decided["Difference"].abs().idxmin()]
            line += f" Smallest difference: {nearest['B']}, {_interval(nearest)}."
        if own["Note"].str.contains(f"{contestant}: no point", regex=False).all():
            line = f"{own['A'].iloc[0]} lacks a point{somewhere}."
        elif len(own) > len(decided):
            line += f" {len(own) - len(decided)} of {len(rivals)} rivals lack a point{somewhere}."
        if again := [name for name in rivals if name not in set(own["B"])]:
            line += f" The same points as at a smaller speed-up: {'; '.join(again)}."
        head = _with_speed(own["A"].iloc[0], own["Speed-up A"].max(), budget)
        said.append(f"{head} at {_times(budget)}: {line.strip()}")
    return said


def _times(budget: float) -> str:
    return f"{budget:g}x" if budget else "any cost"


def _is_apart(speedup: float, budget: float) -> bool:
    """Return whether an actual speed-up differs much from the budget; False for NaN and for any cost."""
    return bool(budget) and (speedup > budget * _APART or speedup < budget / _APART)


def _with_speed(name: str, speedup: float, budget: float) -> str:
    """Return a name, with the actual speed-up if that differs much from the budget."""
    return f"{name} (actual speed-up {speedup:.1f}x)" if _is_apart(speedup, budget) else name
