"""The main table (methods x tasks at matched budgets) and the paper's numbers beside ours."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.choosing.budgets import (
    at_budget,
    best,
    control_rows,
    failures,
    operating_points,
    selection_split,
    teacher_rows,
)
from bench.choosing.roles import Roles
from bench.reporting.published import MISMATCHED, read_published
from bench.reporting.tables.table import (
    Format,
    Table,
    amount,
    display_names,
    score,
    speedup,
)
from bench.tasks.catalogue import TASKS

BUDGETS = (1.0, 2.0, 4.0, 8.0)
WITHOUT = "wnli"
FIXED_EXIT = "†"
# A measured point stands beside a published one if their speed-ups differ by no more than this factor.
NEAR = 1.15
RELATIVE = "percent_of_bert_base"


def tasks_of(points: pd.DataFrame) -> list[str]:
    """The tasks of the points, in the catalogue's order."""
    return [name for name in TASKS if name in set(points["task"])]


def main(
    points: pd.DataFrame,
    notes: Sequence[str],
    roles: Roles,
    *,
    budgets: Sequence[float] = BUDGETS,
) -> Table:
    """Score of every method on every task at matched speed-ups; controls first, failed runs last."""
    names, tasks = display_names(points), tasks_of(points)
    compared = points[~points["method"].isin([*roles.ablations, roles.reference])]
    teacher = _both_halves(teacher_rows, points, reference=roles.reference)
    rows = [
        _row("control", "Best constant", _both_halves(control_rows, points), tasks),
        _row("control", names.get(roles.reference, roles.reference), teacher, tasks),
    ]
    order = [method for method in dict.fromkeys(points["method"]) if method in set(compared["method"])]
    for budget in budgets:
        reported = _both_halves(at_budget, compared, speedup=budget)
        for method in order:
            rows.append(_row(f"{budget:g}x", names[method], reported[reported["method"] == method], tasks))
    for run in failures(points).to_dict("records"):
        reason = f"{run['reason']} ({TASKS[run['task']].title}, seed {run['seed']})"
        rows.append({"Speed-up asked": "failed", "Method": run["label"], "Note": reason})
    scored = [TASKS[name].title for name in tasks]
    if "mnli" in tasks and points["split"].eq("validation_mismatched").any():
        scored.insert(scored.index("MNLI") + 1, "MNLI-mm")
    averages = ["Average", "w/o WNLI"] if WITHOUT in tasks else ["Average"]
    formats: dict[str, Format] = dict.fromkeys([*scored, *averages], score)
    formats |= {"Parameters": amount, "FLOPs": amount, "FLOPs at 128": amount}
    formats |= dict.fromkeys(["Speed-up", "Measured, batch 1", "Measured, batch 32"], speedup)
    values = _ordered(pd.DataFrame(rows), ["Speed-up asked", "Method", *formats, "Chosen", "Note"])
    return Table(
        "main",
        "Scores on validation at matched speed-ups over the teacher",
        values,
        formats,
        notes=[
            *notes,
            "Each method uses the best of its variants and thresholds on the selection split that is at "
            "least this many times cheaper than the teacher (2 % less is let pass: half the layers and an exit head "
            "count as 2x); the speed-up reached on validation is printed.",
            "Averages are over the tasks' ranking metrics, MNLI counted once (matched), and are left out "
            "where a task is missing. Parameters and FLOPs are means, speed-ups geometric means over tasks; "
            "measured speed-ups over the tasks whose chosen point was timed.",
            f"{FIXED_EXIT}: no exit rule there, a fixed exit of the model. Bold: the best of its block.",
        ],
        bold=[*scored, *averages],
        within=["Speed-up asked"],
        contenders=~values["Speed-up asked"].isin(["control", "failed"]),
    )


def _both_halves(choose: Any, points: pd.DataFrame, **arguments: Any) -> pd.DataFrame:
    """The chosen rows on validation, and as `mismatched` the same points' score on MNLI's other half."""
    rows = choose(points, split="validation", **arguments)
    if not points["split"].eq("validation_mismatched").any():
        return rows.assign(mismatched=np.nan)
    keys = [key for key in ("task", "method", "seed") if key in rows]
    other = choose(points, split="validation_mismatched", **arguments)[[*keys, "score"]]
    return rows.merge(other.rename(columns={"score": "mismatched"}), on=keys, how="left")


def _row(block: str, name: str, rows: pd.DataFrame, tasks: Sequence[str]) -> dict[str, Any]:
    """One line of the main table from the reported rows of a method, one a (task, seed)."""
    line: dict[str, Any] = {"Speed-up asked": block, "Method": name}
    wide = rows.pivot(index="seed", columns="task", values="score").reindex(columns=list(tasks)) * 100
    for task in tasks:
        title, of_task = TASKS[task].title, rows[rows["task"] == task]
        line |= _spread(title, wide[task])
        line[f"{title} mark"] = FIXED_EXIT if of_task["kind"].eq("fixed_exit").any() else ""
        if task == "mnli":
            line |= _spread("MNLI-mm", of_task["mismatched"] * 100)
    line |= _spread("Average", wide.mean(axis=1, skipna=False))
    line |= _spread("w/o WNLI", wide.drop(columns=WITHOUT, errors="ignore").mean(axis=1, skipna=False))
    known = rows[rows["score"].notna()]
    if block != "control" or known["flops"].gt(0).any():
        line |= {"Parameters": known["parameters"].mean(), "FLOPs": known["flops"].mean()}
        line |= {"FLOPs at 128": known["flops_128"].mean(), "Speed-up": geometric(known["speedup"])}
        line["Measured, batch 1"] = geometric(known["latency_1"])
        line["Measured, batch 32"] = geometric(known["latency_32"])
    line["Chosen"] = ", ".join(dict.fromkeys(known["variant"])) if block != "control" else ""
    line["Note"] = _missing(rows)
    return line


def _spread(title: str, values: pd.Series) -> dict[str, float]:
    return {title: values.mean(), f"{title} std": values.std(ddof=1)}


def geometric(ratios: pd.Series) -> float:
    """Geometric mean of those that are known; NaN for none."""
    known = ratios.dropna().astype(float)
    return float(np.exp(np.log(known).mean())) if len(known) else float("nan")


def _missing(rows: pd.DataFrame) -> str:
    """Why cells are empty or rest on fewer seeds, reasons first."""
    lost = rows[rows["score"].isna()]
    if lost.empty:
        return ""
    parts = []
    for reason, of_reason in lost.groupby("reason", sort=False):
        where = []
        for task, of_task in of_reason.groupby("task", sort=False):
            partly = len(of_task) < (rows["task"] == task).sum()
            seeds = f" (seed {', '.join(str(seed) for seed in of_task['seed'])})" if partly else ""
            where.append(TASKS[str(task)].title + seeds)
        parts.append(f"{reason}: {', '.join(where)}")
    return "; ".join(parts)


def _ordered(values: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """The named columns in order, each with its companions; deviations that nobody has and empty marks go."""
    keep = []
    for name in columns:
        keep.append(name)
        if f"{name} std" in values and values[f"{name} std"].notna().any():
            keep.append(f"{name} std")
        if f"{name} mark" in values and values[f"{name} mark"].fillna("").ne("").any():
            keep.append(f"{name} mark")
    return values.reindex(columns=keep)


def paper(points: pd.DataFrame, notes: Sequence[str]) -> Table:
    """Published rows, each above the nearest measured point of the method that re-implements it."""
    published = read_published()
    published = published[published["score"].notna()]
    # A system that its source shows at several settings has a line each.
    published.loc[published["metric"] == RELATIVE, "task"] = RELATIVE
    published["line"] = published.groupby(["source", "system", "task"]).cumcount()
    comparable = points["source"].str.contains("GLUE").all()
    usable, names = operating_points(points), display_names(points)
    tasks = [*(t for t in TASKS if t in set(published["task"])), "average", RELATIVE]
    tasks.insert(tasks.index("mnli") + 1, MISMATCHED)
    titles = {name: TASKS[name].title if name in TASKS else name for name in tasks}
    titles |= {MISMATCHED: "MNLI-mm", "average": "Average", RELATIVE: "% of BERT-base"}
    rows: list[dict[str, Any]] = []
    for (source, system, _), group in published.groupby(["source", "system", "line"], sort=False):
        first = group.iloc[0]
        cells = {titles[task]: value for task, value in zip(group["task"], group["score"], strict=True)}
        split = {"dev": "validation (dev)", "": "not stated"}.get(first["split"], first["split"])
        costs = {
            "Parameters": first["parameters"],
            "FLOPs": first["flops"],
            "Speed-up": group["speedup"].mean(),
        }
        cited = {"Split": split, "Source": _cite(str(source), group)}
        rows.append({"System": system, "Kind": "as reported", **cells, **costs, **cited})
        measured = _measured(points, usable, group)
        if measured.empty:
            continue
        own = {"System": names.get(first["method"], first["method"]), "Split": "validation"}
        ours = {titles[str(task)]: value for task, value in measured["score"].items()}
        costs = {"Parameters": measured["parameters"].mean(), "FLOPs": measured["flops"].mean()}
        costs |= {"Speed-up": geometric(measured["speedup"]), "Source": measured["source"].iloc[0]}
        rows.append({**own, "Kind": "measured", **ours, **costs})
        if comparable:
            rows.append({**own, "Kind": "difference", **{title: ours[title] - cells[title] for title in ours}})
    formats: dict[str, Format] = {titles[task]: score for task in tasks}
    formats |= {titles[RELATIVE]: score, "Parameters": amount, "FLOPs": amount, "Speed-up": speedup}
    values = _ordered(pd.DataFrame(rows), ["System", "Kind", "Split", *formats, "Source"])
    return Table(
        "paper",
        "Published numbers (as reported) beside the nearest measured points",
        values,
        formats,
        notes=[
            *notes,
            'Rows "as reported" are copied from their source, with its own split, metric, teacher and way of '
            "counting costs; none of them was measured here.",
            f"Measured: the best point on the selection split whose speed-up is within {NEAR - 1:.0%} of the "
            "published one, in the published metric (the ranking metric where the source names none).",
            "Difference: measured minus reported; splits differ, and backbones where the profile has its own."
            if comparable
            else "No differences are given: the measured text is not GLUE.",
        ],
    )


def _cite(source: str, group: pd.DataFrame) -> str:
    """The source, and what holds for the whole line only (a threshold, a way of counting)."""
    shared = set.intersection(*(set(notes.split("; ")) for notes in group["notes"]))
    return "; ".join([source, *sorted(shared - {""})])


def _measured(points: pd.DataFrame, usable: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Nearest measured points of a published line, indexed by its tasks; scores x 100, means over seeds."""
    found = {}
    selected = selection_split(points)
    for row in published[published["task"].isin([*TASKS, MISMATCHED])].to_dict("records"):
        split = "validation_mismatched" if row["task"] == MISMATCHED else "validation"
        task = "mnli" if row["task"] == MISMATCHED else row["task"]
        ours = usable[(usable["method"] == row["method"]) & (usable["task"] == task)]
        near = ours["speedup"].between(row["speedup"] / NEAR, row["speedup"] * NEAR)
        near &= ours["split"] == selected
        if not near.any():
            continue
        chosen = best(ours, near, split=split)
        if chosen.empty:
            continue
        metric = row["metric"] if row["metric"] in chosen and chosen[row["metric"]].notna().all() else "score"
        means = chosen[["parameters", "flops", "speedup"]].astype(float).mean()
        found[row["task"]] = {
            "score": 100 * chosen[metric].mean(),
            **means,
            "source": chosen["source"].iloc[0],
        }
    return pd.DataFrame.from_dict(found, orient="index")


def common_notes(points: pd.DataFrame, missing: Mapping[str, Sequence[str]]) -> list[str]:
    """What every table says: data, selection, seeds, FLOPs convention, missing splits."""
    sources: dict[str, list[str]] = {}
    for task in tasks_of(points):
        of_task = points.loc[points["task"] == task, "source"].dropna().unique()
        sources.setdefault(" and ".join(map(str, of_task)), []).append(TASKS[task].title)
    several = "; ".join(f"{source}: {', '.join(titles)}" for source, titles in sources.items())
    seeds = sorted(int(seed) for seed in points["seed"].unique())
    split = selection_split(points)
    same = " (the papers' protocol: chosen and reported on the same examples)" if split == "validation" else ""
    notes = [
        f"Data: {several if len(sources) > 1 else next(iter(sources))}. "
        f"Profile: {', '.join(map(str, points['profile'].unique()))}.",
        f"Chosen on {split}, reported on validation{same}.",
        f"Seeds: {', '.join(map(str, seeds))}; ± is the sample deviation over seeds."
        if len(seeds) > 1
        else f"One seed ({seeds[0]}): no deviation can be given.",
        "FLOPs are 2 x the multiply-adds of matrix products, mean over the examples' true lengths; "
        '"at 128" counts every example at length 128. Scores are x 100.',
    ]
    if missing:
        named = {TASKS[task].title: ", ".join(splits) for task, splits in missing.items() if splits}
        lost = "; ".join(f"{title}: {splits}" for title, splits in named.items())
        notes += [f"Splits that the source does not have: {lost}."] if lost else []
    return notes
