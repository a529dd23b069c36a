"""Full-depth scores against other costs of a model than FLOPs: parameters, training, memory, storage."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.analysis.budgets import succeeded
from bench.analysis.roles import Roles
from bench.reporting.figures.drawing import Absent, count_axis, legend_below, marks, styled
from bench.reporting.figures.frontiers import FEW, canvas, handle
from bench.reporting.figures.labels import Label, place
from bench.reporting.tables.format.table import variant_names


class Cost(NamedTuple):
    """A cost of a model: its column in the points table, the title of its axis, and the axis's unit."""

    column: str
    title: str
    unit: float = 1.0


COSTS = {
    "parameters": Cost("parameters", "parameters with embeddings, in millions", 1e6),
    "training": Cost("training_flops_in_all", "training TFLOP, with those of every model that is needed", 1e12),
    "memory": Cost("peak_memory_bytes", "peak memory of the process that trains, in GB", 1e9),
    "trainable": Cost("trainable_parameters", "trained parameters, in millions", 1e6),
    "stored": Cost("parameters_all_tasks", "parameters stored for all tasks, in millions", 1e6),
}
"""Costs of the figures, by file name."""


@styled
def score_against_cost(points: pd.DataFrame, roles: Roles, *, cost: Cost) -> Figure:
    """Draw the full-depth score of every variant against a cost, averaged over tasks.

    Only seeds with a score on every task count, all of them; the cost is the mean over the runs where it is known. Bars
    are one sample standard deviation over seeds. A line joins the variants of a method. A contestant that is `like`
    another one, with models of the same size, has its mark and a label with what its name adds. Then a line joins the
    same variant of both, so a training budget and its parts form a learning curve.

    Args:
        points: all-points.parquet.
        roles: the roles of the profile's methods.
        cost: the horizontal axis.

    Raises:
        Absent: where no variant has a score and a cost on every task.
    """
    rows = succeeded(roles.contestants(points))
    rows = rows[(rows["kind"] == "static") & (rows["split"] == "validation") & rows["score"].notna()]
    if rows.empty:
        raise Absent("no full-depth prediction on validation")
    if cost.column == "parameters_all_tasks" and not rows.get("common_parameters", pd.Series(dtype=float)).gt(0).any():
        raise Absent("no model serves several tasks, so they store as many models")
    if cost.column not in rows or rows[cost.column].isna().all():
        raise Absent(f"no {cost.title} is recorded")
    if cost.column == "peak_memory_bytes" and "trainable_parameters" in rows:
        rows = rows[rows["trainable_parameters"] != 0]  # else it is the memory of making and scoring the model
    names, tasks = variant_names(points), rows["task"].nunique()
    looks = marks(points, roles)
    model = ["method", "variant"]
    seeds = rows.groupby([*model, "seed"]).agg(score=("score", "mean"), tasks=("task", "nunique"))
    table = seeds[seeds["tasks"] == tasks].groupby(model)["score"].agg(score="mean", deviation="std")
    costs = rows.groupby([*model, "task"])[cost.column].mean().groupby(model).agg(["mean", "count"])
    table["cost"] = costs["mean"][costs["count"] == tasks] / cost.unit
    table = table[table["cost"] > 0]
    if table.empty:
        raise Absent("no variant has a score on every task")
    table = table.reset_index()
    sizes = {method: {*zip(own["task"], own["parameters"], strict=True)} for method, own in rows.groupby("method")}
    table["drawn"] = [_drawn_as(method, roles, sizes) for method in table["method"]]
    present = [method for method in looks if method in set(table["drawn"])]
    figure, axes = canvas(len(present))
    labels: list[Label] = []
    for method in present:
        mark, group = looks[method], table[table["drawn"] == method].sort_values("cost")
        curves = [curve for _, curve in group.groupby("variant")] if group["method"].nunique() > 1 else [group]
        line = {"color": mark.colour, "linestyle": mark.line, "alpha": 0.5, "linewidth": 0.9}
        for curve in curves:
            axes.plot(curve["cost"], 100 * curve["score"], **line)
        axes.errorbar(
            group["cost"], 100 * group["score"], yerr=100 * group["deviation"].fillna(0), **mark.dots,
            markersize=8 if mark.marker == "*" else 5, elinewidth=0.8, capsize=1.5, zorder=4,
        )  # fmt: skip
        labels += [
            Label(
                row.cost,
                100 * row.score,
                names[method, row.variant] if row.method == method else row.method.removeprefix(f"{method}-"),
                mark.colour,
            )
            for row in group.itertuples()
        ]
    axes.set_xscale("log")
    axes.set_xlim(table["cost"].min() / 1.12, table["cost"].max() * 1.12)
    count_axis(axes.xaxis)
    axes.set_xlabel(cost.title)
    axes.set_ylabel("mean score × 100")
    axes.set_title(f"Full depth, mean of {tasks} task{'s' * (tasks > 1)}", loc="left")
    legend_below(figure, [handle(looks[method]) for method in present], columns=5 if len(present) > FEW else 3)
    edges = [table["score"] + share * table["deviation"].fillna(0) for share in np.linspace(-1, 1, 9)]
    place(axes, labels, np.vstack([np.column_stack([table["cost"], 100 * edge]) for edge in edges]))
    return figure


def _drawn_as(method: str, roles: Roles, sizes: Mapping[str, Set[tuple[str, float]]]) -> str:
    """Return the contestant whose mark a contestant has: the one that it is like, if its models have the same sizes.

    Args:
        method: The contestant.
        roles: The roles of the methods.
        sizes: Map from contestant to the task and number of parameters of each of its models.
    """
    other = roles.likes.get(method)
    if other is None or other not in sizes or not sizes[method] <= sizes[other]:
        return method
    return _drawn_as(other, roles, sizes)
