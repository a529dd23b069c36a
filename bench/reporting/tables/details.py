"""Detailed tables: exits, thresholds and pruning ratios."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.budgets import RUN, at_budget, failures, succeeded
from bench.reporting.tables.format.table import Format, Table, amount, difference, plain, score
from bench.reporting.tables.main import title_of
from bench.reporting.tables.notes import tasks_of
from bench.store import read_parquet

_BUDGETS = (2.0, 4.0, 8.0)
_CHOICES = {"Fixed exit": ["fixed_exit", "static"], "Uniform": ["uniform"], "Per exit": ["per_exit"]}
"""Column of the table `thresholds` -> kinds of its operating points."""


def per_exit(points: pd.DataFrame, notes: Sequence[str]) -> Table:
    """Return the table of the score of each exit when all examples exit there."""
    rows = succeeded(points)
    rows = rows[(rows["split"] == "validation") & rows["kind"].isin(["fixed_exit", "static"])]
    exits = rows.loc[rows["kind"] == "fixed_exit", "exit"].max()
    exits = 0 if pd.isna(exits) else int(exits)
    lines: list[dict[str, Any]] = []
    for (task, _, _, label), run in rows.groupby(["task", "method", "variant", "label"], sort=False):
        line: dict[str, Any] = {"Task": title_of(str(task)), "Model": label}
        for e in range(1, exits + 1):
            at_exit = run.loc[(run["kind"] == "fixed_exit") & (run["exit"] == e), "score"] * 100
            line |= {f"Exit {e}": at_exit.mean(), f"Exit {e} std": at_exit.std(ddof=1)}
        full = run.loc[run["kind"] == "static", "score"] * 100
        lines.append(line | {"Full depth": full.mean(), "Full depth std": full.std(ddof=1)})
    formats: dict[str, Format] = {**{f"Exit {e}": score for e in range(1, exits + 1)}, "Full depth": score}
    values = with_failures(pd.DataFrame(lines), points, ["Task", "Model", *formats])
    return Table(
        "per-exit",
        "Score of each exit on validation when all examples exit there",
        values,
        formats,
        notes=[*notes, "Models with one exit have a score at full depth only."],
    )


def thresholds(points: pd.DataFrame, notes: Sequence[str]) -> Table:
    """Return the table that compares one exit, one threshold for all exits and one threshold per exit at equal budgets.

    The search of thresholds per exit starts from every uniform threshold and every fixed exit that thresholds can
    express. Its gain is therefore given over the better of these two, by the selection split of the same run.
    """
    good = succeeded(points)
    swept = good[good["kind"].isin(["uniform", "per_exit"])]
    both = swept.groupby(RUN)["kind"].transform("nunique") == 2
    models = good[pd.MultiIndex.from_frame(good[RUN]).isin(pd.MultiIndex.from_frame(swept.loc[both, RUN]))]
    lines: list[dict[str, Any]] = []
    for budget in _BUDGETS if both.any() else []:
        found = pd.concat(
            {
                title: at_budget(models[models["kind"].isin(kinds)], budget, by=tuple(RUN))
                .dropna(subset="score")
                .set_index(RUN)[["label", "selected_score", "score"]]
                for title, kinds in {**_CHOICES, "Better": [*_CHOICES["Fixed exit"], *_CHOICES["Uniform"]]}.items()
            },
            axis=1,
        )
        found = found[found["Per exit", "score"].notna()]
        for (task, _, _), group in found.groupby(["task", "method", "variant"], sort=False):
            line: dict[str, Any] = {"Task": title_of(str(task)), "Model": group["Per exit", "label"].iloc[0]}
            line["Speed-up"] = f"{budget:g}x"
            for title, column in (("selection", "selected_score"), ("validation", "score")):
                gain = 100 * (group["Per exit", column] - group["Better", column])
                line |= {f"{name}, {title}": 100 * group[name, column].mean(skipna=False) for name in _CHOICES}
                line |= {f"Gain, {title}": gain.mean(), f"Gain, {title} std": gain.std(ddof=1)}
            lines.append(line)
    order, shown = [title_of(task) for task in tasks_of(points)], [f"{budget:g}x" for budget in _BUDGETS]
    lines.sort(key=lambda line: (shown.index(line["Speed-up"]), order.index(line["Task"])))
    formats: dict[str, Format] = {}
    for title in ("selection", "validation"):
        formats |= {**{f"{name}, {title}": score for name in _CHOICES}, f"Gain, {title}": difference}
    values = with_failures(pd.DataFrame(lines), points, ["Task", "Model", "Speed-up", *formats])
    return Table(
        "thresholds",
        "One exit and one threshold for all exits compared with one threshold per exit, at the same speed-up",
        values,
        formats,
        notes=[
            *notes,
            "All are chosen on the selection split, for each seed; a gain there without a gain on validation is noise. "
            "Fixed exit: the best single exit for all examples, without thresholds. A dash: not fast enough with some "
            "seed.",
            "Gain: per exit minus the better, on the selection split, of fixed exit and uniform. 0: thresholds per "
            "exit add nothing to stopping at one exit or to one threshold for all exits.",
            "Per exit: the best vector at that speed-up found by a direct search, which starts from every fixed exit "
            "and every uniform threshold, and then by Optuna. With patience (PABEE) thresholds cannot express every "
            "fixed exit, so its gain may be negative on the selection split too.",
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
    """Return the table of trials of the ratio studies (sweeps/<task>/<method>/trials.parquet), or None without one."""
    files = sorted(sweeps.glob("*/*/trials.parquet"))
    frames = [read_parquet(file).assign(Task=title_of(file.parts[-3]), Method=file.parts[-2]) for file in files]
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
            "Each trial is a separate training run. The objectives are score, FLOPs and parameters on the selection "
            "split; pareto: no other trial dominates this one.",
        ],
    )


def with_failures(
    values: pd.DataFrame, points: pd.DataFrame, columns: Sequence[str], name: str = "Model"
) -> pd.DataFrame:
    """Return `values` with the given columns, their deviations and marks, followed by a row for every failed run.

    Args:
        values: The values of a table.
        points: All operating points.
        columns: The columns, in order.
        name: The column for the label of a failed run.
    """
    failed = failures(points)
    lines = [
        {
            "Task": title_of(run["task"]),
            name: run["label"],
            "Note": f"failed (seed {run['seed']}): {run['reason']}",
        }
        for run in failed.to_dict("records")
    ]
    keep = []
    for column in columns:
        spread, mark = f"{column} std", f"{column} mark"
        keep += [column, spread] if spread in values and values[spread].notna().any() else [column]
        keep += [mark] if mark in values and values[mark].fillna("").ne("").any() else []
    noted = ["Note"] if lines or ("Note" in values and values["Note"].notna().any()) else []
    values = values.reindex(columns=[*keep, *noted])
    return (
        pd.concat([values, pd.DataFrame(lines, columns=["Task", name, "Note"])], ignore_index=True) if lines else values
    )
