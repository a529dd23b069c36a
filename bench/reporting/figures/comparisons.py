"""Comparisons: methods with the teacher, ablations with the full method, measured with calculated speed-ups."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.analysis.budgets import at_budget, succeeded, teacher_rows
from bench.analysis.comparing.intervals import Interval, budget_differences, by_task, common_seeds, differences
from bench.analysis.comparing.resampling import Resamples
from bench.analysis.roles import Roles
from bench.reporting.figures.drawing import (
    GREY,
    INK,
    PAGE,
    Absent,
    Mark,
    legend_below,
    marks,
    method_handles,
    new_figure,
    ratio_axis,
    styled,
    task_order,
)
from bench.tasks.catalogue import title as task_title

BATCHES = (1, 32)
BUDGETS = (2.0, 4.0, 8.0)
HEAT_BUDGET = 4.0
"""The budget of the table of methods and tasks."""


@styled
def difference_from_teacher(points: pd.DataFrame, roles: Roles, *, resamples: Resamples | None = None) -> Figure:
    """Draw each method's mean difference from the teacher with its interval, one panel for each budget.

    Raises:
        Absent: where no method has a point on every task at any budget.
    """
    found = budget_differences(points, roles, resamples, BUDGETS)
    known = {method for (method, _), interval in found.items() if interval is not None}
    looks = {method: mark for method, mark in marks(points, roles).items() if method in known}
    if not looks:
        raise Absent(f"no method has a point on every task at {', '.join(f'{budget:g}×' for budget in BUDGETS)}")
    figure = new_figure(PAGE, 0.7 + 0.23 * len(looks))
    for axes, budget in zip(figure.subplots(1, len(BUDGETS), sharex=True, sharey=True), BUDGETS, strict=True):
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, (method, mark) in enumerate(looks.items()):
            if (interval := found.get((method, budget))) is not None:
                _whisker(axes, y, interval, mark)
            else:
                axes.text(
                    0.03, y, "no point", transform=axes.get_yaxis_transform(), va="center", fontsize=6, color=GREY
                )
        axes.set_title(f"{budget:g}× fewer FLOPs", loc="left")
        axes.set_yticks(range(len(looks)), [mark.name for mark in looks.values()])
        axes.set_ylim(len(looks) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
    bars = f"\nbars: {100 * resamples.level:g} % interval, not corrected" if resamples else ""
    figure.supxlabel(f"mean score × 100 minus the teacher's ({points['task'].nunique()} tasks){bars}", fontsize=7.5)
    return figure


def _whisker(axes: Axes, y: float, interval: Interval, mark: Mark) -> None:
    value, low, high = (100 * each for each in interval)
    axes.plot([low, high], [y, y], color=mark.colour, linewidth=1.2, zorder=3)
    axes.plot(value, y, **mark.dots, markersize=5, zorder=4)


@styled
def tasks_at_budget(points: pd.DataFrame, roles: Roles) -> Figure:
    """Draw the score of each method on each task at `HEAT_BUDGET`; the colour is the difference from the teacher.

    Raises:
        Absent: where no method has a point at this budget.
    """
    shown = roles.contestants(points)
    chosen = at_budget(shown[shown["method"] != roles.reference], HEAT_BUDGET).dropna(subset=["score"])
    if chosen.empty:
        raise Absent(f"no method has a point at {HEAT_BUDGET:g}×")
    tasks = task_order(points)
    teacher = teacher_rows(points, reference=roles.reference)
    looks = {m: mark for m, mark in marks(points, roles).items() if m in {*shown["method"]} - {roles.reference}}
    # Differences are over the seeds that both have.
    beside = teacher[["task", "seed", "score"]].rename(columns={"score": "teacher"})
    chosen = chosen.merge(beside, on=["task", "seed"], how="left")
    chosen["difference"] = chosen["score"] - chosen["teacher"]
    of_methods = 100 * chosen.groupby(["method", "task"])[["score", "difference"]].mean()
    scores, gaps = (of_methods[name].unstack().reindex(list(looks), columns=tasks) for name in of_methods)
    of_teacher = 100 * teacher.groupby("task")["score"].mean().reindex(tasks)
    figure = new_figure(PAGE, 0.75 + 0.24 * (len(looks) + 1))
    axes = figure.add_subplot()
    texts = np.vectorize("{:.1f}".format)(np.vstack([of_teacher, scores]))
    _heat(axes, np.vstack([np.zeros(len(tasks)), gaps]), texts, most=20.0, empty="no point")
    axes.set_xlabel("colour: minus the teacher's score, orange below 0, purple above,\ndarkest from 20 points on")
    axes.set_xticks(range(len(tasks)), [task_title(task) for task in tasks])
    axes.set_yticks(range(len(looks) + 1), ["teacher, full depth", *(mark.name for mark in looks.values())])
    axes.set_title(f"Score × 100 at {HEAT_BUDGET:g}× fewer FLOPs", loc="left")
    return figure


@styled
def promised_against_measured(points: pd.DataFrame, roles: Roles) -> Figure:
    """Draw the measured speed-up of every timed point against its speed-up in FLOPs.

    FLOPs are of the timed examples where the points have them (promised_1, promised_32), else of the whole split. Bars
    are the quartiles over rounds (latency_1_low, latency_1_high, ...).

    Raises:
        Absent: where nothing was timed.
    """
    rows = succeeded(roles.contestants(points))
    rows = rows[rows["method"].ne(roles.reference)]
    measured = [frame for batch in BATCHES if len(frame := _measured(rows, batch))]
    if not measured:
        raise Absent("no latency was measured")
    every = np.concatenate([frame[["promised", "median", "low", "high"]].to_numpy(float).ravel() for frame in measured])
    low, high = np.nanmin(every) / 1.1, np.nanmax(every) * 1.1
    looks = marks(points, roles)
    figure = new_figure(PAGE if len(measured) > 1 else PAGE / 2, 3.1)
    for axes, frame in zip(figure.subplots(1, len(measured), squeeze=False).flat, measured, strict=True):
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (6, 2)), zorder=1)
        axes.fill_between([low, high], [low, high], low, color="#F4F4F4", linewidth=0, zorder=0)
        for method, mark in looks.items():
            group = frame[frame["method"] == method]
            axes.vlines(group["promised"], group["low"], group["high"], color=mark.colour, linewidth=0.7, alpha=0.5)
            axes.plot(
                group["promised"], group["median"], **mark.dots,
                markersize=4.5, alpha=0.75, markeredgecolor="white", markeredgewidth=0 if mark.marker == "x" else 0.4,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        ratio_axis(axes.xaxis, low, high)
        ratio_axis(axes.yaxis, low, high)
        axes.set_xlabel("speed-up in FLOPs")
        axes.set_ylabel("measured speed-up")
        axes.set_title(f"batch size {frame['batch'].iloc[0]}", loc="left")
        axes.text(0.97, 0.04, "slower than in FLOPs", transform=axes.transAxes, ha="right", fontsize=6.5, color=GREY)
    legend_below(figure, method_handles(pd.concat(measured), looks), columns=4)
    return figure


def _measured(rows: pd.DataFrame, batch: int) -> pd.DataFrame:
    """Return method, batch, promised, median, low and high (speed-ups) of the points timed at a batch size."""
    rows = rows[rows["split"] == "validation"] if "split" in rows else rows[:0]
    nothing = pd.Series(np.nan, index=rows.index)
    promised = rows.get(f"promised_{batch}", nothing).fillna(rows.get("speedup", nothing))
    frame = pd.DataFrame({"method": rows["method"], "batch": batch, "promised": promised})
    for name, column in (("median", ""), ("low", "_low"), ("high", "_high")):
        frame[name] = rows.get(f"latency_{batch}{column}", nothing)
    return frame[(frame["median"] > 0) & (frame["promised"] > 0)]


def ablation_differences(points: pd.DataFrame, roles: Roles, resamples: Resamples | None = None) -> pd.DataFrame:
    """Return the score of each ablation minus that of its full method, on validation, at full depth and at each exit.

    Returns:
        One row per ablation, full (method), variant, exit (0: full depth) and task, and one over all tasks with task
        "". difference is paired by seed; low and high are its interval, NaN without traces.

    Raises:
        Absent: where no ablation has anything in common with its full method.
    """
    rows = succeeded(points)
    rows = rows[(rows["split"] == "validation") & rows["kind"].isin(["static", "fixed_exit"]) & rows["score"].notna()]
    names, sets = [], []
    for ablation, full in roles.ablations.items():
        sides = [rows[rows["method"] == method] for method in (ablation, full)]
        by_exit = [{key: by_task(group) for key, group in side.groupby(["variant", "exit"])} for side in sides]
        for (variant, leave), tasks in by_exit[0].items():
            other = by_exit[1].get((variant, leave), {})
            pairs = {task: common_seeds(own, other.get(task, [])) for task, own in tasks.items()}
            pairs = {task: pair for task, pair in pairs.items() if pair[0]}
            for task, each in [*((task, [pair]) for task, pair in pairs.items()), ("", list(pairs.values()))]:
                if each:
                    names.append((ablation, full, variant, int(leave), task))
                    sets.append(each)
    if not names:
        raise Absent("no ablation has a variant, task and seed in common with its full method")
    table = pd.DataFrame(names, columns=["ablation", "full", "variant", "exit", "task"])
    return table.assign(
        **dict(zip(("difference", "low", "high"), np.array(differences(sets, resamples)).T, strict=True))
    )


@styled
def ablation_intervals(points: pd.DataFrame, roles: Roles, *, resamples: Resamples | None = None) -> Figure:
    """Draw each ablation's difference from the full method: at full depth with intervals, and at each exit.

    Raises:
        Absent: where the settings name no ablation, or none can be compared.
    """
    if not roles.ablations:
        raise Absent("no ablations are named in the settings")
    table = ablation_differences(points, roles, resamples)
    labels = points.drop_duplicates(["method", "variant"]).set_index(["method", "variant"])["label"]
    keys = sorted({*zip(table["full"], table["ablation"], table["variant"], strict=True)})
    exits = sorted(set(table["exit"]) - {0})
    figure = new_figure(PAGE, 1.25 + 0.25 * len(keys))
    ratios = [1.1, 0.16 * len(exits) + 0.2] if exits else [1]
    grid = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False, sharey=True).flat
    axes, looks = grid[0], marks(points, roles)
    heat = np.full((len(keys), len(exits)), np.nan)
    for y, (full, ablation, variant) in enumerate(keys):
        own = table[(table["ablation"] == ablation) & (table["variant"] == variant)].set_index(["exit", "task"])
        for (leave, task), row in own.iterrows():
            if leave and not task:
                heat[y, exits.index(leave)] = 100 * row["difference"]
            elif not leave and task:
                axes.plot(100 * row["difference"], y, "|", color=GREY, markersize=6, zorder=2)
            elif not leave:
                _whisker(axes, y, Interval(*row[["difference", "low", "high"]]), looks[full]._replace(marker="o"))
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(keys)), [str(labels[(ablation, variant)]) for _, ablation, variant in keys])
    axes.set_ylim(len(keys) - 0.4, -0.6)
    note = ""
    if table.loc[table["exit"] == 0, "difference"].abs().max() > 0.1:
        axes.set_xscale("symlog", linthresh=5, linscale=1.5)
        axes.set_xticks([-50, -5, 0, 5], ["\N{MINUS SIGN}50", "\N{MINUS SIGN}5", "0", "5"])
        note = "\n(logarithmic beyond ±5)"
    axes.set_xlabel(f"score × 100 minus the full method's{note}")
    axes.set_title("Full depth", loc="left")
    if exits:
        _heat(grid[1], heat, np.vectorize("{:+.1f}".format)(heat), most=max(1.0, float(np.nanmax(np.abs(heat)))))
        grid[1].set_xticks(range(len(exits)), [str(leave) for leave in exits])
        grid[1].set_xlabel("exit")
        grid[1].set_title("Every example at one exit", loc="left")
    return figure


def _heat(axes: Axes, values: NDArray[np.float64], texts: NDArray[np.str_], most: float, empty: str = "") -> None:
    """Draw a table with a colour behind each number: orange below zero, purple above, full at `most`.

    Cells whose text has "nan" have the text `empty`.
    """
    axes.imshow(values, aspect="auto", cmap=matplotlib.colormaps["PuOr"], norm=TwoSlopeNorm(0, -1.7 * most, 1.7 * most))
    for y, x in np.ndindex(values.shape):
        text = str(texts[y, x]).replace("-", "\N{MINUS SIGN}")
        if "nan" in text:
            axes.text(x, y, empty, ha="center", va="center", fontsize=6, color=GREY)
        else:
            dark = abs(values[y, x]) > most
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color="white" if dark else INK)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
