"""The main table: the score of each method on each task at each budget."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    teacher_rows,
)
from bench.analysis.comparing.equivalence import classify_differences
from bench.analysis.comparing.estimates import Estimate, average
from bench.analysis.comparing.resampling import Point, Resamples, records
from bench.analysis.comparing.seeds import over_seeds, over_tasks
from bench.analysis.comparing.verdicts import LEARNED, estimate
from bench.analysis.roles import Roles
from bench.analysis.statistics import learned_tasks
from bench.errors import UserError
from bench.reporting.tables.format.table import Format, Table, amount, display_names, plain, score, shown, speedup
from bench.reporting.tables.notes import POINTS_MARK, learned_note, tasks_of
from bench.settings import Comparison
from bench.tasks.catalogue import title as title_of

log = logging.getLogger(__name__)

WITHOUT = "wnli"
FIXED_EXIT, CONSTANT, MISSED = "†", "‡", "§"
MISMATCHED = "validation_mismatched"
OTHER_HALF = "MNLI-mm"
MORE_COSTLY = "Any cost: methods that cost more than the teacher at every point."
COSTS = {"Parameters": "parameters", "FLOPs": "flops", "FLOPs at 128": "flops_128"}
TIMES = {"ms, batch 1": "milliseconds"}
SPEEDUPS = {"Speed-up": "speedup", "Measured, batch 1": "latency_1", "Measured, batch 32": "latency_32"}


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
        method: Display name of the method.
        cells: Values by column.
        rows: Chosen points by column of scores.
        note: Reasons for missing cells.
        repeats: The smaller budget with the same points, or "".
    """

    block: str
    method: str
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
    """Return the main table, with controls first and failed runs last."""
    names, tasks = display_names(points), tasks_of(points)
    planned = points[["task", "seed"]].drop_duplicates()
    halves = "mnli" in tasks and points["split"].eq(MISMATCHED).any()
    compared = points[~points["method"].isin([*roles.ablations, roles.reference])]
    means = {"Average": tasks}
    if WITHOUT in tasks and len(tasks) > 1:
        means["w/o WNLI"] = [task for task in tasks if task != WITHOUT]
    learned = [task for task in tasks if task in learned_tasks(points, reference=roles.reference)]
    if 0 < len(learned) < len(tasks):
        means[LEARNED.capitalize()] = learned
    control = _line("control", "Best constant", _both_halves(control_rows, points, halves), planned, means)
    teacher = _both_halves(teacher_rows, points, halves, reference=roles.reference)
    lines = [control, _line("control", names.get(roles.reference, roles.reference), teacher, planned, means)]
    control.cells = {name: value for name, value in control.cells.items() if name not in {*COSTS, *TIMES, *SPEEDUPS}}
    before: dict[str, _Line] = {}
    for budget, affected in by_budget(compared, budgets):
        reported = _both_halves(at_budget, affected, halves, speedup=budget)
        for method in dict.fromkeys(affected["method"]):
            rows = reported[reported["method"] == method]
            line = _line(budget_title(budget), names.get(method, method), rows, planned, means)
            if method in before and _same(before[method].rows, line.rows):
                line.repeats = before[method].repeats or before[method].block.removeprefix("at least ")
            before[method] = line
            lines.append(line)
    scored = [title_of(name) for name in tasks]
    if halves:
        scored.insert(scored.index("MNLI") + 1, OTHER_HALF)
    averages = {name: [title_of(task) for task in of_name] for name, of_name in means.items()}
    strong = _bold(lines, scored, averages, control, evidence)
    printed = [_printed(line) for line in lines]
    for run in failures(points).to_dict("records"):
        reason = f"{run['reason']} ({title_of(run['task'])}, seed {run['seed']})"
        printed.append({"Budget": "failed", "Method": run["label"], "Note": reason})
    formats: dict[str, Format] = {**dict.fromkeys(averages, score), **dict.fromkeys(SPEEDUPS, speedup)}
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
    how = "as they are printed"
    if evidence:
        how = (
            f"by a test over seeds and examples at {100 * evidence.comparison.level:g} %, corrected (Holm) for "
            "the methods of the block"
        )
    halves = ", MNLI counted once (matched)" if "mnli" in tasks else ""
    said = [
        "At least 2x: each method has the variant and thresholds with the best score on the selection split among "
        "those with at least this speed-up over the teacher (with a tolerance of 2 %: half the layers and an exit head "
        "count as 2x). The point may be much cheaper; the speed-up printed is that on validation.",
        "Averages are over the seeds of each task, then over tasks. The ± of an average is the square root of the sum "
        "of the tasks' squared deviations, divided by the number of tasks; it is left out if a task has one seed. "
        f"Averages are over the tasks' ranking metrics{halves}, and are left out if a task is missing. Parameters and "
        "FLOPs are means, speed-ups geometric means, over seeds and then over the tasks with a point; measured "
        "speed-ups and milliseconds per example are those of the tasks and seeds whose chosen point was timed.",
        *([MORE_COSTLY] if values["Budget"].eq(budget_title(ANY_COST)).any() else []),
        f"Bold: the best of its block and all that do not differ from it ({how}); never below the best constant, and "
        "never for a single method in a block.",
    ]
    marks = "".join(values[[name for name in values if str(name).endswith(" mark")]].fillna("").sum().astype(str))
    if FIXED_EXIT in marks:
        said.append(
            f"{FIXED_EXIT}: all examples exit at one exit of the model (an average: on at least one of its tasks)."
        )
    if CONSTANT in marks:
        said.append(
            f"{CONSTANT}: the same answer for every example (an average: on at least one of its tasks); never bold."
        )
    if MISSED in marks:
        said.append(
            f"{MISSED}: on validation the speed-up is more than {100 * TOLERANCE:g} % below the required one, with at "
            "least one seed (an average: on at least one of its tasks)."
        )
    if values["Chosen"].astype(str).str.startswith("as at").any():
        said.append('"As at 2x": the same points as in that block, which also count in this block\'s comparison.')
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
    block: str, name: str, rows: pd.DataFrame, planned: pd.DataFrame, averages: Mapping[str, Sequence[str]]
) -> _Line:
    """Return one row of the main table from the reported points of a method, one per planned task and seed."""
    rows = rows.assign(score=rows["score"].astype(float) * 100, mismatched=rows["mismatched"].astype(float) * 100)
    costs, ratios = [*COSTS.values(), *TIMES.values()], list(SPEEDUPS.values())
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *costs, *ratios, "constant"])))
    by_task = over_seeds(rows.assign(method=name), ["method", "task"], ["score", "mismatched", *costs], ratios=ratios)
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
    return _Line(block, name, cells, found, note=missing(rows, planned))


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
    head = {"Budget": line.block, "Method": line.method}
    if line.repeats:
        return {**head, "Chosen": f"as at {line.repeats}"}
    return {**head, **line.cells, "Note": line.note}


def _bold(
    lines: Sequence[_Line],
    scored: Sequence[str],
    averages: Mapping[str, Sequence[str]],
    control: _Line,
    evidence: Evidence | None,
) -> pd.DataFrame:
    """Return a mask of the cells that are the best of their block or do not differ from it significantly."""
    result = pd.DataFrame(False, index=range(len(lines)), columns=[*scored, *averages])
    if evidence:
        for split, resamples in evidence.splits.items():
            titles = [title for title in scored if (title == OTHER_HALF) == (split == MISMATCHED)]
            every = (row for line in lines[2:] for title in titles for row in line.rows.get(title, []))
            resamples.prepare(row for row in every if row["score"] == row["score"] and row.get(TIER) != POINTS_ONLY)
    alpha = 1 - evidence.comparison.level if evidence else 0.0
    for block in dict.fromkeys(line.block for line in lines[2:]):
        rivals = [at for at, line in enumerate(lines) if line.block == block]
        for title in result:
            known = [at for at in rivals if not pd.isna(lines[at].cells.get(title, np.nan))]
            floor = control.cells.get(title, np.nan)
            able = [at for at in known if title not in lines[at].barred and not lines[at].cells[title] < floor]
            if len(known) < 2 or not able:
                continue
            best = max(able, key=lambda at: lines[at].cells[title])
            parts = averages.get(title, [title])
            gaps = [_gap(lines[best], lines[at], parts, evidence) for at in able]
            p_values = classify_differences(gaps, evidence.comparison)["p"] if evidence else [np.nan] * len(able)
            for at, p in zip(able, p_values, strict=True):
                # Without traces, two scores are equal if they are printed equally.
                as_printed = shown(score, lines[at].cells[title]) == shown(score, lines[best].cells[title])
                result.at[at, title] = at == best or (as_printed if pd.isna(p) else p > alpha)
            result.loc[[at for at in rivals if lines[at].repeats], title] = False
    return result


def _gap(best: _Line, other: _Line, parts: Sequence[str], evidence: Evidence | None) -> Estimate | None:
    """Estimate the difference of `best` and `other`; None if they are the same row or if traces are missing."""
    if best is other or evidence is None:
        return None
    try:
        found = []
        for title in parts:
            resamples = evidence.splits[MISMATCHED if title == OTHER_HALF else "validation"]
            found.append(estimate(best.rows.get(title, []), other.rows.get(title, []), resamples))
        return average(found)
    except UserError as error:  # the printed scores are compared instead
        log.warning("bold: %s", error)
        return None


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
