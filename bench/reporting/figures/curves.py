"""The lines and bands of the frontiers, without any drawing.

A method's frontier on a task is what was chosen on the selection split, read on another: its points are not
filtered again there, so it may go down, and line and band have the same points.
"""

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.budgets import POINT, TOLERANCE, chosen_frontier, predicted, run_folder, selection_split
from bench.analysis.comparing.resampling import resampled
from bench.analysis.roles import Roles
from bench.errors import UserError
from bench.reporting.figures.drawing import Absent
from bench.trace import Trace

Floats = NDArray[np.float64]
RESAMPLES = 500
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


class Resamples:
    """Scores of operating points on bootstrap resamples of the examples, made once for all figures.

    runs: results/<profile>/runs. All points of a task share its resamples; those of two tasks are independent.
    """

    def __init__(self, runs: Path | None, resamples: int = RESAMPLES) -> None:
        self.runs, self.resamples = runs, resamples
        self._known: dict[tuple, Floats] = {}

    def scores(self, rows: pd.DataFrame) -> Floats | None:
        """[R, P] of P operating points of one task, method and seed; None where the traces were not kept."""
        if self.runs is None:
            return None
        keys = list(rows[[*POINT, "split"]].itertuples(index=False, name=None))
        missing = rows[[key not in self._known for key in keys]].drop_duplicates(POINT)
        if len(missing):
            try:
                made = self._made(missing, self.runs)
            except UserError:
                return None
            named = missing[[*POINT, "split"]].itertuples(index=False, name=None)
            self._known.update(zip(named, made.T, strict=True))
        return np.column_stack([self._known[key] for key in keys])

    def _made(self, rows: pd.DataFrame, runs: Path) -> Floats:
        traces: dict[Path, Trace] = {}
        answers = []
        for _, row in rows.iterrows():
            path = run_folder(row, runs) / f"trace-{row['split']}.parquet"
            trace = traces[path] = traces.get(path) or Trace.load(path)
            answers.append(predicted(row, trace))
        labels = next(iter(traces.values())).labels
        seed = crc32(str(rows["task"].iloc[0]).encode())
        return resampled(str(rows["metric"].iloc[0]), answers, labels, resamples=self.resamples, seed=seed)


def is_constant(rows: pd.DataFrame) -> pd.Series:
    """Which rows give every example the same answer; tables of earlier versions do not say, so none."""
    if "constant" not in rows:
        return pd.Series(False, index=rows.index)
    return rows["constant"].eq(True)


def task_curve(rows: pd.DataFrame, resamples: Resamples) -> Curve:
    """The frontier of one method on one task, from the rows of `chosen_frontier` of all its seeds.

    At each cost a seed has the score of its dearest chosen point within that cost; the curve is the mean over
    seeds, from where every seed has a point. Band: with several seeds one sample deviation over them to either
    side; with one seed 95 % of a bootstrap over examples.
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
    mean = scores.mean(axis=0)
    low = high = np.full(len(mean), np.nan)
    if len(groups) > 1:
        deviation = scores.std(axis=0, ddof=1)
        low, high = mean - deviation, mean + deviation
    elif (drawn := resamples.scores(groups[0])) is not None:
        low, high = np.percentile(drawn[:, at[0]], [2.5, 97.5], axis=0)
    return Curve(costs, mean, low, high, np.asarray(constant.all(axis=0)), len(groups))


def average_curves(
    points: pd.DataFrame, roles: Roles, *, split: str = "validation", resamples: Resamples | None = None
) -> pd.DataFrame:
    """The score of each method averaged over all tasks at matched speed-ups, one row a (method, budget).

    At each budget every task gives the score of the point that `at_budget` chooses there, mean over seeds. A
    method has a row only where it has a point on every task. Columns: method, budget, score, speedup and
    speedup_128 (what the chosen points reach on `split`, harmonic means), the means over tasks of mean_exit,
    parameters, flops and flops_128, constant (the share of tasks whose point answers all alike), low and high.

    low to high: where every task has several seeds, one deviation to either side of the mean that one run of each
    task would have (the root of the summed squares of the tasks' deviations, over their number); else 95 % of a
    bootstrap over the examples of each task where `resamples` has the traces; else NaN. Raises Absent where no
    point has a known speed-up.
    """
    rows = _at_budgets(points, roles, split)
    rows = rows.assign(share=1 / rows["speedup"], share_128=1 / rows["speedup_128"], constant=is_constant(rows))
    values = ["score", "mean_exit", "parameters", "flops", "flops_128", "share", "share_128", "constant"]
    by_task = rows.groupby(["method", "budget", "task"])
    means = by_task[values].mean().join(by_task["score"].std(ddof=1).pow(2).rename("variance"))
    grouped = means.groupby(["method", "budget"])
    tasks = roles.contestants(points)["task"].nunique()
    # One seed on any task: its deviation is unknown, and so is the sum.
    deviation = grouped["variance"].sum(min_count=tasks).pow(0.5) / tasks
    table = grouped[values].mean()[grouped.size() == tasks]
    table["low"], table["high"] = table["score"] - deviation, table["score"] + deviation
    if resamples is not None:
        lacking = table[table["low"].isna()].index.unique("method")
        for method in lacking:
            bands = _bands(rows[rows["method"] == method], resamples)
            if bands is not None:
                own = table.index[(table.index.get_level_values("method") == method) & table["low"].isna()]
                table.loc[own, ["low", "high"]] = bands.loc[own.get_level_values("budget")].to_numpy()
    table = table.reset_index()
    return table.assign(speedup=1 / table.pop("share"), speedup_128=1 / table.pop("share_128"))


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


def _bands(rows: pd.DataFrame, resamples: Resamples) -> pd.DataFrame | None:
    """low and high by budget of one method's mean over tasks; None where a trace was not kept."""
    by_task: dict[str, pd.DataFrame] = {}
    for task, of_task in rows.groupby("task"):
        seeds = []
        for _, of_seed in of_task.groupby("seed"):
            scores = resamples.scores(of_seed)
            if scores is None:
                return None
            seeds.append(pd.DataFrame(scores.T, index=of_seed["budget"].to_numpy()))
        by_task[str(task)] = pd.concat(seeds).groupby(level=0).mean()
    mean = pd.concat(by_task.values()).groupby(level=0).mean()
    low, high = np.percentile(mean.to_numpy(), [2.5, 97.5], axis=1)
    return pd.DataFrame({"low": low, "high": high}, index=mean.index)
