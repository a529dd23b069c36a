"""The main table: the score of each method on each task at each budget."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.budgets import (
    ANY_COST,
    BUDGETS,
    POINT,
    POINTS_ONLY,
    TIER,
    TOLERANCE,
    at_budget,
    budget_title,
    by_budget,
    control_rows,
    failures,
    has_traces,
    selection_split,
    teacher_rows,
)
from bench.analysis.comparing.ranking import ranking
from bench.analysis.comparing.resampling import Point, Resamples, records
from bench.analysis.comparing.seeds import over_seeds, over_tasks
from bench.analysis.comparing.verdicts import LEARNED
from bench.analysis.roles import Roles
from bench.analysis.statistics import learned_tasks
from bench.reporting.tables.format.table import Format, Table, amount, display_names, plain, score, shown, speedup
from bench.reporting.tables.notes import POINTS_MARK, learned_note, tasks_of
from bench.settings import Comparison
from bench.tasks.catalogue import title as title_of

WITHOUT = "wnli"
FIXED_EXIT, CONSTANT, MISSED = "†", "‡", "§"
MISSED_MEANS = (
    f"on validation the speed-up is more than {100 * TOLERANCE:g} % below the required one, with at least one seed"
)
MISMATCHED = "validation_mismatched"
OTHER_HALF = "MNLI-mm"
MORE_COSTLY = "Any cost: methods that cost more than the teacher at every point."
COSTS = {"Parameters": "parameters", "FLOPs": "flops", "FLOPs at 128": "flops_128"}
TIMES = {"ms, batch 1": "milliseconds"}
SPEEDUPS = {
    "Speed-up": "speedup",
    "Calculated, batch 1": "promised_1",
    "Measured, batch 1": "latency_1",
    "Calculated, batch 32": "promised_32",
    "Measured, batch 32": "latency_32",
}


@dataclass(frozen=True)
class Evidence:
    """Data for statistical tests.

    Attributes:
        comparison: Settings of comparisons.
        splits: Map from each validation split to the resampled scores of the operating points.
    """

    comparison: Comparison
    splits: Mapping[str, Resamples]


@dataclass
class _Line:
    """A row of the table: a method at a budget.

    Attributes:
        block: Name of the block, which is the budget or "control".
        method: The method; "" for the constant baseline.
        name: Display name of the method.
        cells: Values by column.
        rows: Chosen points by column of scores.
        note: Reasons for missing cells.
        repeats: The smaller budget with the same points, or "".
    """

    block: str
    method: str
    name: str
    cells: dict[str, Any]
    rows: dict[str, list[Point]]
    note: str = ""
    repeats: str = ""

    @property
    def barred(self) -> set[str]:
        """Return the columns that are never bold in this row: constant answers, and scores without traces."""
        return {name for name in self.cells if {CONSTANT, POINTS_MARK} & {*str(self.cells.get(f"{name} mark", ""))}}


def main(
    points: pd.DataFrame,
    notes: Sequence[str],
    roles: Roles,
    *,
    budgets: Sequence[float] = BUDGETS,
    evidence: Evidence | None = None,
) -> Table:
    """Return the main table: constant baseline and teacher first, failed runs last."""
    names, tasks = display_names(points), tasks_of(points)
    planned = points[["task", "seed"]].drop_duplicates()
    halves = "mnli" in tasks and points["split"].eq(MISMATCHED).any()
    compared = points[~points["method"].isin([*roles.ablations, roles.reference])]
    means = {"Average": tasks}
    if WITHOUT in tasks and len(tasks) > 1:
        means["w/o WNLI"] = [task for task in tasks if task != WITHOUT]
    learned = learned_tasks(points, reference=roles.reference)
    if 0 < len(learned) < len(tasks):
        means[LEARNED.capitalize()] = learned
    control = _line("control", "", "Constant baseline", _both_halves(control_rows, points, halves), planned, means)
    teacher, name = _both_halves(teacher_rows, points, halves, reference=roles.reference), roles.reference
    lines = [control, _line("control", name, names.get(name, name), teacher, planned, means)]
    control.cells = {name: value for name, value in control.cells.items() if name not in {*COSTS, *TIMES, *SPEEDUPS}}
    before: dict[str, _Line] = {}
    for budget, affected in by_budget(compared, budgets):
        reported = _both_halves(at_budget, affected, halves, speedup=budget)
        for method in dict.fromkeys(affected["method"]):
            rows = reported[reported["method"] == method]
            line = _line(budget_title(budget), method, names.get(method, method), rows, planned, means)
            if method in before and _same(before[method].rows, line.rows):
                line.repeats = before[method].repeats or before[method].block.removeprefix("at least ")
            before[method] = line
            lines.append(line)
    scored = [title_of(name) for name in tasks]
    if halves:
        scored.insert(scored.index("MNLI") + 1, OTHER_HALF)
    columns = {title_of(task): [task] for task in tasks} | ({OTHER_HALF: ["mnli"]} if halves else {}) | means
    tied = _tied(roles.contestants(points), columns, budgets, evidence) if evidence else None
    strong = _bold(lines, columns, tied)
    printed = [_printed(line) for line in lines]
    for run in failures(points).to_dict("records"):
        reason = f"{run['reason']} ({title_of(run['task'])}, seed {run['seed']})"
        printed.append({"Budget": "failed", "Method": run["label"], "Note": reason})
    formats: dict[str, Format] = {**dict.fromkeys(means, score), **dict.fromkeys(SPEEDUPS, speedup)}
    timed = [name for name in TIMES if any(pd.notna(line.cells.get(name)) for line in lines)]
    formats |= dict.fromkeys(timed, plain) | dict.fromkeys(scored, score) | dict.fromkeys(COSTS, amount)
    values = ordered(pd.DataFrame(printed), ["Budget", "Method", *formats, "Chosen", "Note"])
    return Table(
        "main",
        "Scores on validation at the given minimum speed-ups over the teacher",
        values,
        formats,
        notes=[*notes, *_notes(values, evidence, tasks), *([learned_note(learned)] if learned else [])],
        bold=strong.reindex(values.index, fill_value=False),
    )


def _notes(values: pd.DataFrame, evidence: Evidence | None, tasks: Sequence[str]) -> list[str]:
    bold = "Bold: the best of its block, and all that are printed equally"
    if evidence:
        bold = (
            "Bold: no method of the block is better, by tests over seeds and examples of all pairs of the block with a "
            f"joint correction (Holm, {100 * evidence.comparison.level:g} %), as in the table ranking; the teacher "
            "counts in the block of 1x, where nothing is bold if it is better than all"
        )
    halves = ", MNLI counted once (matched)" if "mnli" in tasks else ""
    said = [
        "At least 2x: each method has the variant and thresholds with the best score on the selection split among "
        "those with at least this speed-up over the teacher (with a tolerance of 2 %: half the layers and an exit head "
        "count as 2x). The point may be much cheaper; the speed-up printed is that on validation.",
        "Averages are over the seeds of each task, then over tasks. The ± of an average is the square root of the sum "
        "of the tasks' squared deviations, divided by the number of tasks; it is left out if a task has one seed. "
        f"Averages are over the tasks' ranking metrics{halves}, and are left out if a task is missing. Parameters and "
        "FLOPs are means, speed-ups geometric means, over seeds and then over the tasks with a point.",
        "Speed-up: calculated from FLOPs, over all validation examples, tasks and seeds. Measured: from latencies of "
        "the timed examples of the tasks and seeds whose chosen point was timed (as are milliseconds); beside it the "
        "speed-up calculated for the same examples.",
        *([MORE_COSTLY] if values["Budget"].eq(budget_title(ANY_COST)).any() else []),
        f"{bold}. Never below the constant baseline, and never for a single method in a block.",
    ]
    marks = "".join(values[[name for name in values if str(name).endswith(" mark")]].fillna("").sum().astype(str))
    any_seed = "with at least one seed (an average: on at least one of its tasks)"
    if FIXED_EXIT in marks:
        said.append(f"{FIXED_EXIT}: all examples exit at one exit of the model, {any_seed}.")
    if CONSTANT in marks:
        said.append(f"{CONSTANT}: the same answer for every example, {any_seed}; never bold.")
    if MISSED in marks:
        said.append(f"{MISSED}: {MISSED_MEANS} (an average: on at least one of its tasks).")
    if values["Chosen"].astype(str).str.startswith("as at").any():
        said.append('"As at 2x": the same points as in that block.')
    return said


def _both_halves(choose: Callable[..., pd.DataFrame], points: pd.DataFrame, halves: bool, **how: Any) -> pd.DataFrame:
    """Return the chosen rows on validation, with the same points' score on MNLI-mm in column `mismatched`."""
    rows = choose(points, split="validation", **how)
    if not halves:
        return rows.assign(mismatched=np.nan)
    keys = [key for key in ("task", "method", "seed") if key in rows]
    other = choose(points, split=MISMATCHED, **how)[[*keys, "score"]]
    return rows.merge(other.rename(columns={"score": "mismatched"}), on=keys, how="left")


def _line(
    block: str, method: str, name: str, rows: pd.DataFrame, planned: pd.DataFrame, averages: Mapping[str, Sequence[str]]
) -> _Line:
    """Return one row of the main table from the reported points of a method, one per planned task and seed."""
    rows = rows.assign(score=rows["score"].astype(float) * 100, mismatched=rows["mismatched"].astype(float) * 100)
    costs, ratios = [*COSTS.values(), *TIMES.values()], list(SPEEDUPS.values())
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *costs, *ratios, "constant"])))
    by_task = over_seeds(rows.assign(method=method), ["method", "task"], ["score", "mismatched", *costs], ratios=ratios)
    cells: dict[str, Any] = {}
    found: dict[str, list[Point]] = {}
    points_of: dict[str, list[Point]] = {}
    for row in records(rows):
        points_of.setdefault(row["task"], []).append(row)
    for task, of_task in by_task.set_index("task").iterrows():
        its = points_of[str(task)]
        for title, column in (
            (title_of(str(task)), "score"),
            *([(OTHER_HALF, "mismatched")] if task == "mnli" else []),
        ):
            cells |= {title: of_task[column], f"{title} std": of_task[f"{column}_std"], f"{title} mark": _mark(its)}
            found[title] = [{**row, "score": row[column] / 100} for row in its]
    for title, counted in averages.items():
        means = over_tasks(by_task, ["method"], ["score"], counted)
        marks = {mark for task in counted for mark in str(cells.get(f"{title_of(task)} mark", ""))}
        cells |= {title: means["score"].squeeze(), f"{title} std": means["score_std"].squeeze()} if len(means) else {}
        cells[f"{title} mark"] = "".join(sorted(marks))
    known = by_task[by_task["score"].notna()]
    cells |= {title: known[column].mean() for title, column in (COSTS | TIMES).items()}
    shares = over_seeds(known.assign(all=0), ["all"], ["score"], ratios=ratios) if len(known) else None
    cells |= {title: shares[column].item() if shares is not None else np.nan for title, column in SPEEDUPS.items()}
    usable = rows[rows["score"].notna()]
    cells["Chosen"] = ", ".join(dict.fromkeys(usable["variant"].astype(str))) if block != "control" else ""
    return _Line(block, method, name, cells, found, note=missing(rows, planned))


def _mark(rows: Sequence[Point]) -> str:
    fixed = any(row["kind"] == "fixed_exit" for row in rows)
    missed = any(row.get("missed") is True for row in rows)
    untraced = any(row.get(TIER) == POINTS_ONLY for row in rows)
    constant = any(row["constant"] is True for row in rows)
    return FIXED_EXIT * fixed + CONSTANT * constant + MISSED * missed + POINTS_MARK * untraced


def _same(before: Mapping[str, Sequence[Point]], now: Mapping[str, Sequence[Point]]) -> bool:
    """Return whether both have the same operating points in all columns, and at least one."""

    def used(rows: Mapping[str, Sequence[Point]]) -> dict[str, list[Any]]:
        return {title: [tuple(row[n] for n in POINT) if row["score"] == row["score"] else None for row in each]
                for title, each in rows.items()}  # fmt: skip

    return used(before) == used(now) and any(any(each) for each in used(now).values())


def _printed(line: _Line) -> dict[str, Any]:
    again = {"Chosen": f"as at {line.repeats}"} if line.repeats else {}
    return {"Budget": line.block, "Method": line.name, **line.cells, **again, "Note": line.note}


def _tied(
    points: pd.DataFrame, columns: Mapping[str, Sequence[str]], budgets: Sequence[float], evidence: Evidence
) -> set[tuple[str, str, str]]:
    """Return the (block, method, column) of all methods that are tied with the best according to `ranking`.

    Args:
        points: Operating points of the methods, with those of the reference.
        columns: Map from each column to the tasks that it averages.
        budgets: Speed-ups over the reference.
        evidence: Resamples and settings of comparisons.
    """
    points = points[has_traces(points)]
    on = {"validation": points}
    if OTHER_HALF in columns:
        # The points are still chosen on the selection split.
        places = {selection_split(points): "selection", MISMATCHED: "validation"}
        other = points[(points["task"] == "mnli") & points["split"].isin(list(places))]
        on[MISMATCHED] = other.assign(split=other["split"].map(places), selection="selection")
    found = set()
    for split, of_split in on.items():
        scopes = {title: tasks for title, tasks in columns.items() if (title == OTHER_HALF) == (split == MISMATCHED)}
        for budget, affected in by_budget(of_split, budgets):
            ranks = ranking(affected, evidence.splits[split], evidence.comparison, budgets=[budget], scopes=scopes)
            best = ranks[ranks["tied"].eq(True)]
            found |= {(budget_title(budget), *row) for row in zip(best["method"], best["scope"], strict=True)}
    return found


def _bold(
    lines: Sequence[_Line], columns: Mapping[str, Sequence[str]], tied: Collection[tuple[str, str, str]] | None
) -> pd.DataFrame:
    """Return a mask of the cells that no other method of the block is better than.

    Args:
        lines: The rows of the table, beginning with the constant baseline and the reference.
        columns: Map from each column to the tasks that it averages.
        tied: Result of `_tied`; None without traces, where scores are equal if they are printed equally.
    """
    result = pd.DataFrame(False, index=range(len(lines)), columns=list(columns))
    for block in dict.fromkeys(line.block for line in lines[2:]):
        rivals = [at for at, line in enumerate(lines) if line.block == block]
        for title, tasks in columns.items():
            known = [at for at in rivals if not pd.isna(lines[at].cells.get(title, np.nan))]
            floor = lines[0].cells.get(title, np.nan)
            able = [at for at in known if title not in lines[at].barred and not lines[at].cells[title] < floor]
            if len(known) < 2 or not able:
                continue
            best = lines[max(able, key=lambda at: lines[at].cells[title])]
            for at in able:
                line = lines[at]
                if tied is not None and _comparable(best, line, tasks):
                    result.at[at, title] = (block, line.method, title) in tied
                else:
                    result.at[at, title] = shown(score, line.cells[title]) == shown(score, best.cells[title])
    return result


def _comparable(a: _Line, b: _Line, tasks: Iterable[str]) -> bool:
    """Return whether two rows have a seed in common on each of the tasks, which a paired test needs."""

    def seeds(line: _Line, task: str) -> set[Any]:
        return {row["seed"] for row in line.rows.get(title_of(task), []) if not pd.isna(row["score"])}

    return all(seeds(a, task) & seeds(b, task) for task in tasks)


def missing(rows: pd.DataFrame, planned: pd.DataFrame) -> str:
    """Return a note with the reasons why cells are empty or have fewer seeds than planned.

    Args:
        rows: Reported points of a method, one per task and seed.
        planned: Tasks and seeds of the profile, one row each.
    """
    lost = rows.loc[rows["score"].isna(), ["task", "seed", "reason"]] if "reason" in rows else rows.iloc[:0]
    absent = planned.merge(rows[["task", "seed"]].drop_duplicates(), how="left", indicator=True)
    absent = absent.loc[absent["_merge"] == "left_only", ["task", "seed"]].assign(reason="no run")
    parts = []
    for reason, of_reason in pd.concat([lost, absent]).groupby("reason", sort=False):
        where = []
        for task, of_task in of_reason.groupby("task", sort=False):
            partly = len(of_task) < (planned["task"] == task).sum()
            seeds = f" (seed {', '.join(str(seed) for seed in of_task['seed'])})" if partly else ""
            where.append(title_of(str(task)) + seeds)
        parts.append(f"{reason}: {', '.join(where)}")
    return "; ".join(parts)


def ordered(values: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return the given columns in order, each with its deviations and marks unless these are all empty."""
    keep = []
    for name in columns:
        keep.append(name)
        if f"{name} std" in values and values[f"{name} std"].notna().any():
            keep.append(f"{name} std")
        if f"{name} mark" in values and values[f"{name} mark"].fillna("").ne("").any():
            keep.append(f"{name} mark")
    return values.reindex(columns=keep)
