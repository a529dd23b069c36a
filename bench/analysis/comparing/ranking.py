"""Rankings of methods at a speed-up, with intervals of ranks.

The interval of a method's rank among M methods starts at 1 + the number of methods that are better and ends at M - the
number of methods that are worse, according to tests of all pairs with a joint correction (Mogstad, Romano, Shaikh and
Wilhelm, Inference for ranks, 2024). The confidence level holds for all intervals of a ranking together. A method whose
interval starts at 1 is tied with the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.comparing.equivalence import classify_differences
from bench.analysis.comparing.estimates import Estimate, average
from bench.analysis.comparing.resampling import Point, Resamples
from bench.analysis.comparing.seeds import geometric
from bench.analysis.comparing.verdicts import chosen_points, estimate, gaps, interquartile_mean, mean_estimate, scored
from bench.errors import UserError
from bench.settings import Comparison

COLUMNS = [
    "budget",
    "scope",
    "method",
    "score",
    "low",
    "high",
    "iqm",
    "speedup",
    "wins",
    "rank",
    "best",
    "worst",
    "tied",
]


def ranking(
    points: pd.DataFrame,
    resamples: Resamples,
    comparison: Comparison,
    *,
    budgets: Sequence[float],
    scopes: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Rank the methods that have a point on every task of a scope, at each budget, by their score on validation.

    Args:
        points: Operating points of the methods to rank.
        resamples: Resampled scores of the operating points.
        comparison: Settings with the confidence level.
        budgets: Speed-ups over the reference. Each method has the best point that is chosen on the selection split.
        scopes: Map from the name of a set of tasks to the tasks.

    Returns:
        One row per budget, scope and method, best first. Columns: budget, scope, method, score (mean over seeds, then
        tasks), low and high (interval of the score), iqm (interquartile mean over tasks and seeds), speedup (geometric
        mean), wins (share of other methods, tasks and seeds with a lower score; ties count half), rank (by score), best
        and worst (interval of the rank), tied (with the best).
    """
    lines: list[dict[str, Any]] = []
    for budget in budgets:
        chosen = chosen_points(points, budget)
        resamples.prepare(row for tasks in chosen.values() for rows in tasks.values() for row in rows)
        for scope, tasks in scopes.items():
            rivals = {m: {task: its[task] for task in tasks} for m, its in chosen.items() if set(tasks) <= set(its)}
            found = _ranked(rivals, resamples, comparison) if tasks else []
            lines += [{"budget": budget, "scope": scope, **line} for line in found]
    return pd.DataFrame(lines, columns=COLUMNS)


def _ranked(
    rivals: Mapping[str, Mapping[str, Sequence[Point]]], resamples: Resamples, comparison: Comparison
) -> list[dict[str, Any]]:
    """Return the rows of one ranking."""
    means = {
        method: average([mean_estimate(rows, resamples) for rows in tasks.values()]) for method, tasks in rivals.items()
    }
    pairs: list[tuple[str, str]] = []
    differences: list[Estimate | None] = []
    wins: dict[str, list[float]] = {method: [] for method in means}
    for a, b in combinations(means, 2):
        sides = [(rivals[a][task], rivals[b][task]) for task in rivals[a]]
        try:
            differences.append(average([estimate(one, two, resamples) for one, two in sides]))
        except UserError:  # no seed in common
            differences.append(None)
        pairs.append((a, b))
        for one, two in sides:
            if {row["seed"] for row in one} & {row["seed"] for row in two}:
                gap = gaps(one, two)[-1]
                won = (gap > 0) + 0.5 * (gap == 0)
                wins[a] += won.tolist()
                wins[b] += (1 - won).tolist()
    table = classify_differences(differences, comparison)
    significant = (table["p"] <= 1 - comparison.level).to_numpy()
    above = {method: 0 for method in means}
    below = dict(above)
    for (a, b), sure, gap in zip(pairs, significant, table["difference"], strict=True):
        if sure:
            better, worse = (a, b) if gap > 0 else (b, a)
            above[worse] += 1
            below[better] += 1
    lines = []
    for rank, method in enumerate(sorted(means, key=lambda name: -means[name].value), start=1):
        rows = [row for task in rivals[method].values() for row in scored(task)]
        low, high = means[method].interval(comparison.level)
        lines.append(
            {
                "method": method,
                "score": means[method].value,
                "low": low,
                "high": high,
                "iqm": interquartile_mean(np.array([row["score"] for row in rows], dtype=np.float64)),
                "speedup": geometric([geometric([row["speedup"] for row in task]) for task in rivals[method].values()]),
                "wins": float(np.mean(wins[method])) if wins[method] else float("nan"),
                "rank": rank,
                "best": 1 + above[method],
                "worst": len(means) - below[method],
                "tied": above[method] == 0,
            }
        )
    return lines
