"""Frontiers: what score a method keeps at what cost, on one task and averaged over tasks."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.choosing.budgets import (
    POINT,
    TOLERANCE,
    chosen_frontier,
    control_rows,
    selection_split,
    succeeded,
    teacher_rows,
)
from bench.choosing.roles import Roles
from bench.choosing.statistics import attainment, frontier_band
from bench.errors import UserError
from bench.reporting.figures.drawing import (
    COLUMN,
    GREY,
    INK,
    Absent,
    Mark,
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
)
from bench.reporting.tables.table import variant_names

RESAMPLES = 500
# Budgets of the averaged frontier, from 1x to the fastest point.
STEPS = 61


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

    Points are chosen on the selection split and shown on validation. With several seeds the line is their
    median attainment surface and small marks are the seeds' own points; with one seed it is that frontier, in a
    95 % bootstrap band over examples where `runs` (results/<profile>/runs) has the traces. `published` (rows of
    `bench.reporting.published`) adds hollow marks at the reported speed-ups.
    """
    shown = roles.contestants(points[points["task"] == task])
    looks = marks(points, roles)
    front = chosen_frontier(shown)
    teacher = teacher_rows(shown, reference=roles.reference)
    if front.empty or teacher.empty:
        raise Absent("no run of the teacher on this task" if teacher.empty else "no operating point on this task")
    full = float(teacher["flops"].mean())
    figure = new_figure(COLUMN * 1.5, 2.8)
    axes = figure.add_subplot()
    drawn = [method for method in looks if method in set(front["method"]) and method != roles.reference]
    names = variant_names(points)
    for method in drawn:
        rows = front[front["method"] == method]
        _staircase(axes, shown, rows, looks[method], runs)
        _name_variants(axes, rows, looks[method], names)
    axes.plot(full, 100 * teacher["score"].mean(), **looks[roles.reference].dots, markersize=8, zorder=6)
    metric = str(teacher["metric"].iloc[0])
    reported = _published(axes, published, task, metric, full, looks)
    scores = [*(100 * front["score"]), *reported]
    _controls(axes, scores, 100 * float(teacher["score"].mean()), 100 * control_rows(shown)["score"].mean())
    axes.set_xscale("log")
    low, high = min(front["flops"].min(), full), max(front["flops"].max(), full)
    axes.set_xlim(low / 1.12, high * 1.12)
    count_axis(axes.xaxis)
    axes.set_xlabel("mean FLOPs an example (2 × multiply-adds, true lengths)")
    axes.set_ylabel(score_title(metric))
    top = axes.secondary_xaxis("top", functions=(lambda x: full / np.maximum(x, 1e-9),) * 2)
    ratio_axis(top.xaxis, full / (high * 1.12), full / (low / 1.12))
    _head(axes, top, task_title(task))
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


def _head(axes: Axes, top: Any, title: str) -> None:
    """The title and the upper axis's name, on one line above its ticks."""
    above: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 18), "textcoords": "offset points"}
    axes.annotate(title, (0, 1), ha="left", **above, fontsize=8, fontweight="bold")
    axes.annotate("speed-up over the teacher (FLOPs)", (1, 1), ha="right", **above)
    top.tick_params(pad=2, length=3)


def _handle(mark: Mark) -> Line2D:
    line: Any = "none" if mark.marker == "*" else mark.line
    return Line2D([], [], color=mark.colour, marker=mark.marker, linestyle=line, label=mark.name)


def _staircase(axes: Axes, points: pd.DataFrame, rows: pd.DataFrame, mark: Mark, runs: Path | None) -> None:
    """The line of one method on one task, and what is known of its spread."""
    task, method, seeds = str(rows["task"].iloc[0]), str(rows["method"].iloc[0]), rows["seed"].unique()
    surface = attainment(points, task, method)
    line: dict[str, Any] = {"color": mark.colour, "linestyle": mark.line, "drawstyle": "steps-post"}
    several = len(seeds) > 1
    axes.plot(
        surface.flops, 100 * surface.score, **line, zorder=4,
        marker=mark.marker if several or len(surface.flops) == 1 else "", markersize=4,
        markevery=_every(surface.flops),
    )  # fmt: skip
    axes.plot(
        rows["flops"], 100 * rows["score"], **mark.dots, markeredgewidth=0, zorder=3,
        markersize=2.6 if several else 3.2, alpha=0.45 if several else 1,
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


def _every(values: np.ndarray) -> int:
    """One marker in so many, so that a line carries about a dozen."""
    return max(1, len(values) // 12)


def _name_variants(axes: Axes, rows: pd.DataFrame, mark: Mark, names: dict[tuple[str, str], str]) -> None:
    """Each variant's name above its best points, where the method has more than one variant."""
    best = rows.sort_values("score", ascending=False).drop_duplicates(["variant", "seed"])
    best = best.groupby(["method", "variant"]).agg(flops=("flops", "mean"), score=("score", "max"))
    for (method, variant), row in best.iterrows():
        axes.annotate(
            names[(method, variant)], (row["flops"], 100 * row["score"]), xytext=(0, 4.5), ha="center",
            textcoords="offset points", fontsize=6.5, fontweight="bold", color=mark.colour,
            path_effects=halo(), zorder=7,
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


def _controls(axes: Axes, scores: list[float], teacher: float, control: float) -> None:
    """Lines of the teacher and the best constant; a control far below the data is only named."""
    low, high = padded([*scores, teacher])
    far = np.isfinite(control) and control < low - 0.45 * (high - low)
    if np.isfinite(control) and not far:
        low, high = padded([*scores, teacher, control])
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
        axes.text(0.012, low, f"best constant {control:.1f} ↓", color=GREY, va="bottom", **text)
    elif np.isfinite(control):
        axes.axhline(control, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=2)
        axes.text(0.012, control, f"best constant {control:.1f}", color=GREY, va="bottom", **text)


def average_curves(points: pd.DataFrame, roles: Roles, *, split: str = "validation") -> pd.DataFrame:
    """The score of each method averaged over all tasks at matched speed-ups, one row a (method, budget).

    At each budget every task gives the score of the point that `at_budget` chooses there (mean over seeds). A
    method has a row only where it has a point on every task. Columns: method, budget, score, speedup and
    speedup_128 (what the chosen points reach on `split`, harmonic means), and the means over tasks of mean_exit,
    parameters, flops and flops_128.
    """
    shown = roles.contestants(points)
    run = ["task", "method", "seed"]
    chosen = chosen_frontier(shown, split=selection_split(points))[[*POINT, "speedup"]]
    chosen = chosen.rename(columns={"speedup": "reached"}).dropna(subset=["reached"])
    rows = chosen.merge(chosen_frontier(shown, split=split).dropna(subset=["score"]), on=POINT)
    if rows.empty:
        raise Absent("no operating point with a known speed-up")
    budgets = np.geomspace(1.0, max(float(rows["reached"].max()), 1.01), STEPS)
    # Scores rise along a frontier as speed-ups fall, so the best within a budget is the first to reach it.
    asked = rows[run].drop_duplicates().merge(pd.DataFrame({"budget": budgets}), how="cross")
    asked["least"] = asked["budget"] * (1 - TOLERANCE)
    rows = pd.merge_asof(
        asked.sort_values("least"), rows.sort_values("reached"), left_on="least", right_on="reached", by=run,
        direction="forward",
    ).dropna(subset=["score"])  # fmt: skip
    rows = rows.assign(share=1 / rows["speedup"], share_128=1 / rows["speedup_128"])
    values = ["score", "mean_exit", "parameters", "flops", "flops_128", "share", "share_128"]
    grouped = rows.groupby(["method", "budget", "task"])[values].mean().groupby(["method", "budget"])
    table = grouped.mean()[grouped.size() == shown["task"].nunique()].reset_index()
    return table.assign(speedup=1 / table.pop("share"), speedup_128=1 / table.pop("share_128"))


@styled
def frontier_average(points: pd.DataFrame, roles: Roles) -> Figure:
    """All tasks: the mean score at matched speed-ups, with the teacher and the best constant as controls."""
    if points["task"].nunique() < 2:
        raise Absent("one task only: its own frontier says it all")
    curves = average_curves(points, roles)
    if curves.empty:
        raise Absent("no method has a point on every task")
    looks = marks(points, roles)
    figure = new_figure(COLUMN * 1.5, 2.8)
    axes = figure.add_subplot()
    drawn = [method for method in looks if method in set(curves["method"]) and method != roles.reference]
    for method in drawn:
        rows, mark = curves[curves["method"] == method].sort_values("budget"), looks[method]
        axes.plot(
            1 / rows["budget"], 100 * rows["score"], color=mark.colour, linestyle=mark.line,
            marker=mark.marker, markevery=max(1, len(rows) // 6), zorder=4,
        )  # fmt: skip
    teacher = 100 * _task_mean(teacher_rows(points, reference=roles.reference))
    axes.plot(1.0, teacher, **looks[roles.reference].dots, markersize=8, zorder=6)
    _controls(axes, list(100 * curves["score"]), teacher, 100 * _task_mean(control_rows(points)))
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
    _head(axes, top, f"Mean of {points['task'].nunique()} tasks")
    legend_below(figure, [_handle(looks[roles.reference]), *(_handle(looks[method]) for method in drawn)], columns=3)
    return figure


def _task_mean(rows: pd.DataFrame) -> float:
    """Mean over tasks of the mean over seeds."""
    return float(rows.groupby("task")["score"].mean().mean())


@styled
def score_against_parameters(points: pd.DataFrame, roles: Roles) -> Figure:
    """The full-depth score of every variant against its parameters, averaged over tasks.

    Only seeds that have a score on every task count. Bars are one sample deviation over seeds.
    """
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
    figure = new_figure(COLUMN * 1.5, 2.6)
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
    legend_below(figure, [_handle(looks[m]) for m in looks if m in table.index.get_level_values("method")], columns=3)
    return figure
