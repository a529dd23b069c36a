"""Frontiers: what score a method keeps at what cost, on one task and averaged over tasks."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.budgets import chosen_frontier, control_rows, succeeded, teacher_rows
from bench.analysis.comparing.resampling import Resamples
from bench.analysis.roles import Roles
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
    legend_below,
    marks,
    new_figure,
    padded,
    ratio_axis,
    score_title,
    styled,
)
from bench.reporting.figures.labels import Label, place
from bench.reporting.tables.table import variant_names
from bench.tasks.catalogue import title as task_title

# So many methods fit a figure of a column and a half; more have a whole page's width.
_FEW = 6


@styled
def frontier(
    points: pd.DataFrame,
    task: str,
    roles: Roles,
    *,
    resamples: Resamples | None = None,
    published: pd.DataFrame | None = None,
) -> Figure:
    """One task: score against mean FLOPs an example, one staircase a method over all its variants.

    Points are chosen on the selection split and shown on validation, lines and bands as `task_curve` has them;
    small marks are the chosen points of every seed, faint and hollow where they answer all examples alike.
    `published` (rows of `bench.reporting.published`) adds hollow marks at the reported speed-ups.
    """
    shown = roles.contestants(points[points["task"] == task])
    looks, variants = marks(points, roles), variant_names(points)
    teacher = teacher_rows(shown, reference=roles.reference)
    if teacher.empty:
        raise Absent("no run of the teacher on this task")
    front = chosen_frontier(shown).dropna(subset=["score"])
    drawn = [method for method in looks if method in set(front["method"]) and method != roles.reference]
    if not drawn:
        raise Absent("the teacher is alone on this task")
    full, top_score = float(teacher["flops"].mean()), 100 * float(teacher["score"].mean())
    figure, axes = _canvas(len(drawn))
    scores, names = [top_score], []
    for method in drawn:
        rows = front[front["method"] == method]
        curve = task_curve(rows, resamples)
        _curve(axes, curve, looks[method], drawstyle="steps-post")
        _own_points(axes, rows, looks[method], several=curve.seeds > 1, many=len(drawn) > _FEW)
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
    axes.set_xlabel("mean FLOPs an example (2 × multiply-adds, true lengths)")
    axes.set_ylabel(score_title(metric))
    top = axes.secondary_xaxis("top", functions=(lambda x: full / np.maximum(x, 1e-9),) * 2)
    ratio_axis(top.xaxis, full / (high * 1.12), full / (low / 1.12))
    _head(axes, top, task_title(task))
    handles = [_handle(looks[roles.reference]), *(_handle(looks[method]) for method in drawn)]
    if reported:
        handles.append(_hollow("hollow: as reported", INK, 1.0))
    if is_constant(front).any():
        handles.append(_hollow("faint: one answer for all", GREY, 0.5))
    legend_below(figure, handles, columns=5 if len(drawn) > _FEW else 3)
    place(axes, names, np.column_stack([front["flops"], 100 * front["score"]]))
    return figure


def _canvas(methods: int) -> tuple[Figure, Axes]:
    figure = new_figure(*((PAGE, 3.7) if methods > _FEW else (COLUMN * 1.5, 2.8)))
    return figure, figure.add_subplot()


def _head(axes: Axes, top: Any, title: str) -> None:
    """The title and the upper axis's name, on one line above its ticks."""
    above: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 18), "textcoords": "offset points"}
    axes.annotate(title, (0, 1), ha="left", **above, fontsize=8, fontweight="bold")
    axes.annotate("speed-up over the teacher (FLOPs)", (1, 1), ha="right", **above)
    top.tick_params(pad=2, length=3)


def _handle(mark: Mark) -> Line2D:
    line: Any = "none" if mark.marker == "*" else mark.line
    return Line2D([], [], color=mark.colour, marker=mark.marker, linestyle=line, label=mark.name)


def _hollow(label: str, colour: str, alpha: float) -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker="D", color=colour, markerfacecolor="none", alpha=alpha, label=label
    )  # fmt: skip


def _curve(axes: Axes, curve: Curve, mark: Mark, *, drawstyle: str) -> None:
    """A method's line and band; where it answers all examples alike both are faint."""
    step: Literal["post"] | None = "post" if drawstyle == "steps-post" else None
    line: dict[str, Any] = {"color": mark.colour, "linestyle": mark.line, "drawstyle": drawstyle, "zorder": 4}
    every = max(1, len(curve.cost) // 10)
    axes.plot(curve.cost, 100 * curve.score, **line, alpha=0.3 if curve.constant.any() else 1)
    if curve.constant.any():
        axes.plot(curve.cost, np.where(curve.constant, np.nan, 100 * curve.score), **line)
    axes.plot(
        curve.cost[~curve.constant], 100 * curve.score[~curve.constant], **mark.dots, markersize=4, zorder=4.5,
        markevery=every, markeredgewidth=0.8 if mark.marker == "x" else 0,
    )  # fmt: skip
    if not np.isfinite(curve.low).any():
        return
    low, high = 100 * curve.low, 100 * curve.high
    if len(curve.cost) > 1:
        axes.fill_between(curve.cost, low, high, step=step, color=mark.colour, alpha=0.09, linewidth=0, zorder=1.5)
    # A staircase's last step has no width, a lone point none at all.
    axes.plot([curve.cost[-1]] * 2, [low[-1], high[-1]], color=mark.colour, linewidth=0.9, alpha=0.45, zorder=3)


def _own_points(axes: Axes, rows: pd.DataFrame, mark: Mark, *, several: bool, many: bool) -> None:
    """The chosen points of every seed, small; hollow and faint where they give one answer to all.

    Where many methods have several seeds each, their bands say it and the points would hide the lines.
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
    """Each variant's name at its best point (mean over seeds), where the method has more than one variant."""
    rows = rows[~is_constant(rows)]
    best = rows.sort_values("score", ascending=False).drop_duplicates(["variant", "seed"])
    best = best.groupby(["method", "variant"])[["flops", "score"]].mean()
    return [Label(row["flops"], 100 * row["score"], names[key], mark.colour) for key, row in best.iterrows()]


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
    """Lines of the teacher and the best constant; a control far below the data is only named.

    scores: 0 to 100, all that the axis has to hold, the edges of the bands among them.
    """
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
    axes.text(0.012, teacher, _signed("teacher", teacher), color=INK, va="bottom", **text)
    if far:
        axes.text(0.012, low, f"{_signed('best constant', control)} ↓", color=GREY, va="bottom", **text)
    elif np.isfinite(control):
        axes.axhline(control, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=2)
        axes.text(0.012, control, _signed("best constant", control), color=GREY, va="bottom", **text)


def _signed(name: str, value: float) -> str:
    """A name and its score, with the minus sign that the axis has."""
    return f"{name} {value:.1f}".replace("-", "\N{MINUS SIGN}")


@styled
def frontier_average(points: pd.DataFrame, roles: Roles, *, resamples: Resamples | None = None) -> Figure:
    """All tasks: the mean score at matched speed-ups, with the teacher and the best constant as controls."""
    if points["task"].nunique() < 2:
        raise Absent("one task only: its own frontier says it all")
    orphaned = set(points["task"]) - set(teacher_rows(points, reference=roles.reference)["task"])
    if orphaned:
        raise Absent(f"no run of the teacher on {', '.join(sorted(map(task_title, orphaned)))}")
    curves = average_curves(points, roles, resamples=resamples)
    looks = marks(points, roles)
    drawn = [method for method in looks if method in set(curves["method"]) and method != roles.reference]
    if not drawn:
        raise Absent("no method beside the teacher has a point on every task")
    figure, axes = _canvas(len(drawn))
    scores: list[float] = []
    for method in drawn:
        rows = curves[curves["method"] == method].sort_values("budget", ascending=False)
        score, edges, alike = rows["score"].to_numpy(), rows[["low", "high"]].to_numpy(), rows["constant"].to_numpy()
        low, high = edges.T
        curve = Curve(1 / rows["budget"].to_numpy(), score, low, high, alike >= 0.5, 0)
        _curve(axes, curve, looks[method], drawstyle="default")
        scores += [*(100 * score), *(100 * edges.ravel())]
    teacher = 100 * _task_mean(teacher_rows(points, reference=roles.reference))
    axes.plot(1.0, teacher, **looks[roles.reference].dots, markersize=8, zorder=6)
    _controls(axes, scores, teacher, 100 * _task_mean(control_rows(points)))
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
    handles = [_handle(looks[roles.reference]), *(_handle(looks[method]) for method in drawn)]
    legend_below(figure, handles, columns=5 if len(drawn) > _FEW else 3)
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
    present = [method for method in looks if method in table.index.get_level_values("method")]
    figure, axes = _canvas(len(present))
    labels: list[Label] = []
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
        labels += [
            Label(row["parameters"], 100 * row["score"], names[(method, variant)], mark.colour)
            for (_, variant), row in group.iterrows()
        ]
    axes.set_xscale("log")
    axes.set_xlim(table["parameters"].min() / 1.12, table["parameters"].max() * 1.12)
    count_axis(axes.xaxis)
    axes.set_xlabel("parameters, embeddings included")
    axes.set_ylabel("mean score × 100")
    axes.set_title(f"Full depth, mean of {tasks} task{'s' * (tasks > 1)}", loc="left")
    legend_below(figure, [_handle(looks[method]) for method in present], columns=5 if len(present) > _FEW else 3)
    edges = [table["score"] + sign * table["spread"].fillna(0) for sign in (-1, 0, 1)]
    place(axes, labels, np.vstack([np.column_stack([table["parameters"], 100 * edge]) for edge in edges]))
    return figure
