"""Lines and bands of the frontiers, without drawing.

Points are chosen on the selection split and read on another one. They are not filtered again there, so a line may go
down.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.budgets import POINT, TOLERANCE, chosen_frontier, selection_split
from bench.analysis.comparing.intervals import means
from bench.analysis.comparing.resampling import Floats, Point, Resamples, records
from bench.analysis.roles import Roles
from bench.reporting.figures.drawing import Absent

STEPS = 61
"""Budgets of the averaged frontier, from 1x to the fastest point."""


@dataclass(frozen=True)
class Curve:
    """The score of a method from each of P costs on, the lowest cost first; all arrays are [P]."""

    cost: Floats
    score: Floats
    low: Floats
    """Lower edge of the band; NaN without traces."""
    high: Floats
    constant: NDArray[np.bool_]
    """Whether the points of all seeds give every example the same answer."""
    model: NDArray[np.bool_]
    """Whether a point exists at this cost; elsewhere the curve holds the score of a lower cost."""


def is_constant(rows: pd.DataFrame) -> pd.Series:
    """Return which rows give every example the same answer; none in tables of early versions, which lack the column."""
    return rows["constant"].eq(True) if "constant" in rows else pd.Series(False, index=rows.index)


def task_curve(rows: pd.DataFrame, resamples: Resamples | None) -> Curve:
    """Return the frontier of one method on one task: the mean over seeds at each cost, and its band.

    Args:
        rows: rows of `chosen_frontier` of all seeds. At each cost a seed has the score of its most expensive point
            within that cost; the curve begins where every seed has a point.
        resamples: the resampled scores; None gives no band.
    """
    rows = rows.dropna(subset=["score", "flops"])
    groups = [group.sort_values(["flops", "score"]) for _, group in rows.groupby("seed")]
    if not groups:
        return Curve(*(np.array([]),) * 4, *(np.array([], dtype=bool),) * 2)
    costs = np.unique(rows["flops"])
    costs = costs[costs >= max(group["flops"].iloc[0] for group in groups)]
    at = [np.searchsorted(group["flops"], costs, side="right") - 1 for group in groups]
    constant = [is_constant(group).to_numpy()[i] for group, i in zip(groups, at, strict=True)]
    points = [records(group) for group in groups]
    sets = [[[points[seed][i] for seed, i in enumerate(each)]] for each in zip(*at, strict=True)]
    score, low, high = np.array(means(sets, resamples)).reshape(-1, 3).T
    return Curve(costs, score, low, high, np.all(constant, axis=0), np.ones(len(costs), dtype=bool))


def average_curves(
    points: pd.DataFrame, roles: Roles, *, split: str = "validation", resamples: Resamples | None = None
) -> pd.DataFrame:
    """Return the score of each method averaged over all tasks at matched speed-ups, one row per method and budget.

    At each budget every task contributes the point that `at_budget` chooses there, averaged over seeds.

    Args:
        points: all-points.parquet.
        roles: the roles of the profile's methods.
        split: the split whose scores are read.
        resamples: the resampled scores; None gives no band.

    Returns:
        Columns method, budget, score, speedup and speedup_128 (geometric means of what the points reach on
        `split`), the means over tasks of mean_exit, parameters, flops and flops_128, constant (share of tasks whose
        point answers all alike), low and high (the interval of the tables, NaN without traces), and model: whether a
        task's point differs from that of the next larger budget. A method has rows only where it has a point on every
        task, and none for budgets below the smallest at which `model` holds: it has no model there.

    Raises:
        Absent: where no point has a known speed-up.
    """
    rows = _at_budgets(points, roles, split)
    rows = rows.assign(
        log_speedup=np.log(rows["speedup"]), log_speedup_128=np.log(rows["speedup_128"]), constant=is_constant(rows)
    )
    rows["chosen"] = pd.util.hash_pandas_object(rows[POINT], index=False)
    values = ["score", "mean_exit", "parameters", "flops", "flops_128", "log_speedup", "log_speedup_128", "constant"]
    key = ["method", "budget"]
    tasks = rows.groupby([*key, "task"])[values].mean().groupby(key)
    table = tasks.mean()[tasks.size() == roles.contestants(points)["task"].nunique()]
    chosen = rows.groupby(key)["chosen"].sum().loc[table.index].groupby("method")
    table["model"] = chosen.transform(lambda sums: sums != sums.shift(-1)).astype(bool)
    table = table.reset_index()
    table = table[table["budget"] >= table["budget"].where(table["model"]).groupby(table["method"]).transform("min")]
    sets: dict[tuple[str, float], dict[str, list[Point]]] = {}
    for row in records(rows.sort_values("seed")):
        sets.setdefault((row["method"], row["budget"]), {}).setdefault(row["task"], []).append(row)
    chosen_points = [
        list(sets[method, budget].values()) for method, budget in zip(table["method"], table["budget"], strict=True)
    ]
    bands = np.array(means(chosen_points, resamples)).reshape(-1, 3)
    table = table.assign(low=bands[:, 1], high=bands[:, 2])
    return table.assign(
        speedup=np.exp(table.pop("log_speedup")), speedup_128=np.exp(table.pop("log_speedup_128"))
    ).reset_index(drop=True)


def _at_budgets(points: pd.DataFrame, roles: Roles, split: str) -> pd.DataFrame:
    """Return the operating point of each (task, method, seed) at each budget that it can meet, as on `split`."""
    shown = roles.contestants(points)
    run = ["task", "method", "seed"]
    chosen = chosen_frontier(shown, split=selection_split(points))[[*POINT, "speedup"]]
    chosen = chosen.rename(columns={"speedup": "reached"}).dropna(subset=["reached"])
    rows = chosen.merge(chosen_frontier(shown, split=split).dropna(subset=["score"]), on=POINT)
    if rows.empty:
        raise Absent("no operating point with a known speed-up")
    budgets = np.geomspace(1.0, max(float(rows["reached"].max()), 1.01), STEPS)
    # Scores rise along a frontier as speed-ups fall, so the best within a budget is the slowest that meets it.
    wanted = rows[run].drop_duplicates().merge(pd.DataFrame({"budget": budgets}), how="cross")
    wanted["least"] = wanted["budget"] * (1 - TOLERANCE)
    return pd.merge_asof(
        wanted.sort_values("least"), rows.sort_values("reached"), left_on="least", right_on="reached", by=run,
        direction="forward",
    ).dropna(subset=["score"])  # fmt: skip
