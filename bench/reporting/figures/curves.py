"""The lines and bands of the frontiers, without any drawing.

A method's frontier on a task is what was chosen on the selection split, read on another: its points are not
filtered again there, so it may go down, and line and band have the same points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.budgets import POINT, TOLERANCE, chosen_frontier, selection_split
from bench.analysis.comparing.estimates import Estimate, average, bounds, spread
from bench.analysis.comparing.resampling import Floats, Point, Resamples, records
from bench.analysis.roles import Roles
from bench.errors import UserError
from bench.reporting.figures.drawing import Absent

# Budgets of the averaged frontier, from 1x to the fastest point.
STEPS = 61


@dataclass(frozen=True)
class Curve:
    """A staircase [P], cheapest first: what score a method has from each cost on."""

    cost: Floats
    score: Floats
    low: Floats
    """Lower edge of the band; NaN where nothing is known of the spread."""
    high: Floats
    constant: NDArray[np.bool_]
    """Where every seed's point gives all examples the same answer."""
    seeds: int


def is_constant(rows: pd.DataFrame) -> pd.Series:
    """Which rows give every example the same answer; tables of earlier versions do not say, so none."""
    if "constant" not in rows:
        return pd.Series(False, index=rows.index)
    return rows["constant"].eq(True)


def task_curve(rows: pd.DataFrame, resamples: Resamples | None) -> Curve:
    """The frontier of one method on one task, from the rows of `chosen_frontier` of all its seeds.

    At each cost a seed has the score of its dearest chosen point within that cost; the curve is the mean over
    seeds, from where every seed has a point. Band: the interval of that mean over seeds and examples, as in
    `bench.analysis.comparing.estimates`; NaN without the traces.
    """
    rows = rows.dropna(subset=["score", "flops"])
    groups = [group.sort_values(["flops", "score"]) for _, group in rows.groupby("seed")]
    if not groups:
        return Curve(*(np.array([]),) * 4, np.array([], dtype=bool), 0)
    costs = np.unique(rows["flops"])
    costs = costs[costs >= max(group["flops"].iloc[0] for group in groups)]
    at = [np.searchsorted(group["flops"], costs, side="right") - 1 for group in groups]
    scores = np.stack([group["score"].to_numpy(float)[i] for group, i in zip(groups, at, strict=True)])
    constant = np.stack([is_constant(group).to_numpy()[i] for group, i in zip(groups, at, strict=True)])
    points = [records(group) for group in groups]
    chosen = [[points[seed][i] for seed, i in enumerate(each)] for each in zip(*at, strict=True)]
    bands = _bands([[mean] for mean in _means(chosen, resamples)], len(costs), resamples)
    return Curve(costs, scores.mean(axis=0), *bands, np.asarray(constant.all(axis=0)), len(groups))


def _means(chosen: Sequence[Sequence[Point]], resamples: Resamples | None) -> list[Estimate]:
    """The mean over seeds of each set of points of one task, which differ in their seed; [] without their traces."""
    if resamples is None:
        return []
    try:
        resamples.prepare(row for rows in chosen for row in rows)
        made = []
        for rows in chosen:
            drawn = resamples.of(rows)
            first, limits = rows[0], bounds(rows[0]["metric"], difference=False)
            scores = np.array([row["score"] for row in rows], dtype=np.float64)
            noise = resamples.noise.get(first["task"], 0.0)
            made.append(spread(scores, drawn, int(first["examples"]), bounds=limits, noise=noise))
        return made
    except UserError:
        return []


def _bands(estimates: Sequence[Sequence[Estimate]], count: int, resamples: Resamples | None) -> tuple[Floats, Floats]:
    """Lower and upper edges [count] of means over tasks; NaN where there are no estimates."""
    if resamples is None or len(estimates) < count:
        return np.full(count, np.nan), np.full(count, np.nan)
    edges = np.array([average(tasks).interval(resamples.level) for tasks in estimates]).reshape(count, 2)
    return edges[:, 0], edges[:, 1]


def average_curves(
    points: pd.DataFrame, roles: Roles, *, split: str = "validation", resamples: Resamples | None = None
) -> pd.DataFrame:
    """The score of each method averaged over all tasks at matched speed-ups, one row a (method, budget).

    At each budget every task gives the score of the point that `at_budget` chooses there, mean over seeds. A
    method has a row only where it has a point on every task. Columns: method, budget, score, speedup and
    speedup_128 (what the chosen points reach on `split`, harmonic means), the means over tasks of mean_exit,
    parameters, flops and flops_128, constant (the share of tasks whose point answers all alike), low and high: the
    interval as in `task_curve`, NaN where a method's traces are missing. Raises Absent where no point has a known
    speed-up.
    """
    rows = _at_budgets(points, roles, split)
    rows = rows.assign(share=1 / rows["speedup"], share_128=1 / rows["speedup_128"], constant=is_constant(rows))
    values = ["score", "mean_exit", "parameters", "flops", "flops_128", "share", "share_128", "constant"]
    means = rows.groupby(["method", "budget", "task"])[values].mean()
    grouped = means.groupby(["method", "budget"])
    tasks = roles.contestants(points)["task"].nunique()
    table = grouped[values].mean()[grouped.size() == tasks].reset_index()
    edges = pd.DataFrame(np.nan, index=table.index, columns=["low", "high"])
    for method, of_method in table.groupby("method", sort=False):
        own = rows[(rows["method"] == method) & rows["budget"].isin(of_method["budget"])]
        by_task = [_means(_by_budget(of_task), resamples) for _, of_task in own.groupby("task")]
        # Budgets ascend in both; a task without traces leaves all of them without a band.
        estimates = list(zip(*by_task, strict=False))
        edges.loc[of_method.index] = np.column_stack(_bands(estimates, len(of_method), resamples))
    table = table.join(edges)
    return table.assign(speedup=1 / table.pop("share"), speedup_128=1 / table.pop("share_128"))


def _by_budget(rows: pd.DataFrame) -> list[list[Point]]:
    """The points of one method and task at each budget, cheapest last, one a seed."""
    found: dict[float, list[Point]] = {}
    for row in records(rows.sort_values(["budget", "seed"])):
        found.setdefault(row["budget"], []).append(row)
    return list(found.values())


def _at_budgets(points: pd.DataFrame, roles: Roles, split: str) -> pd.DataFrame:
    """The operating point of each (task, method, seed) at each budget that it can meet, as on `split`."""
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
    return pd.merge_asof(
        asked.sort_values("least"), rows.sort_values("reached"), left_on="least", right_on="reached", by=run,
        direction="forward",
    ).dropna(subset=["score"])  # fmt: skip
