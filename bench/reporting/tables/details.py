"""The tables behind the main one: exits, ablations, frontiers, thresholds, pruning ratios."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.choosing.budgets import RUN, at_budget, failures, succeeded
from bench.choosing.roles import Roles
from bench.choosing.statistics import BUDGETS, frontier_summary, over_seeds
from bench.reporting.tables.main import tasks_of
from bench.reporting.tables.table import (
    Format,
    Table,
    amount,
    difference,
    display_names,
    fraction,
    percent,
    plain,
    score,
    whole,
)
from bench.tasks.catalogue import TASKS

ALL = "all tasks"


def per_exit(points: pd.DataFrame, notes: Sequence[str]) -> Table:
    """Score of every exit when all examples leave there; single-exit models have their one prediction."""
    rows = succeeded(points)
    rows = rows[(rows["split"] == "validation") & rows["kind"].isin(["fixed_exit", "static"])]
    exits = rows.loc[rows["kind"] == "fixed_exit", "exit"].max()
    exits = 0 if pd.isna(exits) else int(exits)
    lines: list[dict[str, Any]] = []
    for (task, _, _, label), run in rows.groupby(["task", "method", "variant", "label"], sort=False):
        line: dict[str, Any] = {"Task": TASKS[str(task)].title, "Model": label}
        for e in range(1, exits + 1):
            at_exit = run.loc[(run["kind"] == "fixed_exit") & (run["exit"] == e), "score"] * 100
            line |= {f"Exit {e}": at_exit.mean(), f"Exit {e} std": at_exit.std(ddof=1)}
        full = run.loc[run["kind"] == "static", "score"] * 100
        lines.append(line | {"Full depth": full.mean(), "Full depth std": full.std(ddof=1)})
    formats: dict[str, Format] = {**{f"Exit {e}": score for e in range(1, exits + 1)}, "Full depth": score}
    values = _with_failures(pd.DataFrame(lines), points, ["Task", "Model", *formats])
    return Table(
        "per-exit",
        "Score of each exit on validation, everyone leaving there",
        values,
        formats,
        notes=[*notes, "Models with one exit have only their full depth."],
    )


def ablations(points: pd.DataFrame, notes: Sequence[str], ablations: Mapping[str, str]) -> Table:
    """What each ablation changes: its score minus the full method's at the same exit, variant and seed."""
    rows = succeeded(points)
    rows = rows[(rows["split"] == "validation") & rows["kind"].isin(["fixed_exit", "static"])]
    keys = ["task", "variant", "seed", "kind", "exit"]
    names = display_names(points)
    parts = []
    for name, full in ablations.items():
        ours = rows.loc[rows["method"] == name, [*keys, "label", "score"]]
        theirs = rows.loc[rows["method"] == full, [*keys, "score"]]
        pair = ours.merge(theirs, on=keys, suffixes=("", "_full"))
        gap = 100 * (pair["score"] - pair["score_full"])
        parts.append(pair.assign(method=name, full=names.get(full, full), gap=gap))
    empty = pd.DataFrame(columns=[*keys, "method", "label", "full", "gap"])
    pairs = pd.concat(parts, ignore_index=True) if parts else empty
    fixed = pairs[pairs["kind"] == "fixed_exit"]
    exits = sorted(int(e) for e in fixed["exit"].unique())
    lines: list[dict[str, Any]] = []
    for (_, variant), group in pairs.groupby(["method", "variant"], sort=False):
        per_task = [(TASKS[task].title, group[group["task"] == task]) for task in tasks_of(group)]
        for title, of_task in [*per_task, (ALL, group)] if len(per_task) > 1 else per_task:
            line: dict[str, Any] = {
                "Ablation": of_task["label"].iloc[0],
                "Full method": of_task["full"].iloc[0],
            }
            line |= {"Variant": variant, "Task": title}
            at_exits, whole_model = (of_task[of_task["kind"] == kind] for kind in ("fixed_exit", "static"))
            for e in exits:
                line[f"Exit {e}"] = at_exits.loc[at_exits["exit"] == e, "gap"].mean()
            for column, of_kind in (("All exits", at_exits), ("Full depth", whole_model)):
                by_seed = of_kind.groupby("seed")["gap"].mean()
                line |= {column: by_seed.mean(), f"{column} std": by_seed.std(ddof=1)}
            lines.append(line)
    columns = [*(f"Exit {e}" for e in exits), "All exits", "Full depth"]
    formats: dict[str, Format] = dict.fromkeys(columns, difference)
    listed = points[points["method"].isin(ablations)]
    unpaired = listed.loc[~listed["method"].isin(pairs["method"]) & (listed["status"] != "failed"), "method"]
    columns = ["Ablation", "Full method", "Variant", "Task", *formats]
    values = _with_failures(pd.DataFrame(lines), listed, columns, "Ablation")
    return Table(
        "ablations",
        "Ablations: change of the score against the full method, points on validation",
        values,
        formats,
        notes=[
            *notes,
            "Ablation minus full method at the same exit, variant and seed; all exits: the mean of these.",
            *[f"{name} has no variant in common with its full method." for name in unpaired.unique()],
        ],
    )


def frontier(
    points: pd.DataFrame,
    notes: Sequence[str],
    roles: Roles,
    *,
    budgets: Sequence[float] = BUDGETS,
) -> Table:
    """Hypervolume, ELUE score and score kept of every method, a task at a time and on average."""
    summary = frontier_summary(points, roles, budgets=budgets)
    names, tasks = display_names(points), tasks_of(points)
    kept = [f"{kind}_{budget:g}x" for budget in budgets for kind in ("score", "kept")]
    measures = ["hypervolume", "elue", *kept]
    summary[["elue", *kept]] *= 100
    # Over tasks a seed counts where it has all of them.
    by_seed = summary.groupby(["method", "seed"])[measures].apply(pd.DataFrame.mean, skipna=False)
    counts = summary.groupby(["method", "seed"])["task"].count()
    average = by_seed.where(counts.eq(len(tasks)), axis=0).reset_index().assign(task=ALL)
    frame = pd.concat([summary, average], ignore_index=True) if len(tasks) > 1 else summary
    means = over_seeds(frame, ["task", "method"], ["points", *measures])
    order = {task: i for i, task in enumerate([*tasks, ALL])}
    methods = {method: i for i, method in enumerate(dict.fromkeys(points["method"]))}
    means = means.sort_values(["task", "method"], key=lambda column: column.map({**order, **methods}.get))
    titles = {"points": "Points", "hypervolume": "Hypervolume", "elue": "ELUE"}
    for budget in budgets:
        titles |= {f"score_{budget:g}x": f"Score at {budget:g}x", f"kept_{budget:g}x": f"Kept at {budget:g}x"}
    formats: dict[str, Format] = {"Points": whole, "Hypervolume": fraction, "ELUE": difference}
    for budget in budgets:
        formats |= {f"Score at {budget:g}x": score, f"Kept at {budget:g}x": percent}
    columns = {"Task": means["task"].map(_title), "Method": means["method"].map(names)}
    for measure, title in titles.items():
        columns[title] = means[measure]
    for measure in ("hypervolume", "elue"):
        columns[f"{titles[measure]} std"] = means[f"{measure}_std"]
    values = _with_failures(pd.DataFrame(columns), points, ["Task", "Method", *formats], "Method")
    contenders = values["Method"] != names.get(roles.reference, roles.reference)
    return Table(
        "frontier",
        "Frontiers in one number: hypervolume, ELUE score, score kept at a budget",
        values,
        formats,
        notes=[
            *notes,
            "Frontiers are chosen on the selection split and read on validation.",
            "Hypervolume: area of (score as a fraction) x (doublings of the FLOPs speed-up) above the "
            "reference point (control score, the teacher's FLOPs); the teacher itself has 0.",
            "ELUE: mean over a frontier's points of the score minus that of the depth-cut reference "
            f"({names.get(roles.depth_reference or '', 'not in this profile')}, the teacher as its full depth) at "
            "the same FLOPs, linear in log FLOPs, clamped outside its range.",
            "Kept: (score - control) / (teacher - control) at that many times fewer FLOPs.",
        ],
        bold=[title for title in formats if title != "Points"],
        within=["Task"],
        contenders=contenders,
    )


def thresholds(points: pd.DataFrame, notes: Sequence[str], *, budgets: Sequence[float] = (2.0, 4.0, 8.0)) -> Table:
    """One threshold for all exits against one an exit, at the same speed-up, on both splits, losses too."""
    good = succeeded(points)
    swept = good[good["kind"].isin(["uniform", "per_exit"])]
    both = swept.groupby(RUN)["kind"].transform("nunique") == 2
    lines: list[dict[str, Any]] = []
    for budget in budgets if both.any() else []:
        found = {}
        for kind in ("uniform", "per_exit"):
            rows = at_budget(swept[both & (swept["kind"] == kind)], budget, by=tuple(RUN))
            found[kind] = rows.set_index(RUN)[["label", "selected_score", "score"]]
        pair = found["uniform"].join(found["per_exit"].add_suffix("_own"), how="inner")
        pair = pair.dropna(subset=["score", "score_own"])
        for (task, _, _), group in pair.groupby(["task", "method", "variant"], sort=False):
            line: dict[str, Any] = {"Task": TASKS[str(task)].title, "Model": group["label"].iloc[0]}
            line["Speed-up"] = f"{budget:g}x"
            for title, column in (("selection", "selected_score"), ("validation", "score")):
                uniform, own = 100 * group[column], 100 * group[f"{column}_own"]
                gain = own - uniform
                line |= {f"Uniform, {title}": uniform.mean(), f"Per exit, {title}": own.mean()}
                line |= {f"Gain, {title}": gain.mean(), f"Gain, {title} std": gain.std(ddof=1)}
            lines.append(line)
    formats: dict[str, Format] = {}
    for title in ("selection", "validation"):
        formats |= {f"Uniform, {title}": score, f"Per exit, {title}": score, f"Gain, {title}": difference}
    values = _with_failures(pd.DataFrame(lines), points, ["Task", "Model", "Speed-up", *formats])
    return Table(
        "thresholds",
        "One threshold for all exits against one an exit, at the same speed-up",
        values,
        formats,
        notes=[
            *notes,
            "Both were chosen on the selection split; a gain there that is not one on validation is noise.",
            "One an exit: of the vectors that a direct search from every fixed exit and every uniform threshold found, "
            "and Optuna from there, the best at that speed-up.",
            *([] if lines else ["No run has thresholds of both kinds at these speed-ups."]),
        ],
    )


_TRIAL_FORMATS: dict[str, Format] = {
    "score": score,
    "validation_score": score,
    "flops": amount,
    "parameters": amount,
}


def ratios(sweeps: Path, notes: Sequence[str]) -> Table | None:
    """The trials of the pruning-ratio studies (sweeps/<task>/<method>/trials.parquet); None without one."""
    files = sorted(sweeps.glob("*/*/trials.parquet"))
    frames = [pd.read_parquet(file).assign(Task=_title(file.parts[-3]), Method=file.parts[-2]) for file in files]
    if not frames:
        return None
    trials = pd.concat(frames, ignore_index=True).drop(columns="distributions", errors="ignore")
    formats: dict[str, Format] = {}
    for column in [str(name) for name in trials if name not in ("Task", "Method")]:
        title = {"flops": "FLOPs"}.get(column, column.replace("_", " ").capitalize())
        if column in ("score", "validation_score"):
            trials[column] *= 100
        if pd.api.types.is_bool_dtype(trials[column]):
            trials[column] = trials[column].map({True: "yes", False: "no"})
        elif pd.api.types.is_numeric_dtype(trials[column]):
            formats[title] = _TRIAL_FORMATS.get(column, plain)
        trials = trials.rename(columns={column: title})
    values = trials.reindex(columns=["Task", "Method", *trials.columns.drop(["Task", "Method"])])
    return Table(
        "ratios",
        "Trials of the pruning-ratio studies",
        values,
        formats,
        notes=[
            *notes,
            "Each trial is a training run of its own. Score, FLOPs and parameters are the objectives, on the "
            "selection split; pareto: no other trial dominates it in them.",
        ],
    )


def _title(task: str) -> str:
    return TASKS[task].title if task in TASKS else task


def _with_failures(
    values: pd.DataFrame, points: pd.DataFrame, columns: Sequence[str], name: str = "Model"
) -> pd.DataFrame:
    """`values` in the order of `columns` with their deviations, then a row and its reason for every failed
    run.
    """
    failed = failures(points)
    lines = [
        {
            "Task": _title(run["task"]),
            name: run["label"],
            "Note": f"failed (seed {run['seed']}): {run['reason']}",
        }
        for run in failed.to_dict("records")
    ]
    keep = []
    for column in columns:
        spread = f"{column} std"
        keep += [column, spread] if spread in values and values[spread].notna().any() else [column]
    values = values.reindex(columns=keep)
    if not lines:
        return values.reset_index(drop=True)
    return pd.concat([values.assign(Note=""), pd.DataFrame(lines)], ignore_index=True)
