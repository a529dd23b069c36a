"""Score against cost: frontiers in FLOPs, measured milliseconds, parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.budgets import (
    POINT,
    chosen_frontier,
    control_rows,
    selection_split,
    teacher_rows,
    timed_points,
)
from bench.analysis.comparing.resampling import Resamples
from bench.analysis.roles import Roles
from bench.analysis.statistics import learned_tasks
from bench.reporting.figures.curves import Curve, average_curves, is_constant, task_curve
from bench.reporting.figures.drawing import (
    COLUMN,
    GREY,
    INK,
    PAGE,
    Absent,
    Mark,
    count_axis,
    halo,
    label_outer,
    legend_below,
    marks,
    new_figure,
    padded,
    panels,
    ratio_axis,
    score_title,
    styled,
    task_order,
)
from bench.reporting.figures.labels import Label, place
from bench.reporting.tables.format.table import variant_names
from bench.tasks.catalogue import title as task_title

# Up to this many methods a figure is a column and a half wide, else a page.
FEW = 6


@styled
def frontier(
    points: pd.DataFrame,
    task: str,
    roles: Roles,
    *,
    resamples: Resamples | None = None,
    published: pd.DataFrame | None = None,
    main: str | None = None,
) -> Figure:
    """Draw one task: score against mean FLOPs per example, one staircase for each method over all its variants.

    Args:
        points: all-points.parquet.
        task: the task.
        roles: the roles of the profile's methods.
        resamples: the resampled scores; None gives no bands.
        published: rows of `bench.reporting.published`, drawn as hollow marks at the reported speed-ups.
        main: the contestant that alone has a band; None: all have one.

    Raises:
        Absent: where the teacher has no run on this task, or no other method has one.
    """
    shown = roles.contestants(points[points["task"] == task])
    looks, variants = marks(points, roles), variant_names(points)
    teacher = teacher_rows(shown, reference=roles.reference)
    if teacher.empty:
        raise Absent("no run of the teacher on this task")
    front = chosen_frontier(shown).dropna(subset=["score"])
    drawn = [method for method in looks if method in set(front["method"]) and method != roles.reference]
    if not drawn:
        raise Absent("no method beside the teacher on this task")
    full, top_score = float(teacher["flops"].mean()), 100 * float(teacher["score"].mean())
    figure, axes = canvas(len(drawn))
    scores, names = [top_score], []
    for method in drawn:
        rows = front[front["method"] == method]
        curve = task_curve(rows, resamples if main in (None, method) else None)
        _curve(axes, curve, looks[method])
        _own_points(axes, rows, looks[method], several=rows["seed"].nunique() > 1, many=len(drawn) > FEW)
        names += _names(rows, looks[method], variants)
        scores += [*(100 * rows["score"]), *(100 * curve.low), *(100 * curve.high)]
    axes.plot(full, top_score, **looks[roles.reference].dots, markersize=8, zorder=6)
    metric = str(teacher["metric"].iloc[0])
    reported = _published(axes, published, task, metric, full, looks)
    _controls(axes, [*scores, *reported], top_score, 100 * control_rows(shown)["score"].mean())
    axes.set_xscale("log")
    low, high = min(front["flops"].min(), full), max(front["flops"].max(), full)
    axes.set_xlim(low / 1.12, high * 1.12)
    count_axis(axes.xaxis)
    axes.set_xlabel("mean FLOPs per example (2 × multiply-adds, without padding)")
    axes.set_ylabel(score_title(metric))
    top = axes.secondary_xaxis("top", functions=(lambda x: full / np.maximum(x, 1e-9),) * 2)
    ratio_axis(top.xaxis, full / (high * 1.12), full / (low / 1.12))
    _head(axes, top, task_title(task))
    handles = [handle(looks[roles.reference]), *(handle(looks[method]) for method in drawn)]
    if reported:
        handles.append(_hollow("hollow: as reported", INK, 1.0))
    if is_constant(front).any():
        look = looks[front.loc[is_constant(front), "method"].iloc[0]]
        handles.append(_hollow("hollow, in any colour: same answer for all examples", look.colour, 0.6, look.marker))
    legend_below(figure, handles, columns=5 if len(drawn) > FEW else 3)
    place(axes, names, np.column_stack([front["flops"], 100 * front["score"]]))
    return figure


def canvas(methods: int) -> tuple[Figure, Axes]:
    """Return a figure with one panel; it is wider for many methods, whose legend needs the room."""
    figure = new_figure(*((PAGE, 3.7) if methods > FEW else (COLUMN * 1.5, 2.8)))
    return figure, figure.add_subplot()


def _head(axes: Axes, top: Any, title: str) -> None:
    """Write the title and the upper axis's label on one line above its ticks."""
    above: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 18), "textcoords": "offset points"}
    axes.annotate(title, (0, 1), ha="left", **above, fontsize=8, fontweight="bold")
    axes.annotate("speed-up over the teacher (FLOPs)", (1, 1), ha="right", **above)
    top.tick_params(pad=2, length=3)


def handle(mark: Mark) -> Line2D:
    """Return the legend entry of a method: its marker and line; the reference has no line."""
    line: Any = "none" if mark.marker == "*" else mark.line
    return Line2D([], [], color=mark.colour, marker=mark.marker, linestyle=line, label=mark.name)


def _hollow(label: str, colour: str, alpha: float, marker: str = "D") -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker=marker, color=colour, markerfacecolor="none", alpha=alpha, label=label
    )  # fmt: skip


def _curve(axes: Axes, curve: Curve, mark: Mark) -> None:
    """Draw a method's staircase and band; both are faint where it gives all examples the same answer."""
    line: dict[str, Any] = {"color": mark.colour, "linestyle": mark.line, "drawstyle": "steps-post", "zorder": 4}
    axes.plot(curve.cost, 100 * curve.score, **line, alpha=0.3 if curve.constant.any() else 1)
    if curve.constant.any():
        axes.plot(curve.cost, np.where(curve.constant, np.nan, 100 * curve.score), **line)
    shown = curve.model & ~curve.constant
    axes.plot(
        curve.cost[shown], 100 * curve.score[shown], **mark.dots, markersize=4, zorder=4.5,
        markevery=max(1, shown.sum() // 10), markeredgewidth=0.8 if mark.marker == "x" else 0,
    )  # fmt: skip
    if not np.isfinite(curve.low).any():
        return
    low, high = 100 * curve.low, 100 * curve.high
    if len(curve.cost) > 1:
        axes.fill_between(curve.cost, low, high, step="post", color=mark.colour, alpha=0.09, linewidth=0, zorder=1.5)
    # The last step has no width.
    axes.plot([curve.cost[-1]] * 2, [low[-1], high[-1]], color=mark.colour, linewidth=0.9, alpha=0.45, zorder=3)


def _own_points(axes: Axes, rows: pd.DataFrame, mark: Mark, *, several: bool, many: bool) -> None:
    """Draw the chosen points of every seed, small; hollow and faint where they give all examples the same answer.

    With `several` seeds and `many` methods they are left out, since they would hide the lines.
    """
    constant = is_constant(rows)
    plain, alike = rows[~constant], rows[constant]
    if not (several and many):
        axes.plot(
            plain["flops"], 100 * plain["score"], **mark.dots, markeredgewidth=0.5 if mark.marker == "x" else 0,
            zorder=3, markersize=2.4, alpha=0.4 if several else 0.8,
        )  # fmt: skip
    hollow = {**mark.dots, "markerfacecolor": "none", "markeredgewidth": 0.6, "markersize": 3}
    axes.plot(alike["flops"], 100 * alike["score"], **hollow, alpha=0.45, zorder=3)


def _names(rows: pd.DataFrame, mark: Mark, names: Mapping[tuple[str, str], str]) -> list[Label]:
    """Return each variant's name at its best point (mean over seeds), where the method has several variants."""
    rows = rows[~is_constant(rows)]
    best = rows.sort_values("score", ascending=False).drop_duplicates(["variant", "seed"])
    best = best.groupby(["method", "variant"])[["flops", "score"]].mean()
    return [Label(row["flops"], 100 * row["score"], names[key], mark.colour) for key, row in best.iterrows()]


def _published(
    axes: Axes, published: pd.DataFrame | None, task: str, metric: str, full: float, looks: dict[str, Mark]
) -> list[float]:
    """Draw published results with a known speed-up as hollow marks and return their scores (0 to 100)."""
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
    """Draw lines of the teacher and the constant baseline and set the limits of the score axis.

    A baseline far below the data is written as a number only.

    Args:
        axes: the plot.
        scores: all scores (0 to 100) that the axis holds, with the edges of the bands.
        teacher: the teacher's score, 0 to 100.
        control: the constant baseline's score, 0 to 100.
    """
    low, high = padded([*scores, teacher])
    far = np.isfinite(control) and control < low - 0.45 * (high - low)
    if np.isfinite(control) and not far:
        low, high = padded([*scores, teacher, control])
    axes.set_ylim(low, high + 0.04 * (high - low))
    # Each text is on the side of its line that faces away from the other: most points lie between both.
    above = not control > teacher
    axes.axhline(teacher, color=INK, linewidth=0.8, linestyle=(0, (6, 2)), zorder=2)
    _beside(axes, teacher, _signed("teacher", teacher), INK, above=above)
    if far:
        _beside(axes, low, f"{_signed('constant baseline', control)} ↓", GREY, above=True)
    elif np.isfinite(control):
        axes.axhline(control, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=2)
        _beside(axes, control, _signed("constant\nbaseline", control), GREY, above=not above)


def _beside(axes: Axes, y: float, text: str, colour: str, *, above: bool) -> None:
    """Write a text to the right of the plot, where it covers no line, above or below a height."""
    axes.annotate(
        text, (1.0, y), xycoords=axes.get_yaxis_transform(), xytext=(3, 0), textcoords="offset points",
        va="bottom" if above else "top", color=colour, fontsize=6.5, path_effects=halo(), zorder=8,
    )  # fmt: skip


def _signed(name: str, value: float) -> str:
    """Return a name and its score, with the minus sign that the axis has."""
    return f"{name} {value:.1f}".replace("-", "\N{MINUS SIGN}")


@styled
def frontier_average(
    points: pd.DataFrame, roles: Roles, *, resamples: Resamples | None = None, main: str | None = None
) -> Figure:
    """Draw the mean score over the learned tasks (all, if none is learned) at matched speed-ups, a staircase a method.

    Args:
        points: all-points.parquet.
        roles: the roles of the profile's methods.
        resamples: the resampled scores; None gives no bands.
        main: the contestant that alone has a band; None: all have one.

    Raises:
        Absent: for one task, where the teacher lacks a task, or where no other method has a point on every task.
    """
    if points["task"].nunique() < 2:
        raise Absent("only one task, which has its own frontier")
    orphaned = set(points["task"]) - set(teacher_rows(points, reference=roles.reference)["task"])
    if orphaned:
        raise Absent(f"no run of the teacher on {', '.join(sorted(map(task_title, orphaned)))}")
    every, learned = points["task"].nunique(), learned_tasks(points, reference=roles.reference)
    points = points[points["task"].isin(learned)] if learned else points
    curves = average_curves(points, roles, resamples=resamples)
    looks = marks(points, roles)
    drawn = [method for method in looks if method in set(curves["method"]) and method != roles.reference]
    if not drawn:
        raise Absent("no method beside the teacher has a point on every task")
    figure, axes = canvas(len(drawn))
    scores: list[float] = []
    for method in drawn:
        rows = curves[curves["method"] == method].sort_values("budget", ascending=False)
        score, low, high = rows[["score", "low", "high"]].to_numpy(np.float64).T
        constant, model = rows["constant"].to_numpy() >= 0.5, rows["model"].to_numpy(np.bool_)
        if main not in (None, method):
            low = high = np.full(len(rows), np.nan)
        curve = Curve(1 / rows["budget"].to_numpy(), score, low, high, constant, model)
        _curve(axes, curve, looks[method])
        scores += [*(100 * curve.score), *(100 * curve.low), *(100 * curve.high)]
    teacher = 100 * _task_mean(teacher_rows(points, reference=roles.reference))
    axes.plot(1.0, teacher, **looks[roles.reference].dots, markersize=8, zorder=6)
    _controls(axes, scores, teacher, 100 * _task_mean(control_rows(points)))
    left = float(1 / curves["budget"].max())
    axes.set_xscale("log")
    axes.set_xlim(left / 1.06, 1.06)
    count_axis(axes.xaxis)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    axes.set_xlabel("largest FLOPs on any task, % of the teacher's")
    axes.set_ylabel("mean score × 100")
    top = axes.secondary_xaxis("top", functions=(lambda x: 1 / np.maximum(x, 1e-9),) * 2)
    ratio_axis(top.xaxis, 1.0, 1 / left)
    _head(
        axes,
        top,
        f"Mean of the {len(learned)} learned tasks (of {every})"
        if 0 < len(learned) < every
        else f"Mean of {every} tasks",
    )
    handles = [handle(looks[roles.reference]), *(handle(looks[method]) for method in drawn)]
    legend_below(figure, handles, columns=5 if len(drawn) > FEW else 3)
    return figure


def _task_mean(rows: pd.DataFrame) -> float:
    """Return the mean over tasks of the mean over seeds."""
    return float(rows.groupby("task")["score"].mean().mean())


@styled
def score_against_milliseconds(points: pd.DataFrame, roles: Roles, *, times: pd.DataFrame) -> Figure:
    """Draw the score of every timed point against its measured time, one panel for each task.

    The lines of the teacher and of the constant baseline are those of the seeds that were timed.

    Raises:
        Absent: where `times` (latency.parquet) has no time of a method other than the reference.
    """
    rows = timed_points(roles.contestants(points), times)
    selected = points.loc[points["split"] == selection_split(points), [*POINT, "score"]]
    rows = rows.merge(selected.rename(columns={"score": "selected"}), on=POINT, how="left")
    if not rows["method"].ne(roles.reference).any():
        raise Absent("no latency was measured")
    looks, tasks = marks(points, roles), task_order(points, rows)
    figure, grid = panels(len(tasks), height=1.85)
    for axes, task in zip(grid, tasks, strict=True):
        of_task = rows[rows["task"] == task]
        for method, mark in looks.items():
            own = of_task[of_task["method"] == method].sort_values("milliseconds")
            own = own[~is_constant(own)]
            # The line joins the points that no faster point beats on the selection split.
            best = own[own["selected"].cummax() == own["selected"]]
            axes.plot(best["milliseconds"], 100 * best["score"], color=mark.colour, linestyle=mark.line, alpha=0.6)
            axes.plot(own["milliseconds"], 100 * own["score"], **mark.dots, markersize=7 if mark.marker == "*" else 3.6)
        heights = (INK, teacher_rows(points, reference=roles.reference)), (GREY, control_rows(points))
        for colour, known in heights:
            known = known[known["task"].eq(task) & known["seed"].isin(of_task["seed"])]
            axes.axhline(100 * known["score"].mean(), color=colour, linewidth=0.8, dashes=(3, 2))
        axes.set_xscale("log")
        count_axis(axes.xaxis)
        axes.set_title(task_title(task), loc="left")
    label_outer(grid, "milliseconds per example", "score × 100")
    timed: dict[str, list[str]] = {}
    for task in tasks:
        seeds = sorted({int(seed) for seed in rows.loc[rows["task"] == task, "seed"]})
        timed.setdefault(" and ".join(map(str, seeds)), []).append(task_title(task))
    several = len(timed) > 1
    said = "; ".join(f"{seeds} ({', '.join(titles)})" if several else seeds for seeds, titles in timed.items())
    note = f"First seed, exploratory: points and dashed lines are those of seed {said} alone."
    present = [method for method in looks if method in set(rows["method"]) | {roles.reference}]
    legend_below(figure, [handle(looks[method]) for method in present], columns=5, note=note)
    return figure
