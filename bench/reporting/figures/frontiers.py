"""Frontiers: what score a method keeps at what cost, on one task and averaged over tasks."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.errors import UserError
from bench.reporting.budgets import (
    at_budget,
    chosen_frontier,
    majority_rows,
    selection_split,
    succeeded,
    teacher_rows,
)
from bench.reporting.figures.drawing import (
    COLUMN,
    GREY,
    INK,
    Absent,
    Mark,
    Roles,
    count_axis,
    halo,
    legend_below,
    marks,
    new_figure,
    padded,
    ratio_axis,
    score_title,
    styled,
    task_title,
    variant_names,
)
from bench.reporting.statistics import attainment, frontier_band

RESAMPLES = 500


@styled
def frontier(
    points: pd.DataFrame,
    task: str,
    roles: Roles,
    *,
    runs: Path | None = None,
    published: pd.DataFrame | None = None,
) -> Figure:
    """One task: score against mean FLOPs an example, one staircase a method over all its variants.

    Points are chosen on the selection split and shown on validation. With several seeds the line is the median
    attainment surface and small marks are the seeds' own points; with one seed it is that frontier, in a 95 %
    bootstrap band over examples where `runs` (results/<profile>/runs) has the traces. `published` (rows of
    `bench.reporting.published`) adds hollow marks at the reported speed-ups.
    """
    shown = roles.contestants(points[points["task"] == task])
    looks = marks(points, roles)
    front = chosen_frontier(shown)
    teacher = teacher_rows(shown, reference=roles.reference)
    if front.empty or teacher.empty:
        raise Absent(
            "no run of the teacher on this task" if teacher.empty else "no operating point on this task"
        )
    full = float(teacher["flops"].mean())
    figure = new_figure(COLUMN * 1.35, 3.1)
    axes = figure.add_subplot()
    drawn = [method for method in looks if method in set(front["method"]) and method != roles.reference]
    for method in drawn:
        rows = front[front["method"] == method]
        _staircase(axes, shown, rows, looks[method], runs)
        _name_variants(axes, rows, looks[method], variant_names(points))
    axes.plot(full, 100 * teacher["score"].mean(), **looks[roles.reference].dots, markersize=8, zorder=6)
    metric = str(teacher["metric"].iloc[0])
    reported = _published(axes, published, task, metric, full, looks)
    scores = [*(100 * front["score"]), *reported]
    _controls(axes, scores, 100 * float(teacher["score"].mean()), 100 * majority_rows(shown)["score"].mean())
    axes.set_xscale("log")
    low, high = min(front["flops"].min(), full), max(front["flops"].max(), full)
    axes.set_xlim(low / 1.12, high * 1.12)
    count_axis(axes.xaxis)
    axes.set_xlabel("mean FLOPs an example (2 × multiply-adds, true lengths)")
    axes.set_ylabel(score_title(metric))
    top = axes.secondary_xaxis("top", functions=(lambda x: full / np.maximum(x, 1e-9),) * 2)
    ratio_axis(top.xaxis, full / (high * 1.12), full / (low / 1.12))
    top.set_xlabel("speed-up over the teacher (FLOPs)")
    axes.set_title(task_title(task), loc="left", pad=4)
    handles = [_handle(looks[roles.reference]), *(_handle(looks[method]) for method in drawn)]
    if reported:
        hollow = Line2D(
            [],
            [],
            linestyle="none",
            marker="D",
            color=INK,
            markerfacecolor="none",
            label="hollow: as reported",
        )
        handles.append(hollow)
    legend_below(figure, handles, columns=3)
    return figure


def _handle(mark: Mark) -> Line2D:
    line = "none" if mark.marker == "*" else mark.line
    return Line2D([], [], color=mark.colour, marker=mark.marker, linestyle=line, label=mark.name)


def _staircase(axes: Axes, points: pd.DataFrame, rows: pd.DataFrame, mark: Mark, runs: Path | None) -> None:
    """The line of one method on one task, and what is known of its spread."""
    task, method, seeds = str(rows["task"].iloc[0]), str(rows["method"].iloc[0]), rows["seed"].unique()
    surface = attainment(points, task, method)
    line: dict[str, Any] = {"color": mark.colour, "linestyle": mark.line, "drawstyle": "steps-post"}
    several = len(seeds) > 1
    axes.plot(surface.flops, 100 * surface.score, **line, zorder=4)
    axes.plot(
        rows["flops"], 100 * rows["score"], **mark.dots, markersize=2.6 if several else 3.2, alpha=0.45 if several else 1,
        markeredgewidth=0, zorder=3,
    )  # fmt: skip
    if not several and runs is not None:
        try:
            band = frontier_band(points, runs, task, method, int(seeds[0]), resamples=RESAMPLES)
        except UserError:  # the traces were not kept
            return
        band = band.sort_values("flops")
        axes.fill_between(
            band["flops"],
            100 * band["low"],
            100 * band["high"],
            step="post",
            color=mark.colour,
            alpha=0.10,
            linewidth=0,
        )


def _name_variants(axes: Axes, rows: pd.DataFrame, mark: Mark, names: dict[tuple[str, str], str]) -> None:
    """Each variant's name beside its best point, where the method has more than one."""
    best = rows.sort_values("score", ascending=False).drop_duplicates("variant")
    for row in best.itertuples():
        name = names[(row.method, row.variant)]
        if name:
            axes.plot(
                row.flops, 100 * row.score, **mark.dots, markersize=5, markeredgecolor="white", zorder=6
            )
            axes.annotate(
                name, (row.flops, 100 * row.score), xytext=(0, 4.5), textcoords="offset points", ha="center",
                fontsize=6.5, fontweight="bold", color=mark.colour, path_effects=halo(), zorder=7,
            )  # fmt: skip


def _published(
    axes: Axes, published: pd.DataFrame | None, task: str, metric: str, full: float, looks: dict[str, Mark]
) -> list[float]:
    """Draw what others reported of this task at a known speed-up, hollow; their scores (0 to 100)."""
    if published is None:
        return []
    rows = published[(published["task"] == task) & published["metric"].isin([metric, "unstated"])]
    rows = rows.dropna(subset=["score", "speedup"])
    for row in rows.itertuples():
        mark = looks.get(row.method, Mark(row.system, GREY, "h", "none"))
        hollow = {**mark.dots, "markerfacecolor": "none", "markeredgewidth": 0.9, "markersize": 5}
        axes.plot(full / row.speedup, row.score, **hollow, zorder=5)
    return list(rows["score"])


def _controls(axes: Axes, scores: list[float], teacher: float, majority: float) -> None:
    """Lines of the teacher and the majority class; a majority far below the data is only written, with an arrow."""
    low, high = padded([*scores, teacher])
    far = np.isfinite(majority) and majority < low - 0.45 * (high - low)
    if np.isfinite(majority) and not far:
        low, high = padded([*scores, teacher, majority])
    axes.set_ylim(low, high + 0.04 * (high - low))
    text: dict[str, Any] = {
        "fontsize": 6.5,
        "transform": axes.get_yaxis_transform(),
        "path_effects": halo(),
        "zorder": 8,
    }
    axes.axhline(teacher, color=INK, linewidth=0.8, linestyle=(0, (6, 2)), zorder=2)
    axes.text(0.012, teacher, f"teacher {teacher:.1f}", color=INK, va="bottom", **text)
    if far:
        axes.text(0.012, low, f"majority class {majority:.1f} ↓", color=GREY, va="bottom", **text)
    elif np.isfinite(majority):
        axes.axhline(majority, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=2)
        axes.text(0.012, majority, f"majority class {majority:.1f}", color=GREY, va="bottom", **text)


def average_curves(
    points: pd.DataFrame, roles: Roles, *, split: str = "validation", steps: int = 61
) -> pd.DataFrame:
    """The score of each method averaged over all tasks at matched speed-ups, one row a (method, budget).

    At each budget every task gives the score of the point that is chosen there (mean over seeds). A method has a row
    only where it has a point on every task. Columns: method, budget, score, speedup and speedup_128 (what the chosen
    points reach on `split`, harmonic means), mean_exit, parameters, flops, flops_128 (means over tasks).
    """
    shown = roles.contestants(points)
    # The best at a budget is always on the frontier, and that has few rows.
    splits = sorted({selection_split(points), split})
    usable = pd.concat([chosen_frontier(shown, split=each) for each in splits], ignore_index=True)
    usable = usable[usable["speedup"].notna()]
    if usable.empty:
        raise Absent("no operating point with a known speed-up")
    tasks = shown["task"].nunique()
    budgets = np.geomspace(1.0, max(float(usable["speedup"].max()), 1.01), steps)
    values = ["score", "mean_exit", "parameters", "flops", "flops_128", "share", "share_128"]
    curves = []
    for budget in budgets:
        rows = at_budget(usable, float(budget), split=split).dropna(subset=["score"])
        rows = rows.assign(share=1 / rows["speedup"], share_128=1 / rows["speedup_128"])
        each = rows.groupby(["method", "task"])[values].mean()
        mean, count = each.groupby("method").mean(), each.groupby("method").size()
        curves.append(mean[count == tasks].reset_index().assign(budget=budget))
    table = pd.concat(curves, ignore_index=True)
    return table.assign(speedup=1 / table.pop("share"), speedup_128=1 / table.pop("share_128"))


@styled
def frontier_average(points: pd.DataFrame, roles: Roles) -> Figure:
    """All tasks: the mean score at matched speed-ups, with the teacher and the majority class as controls."""
    if points["task"].nunique() < 2:
        raise Absent("one task only: its own frontier says it all")
    curves = average_curves(points, roles)
    if curves.empty:
        raise Absent("no method has a point on every task")
    looks = marks(points, roles)
    figure = new_figure(COLUMN * 1.35, 3.1)
    axes = figure.add_subplot()
    drawn = [method for method in looks if method in set(curves["method"]) and method != roles.reference]
    for method in drawn:
        rows, mark = curves[curves["method"] == method].sort_values("budget"), looks[method]
        axes.plot(
            1 / rows["budget"], 100 * rows["score"], color=mark.colour, linestyle=mark.line, marker=mark.marker,
            markevery=max(1, len(rows) // 6), zorder=4,
        )  # fmt: skip
    teacher = 100 * _task_mean(teacher_rows(points, reference=roles.reference))
    axes.plot(1.0, teacher, **looks[roles.reference].dots, markersize=8, zorder=6)
    _controls(axes, list(100 * curves["score"]), teacher, 100 * _task_mean(majority_rows(points)))
    low = float(1 / curves["budget"].max())
    axes.set_xscale("log")
    axes.set_xlim(low / 1.06, 1.06)
    ratio_ticks = axes.xaxis
    count_axis(ratio_ticks)
    ratio_ticks.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_xlabel("FLOPs relative to the teacher, the same on every task")
    axes.set_ylabel("mean score × 100")
    top = axes.secondary_xaxis("top", functions=(lambda x: 1 / np.maximum(x, 1e-9),) * 2)
    ratio_axis(top.xaxis, 1.0, 1 / low)
    top.set_xlabel("speed-up over the teacher (FLOPs)")
    axes.set_title(f"Mean of {points['task'].nunique()} tasks", loc="left", pad=4)
    legend_below(
        figure, [_handle(looks[roles.reference]), *(_handle(looks[method]) for method in drawn)], columns=3
    )
    return figure


def _task_mean(rows: pd.DataFrame) -> float:
    """Mean over tasks of the mean over seeds."""
    return float(rows.groupby("task")["score"].mean().mean())


@styled
def score_against_parameters(points: pd.DataFrame, roles: Roles) -> Figure:
    """The full-depth score of every variant against its parameters, averaged over the tasks it ran on."""
    rows = succeeded(roles.contestants(points))
    rows = rows[(rows["kind"] == "static") & (rows["split"] == "validation") & rows["score"].notna()]
    if rows.empty:
        raise Absent("no full-depth prediction on validation")
    looks, names = marks(points, roles), variant_names(points)
    tasks = rows["task"].nunique()
    seeds = rows.groupby(["method", "variant", "seed"]).agg(
        score=("score", "mean"), parameters=("parameters", "mean"), tasks=("task", "nunique")
    )
    seeds = seeds[seeds["tasks"] == tasks]
    table = seeds.groupby(["method", "variant"]).agg(
        score=("score", "mean"), spread=("score", "std"), parameters=("parameters", "mean")
    )
    if table.empty:
        raise Absent("no variant has a score on every task")
    figure = new_figure(COLUMN * 1.35, 2.9)
    axes = figure.add_subplot()
    for method, mark in looks.items():
        group = table[table.index.get_level_values("method") == method].sort_values("parameters")
        if group.empty:
            continue
        axes.plot(
            group["parameters"],
            100 * group["score"],
            color=mark.colour,
            linestyle=mark.line,
            alpha=0.5,
            linewidth=0.9,
        )
        axes.errorbar(
            group["parameters"], 100 * group["score"], yerr=100 * group["spread"].fillna(0), **mark.dots,
            markersize=8 if mark.marker == "*" else 5, elinewidth=0.8, capsize=1.5, zorder=4,
        )  # fmt: skip
        for (_, variant), row in group.iterrows():
            axes.annotate(
                names[(method, variant)], (row["parameters"], 100 * row["score"]), xytext=(5, 4),
                textcoords="offset points", fontsize=6.5, color=mark.colour, path_effects=halo(), zorder=6,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(table["parameters"].min() / 1.12, table["parameters"].max() * 1.12)
    count_axis(axes.xaxis)
    axes.set_xlabel("parameters, embeddings included")
    axes.set_ylabel("mean score × 100")
    axes.set_title(f"Full depth, mean of {tasks} task{'s' * (tasks > 1)}", loc="left")
    legend_below(
        figure, [_handle(looks[m]) for m in looks if m in table.index.get_level_values("method")], columns=3
    )
    return figure
