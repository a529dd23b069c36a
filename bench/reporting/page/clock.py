"""Points of the chooser at a budget in milliseconds, and what was measured.

Latency is measured for the first seed only; the speed-up of another seed's point is estimated as the measured one,
times the ratio of their speed-ups in FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.budgets import POINT, TOLERANCE, timed_points
from bench.analysis.comparing.resampling import Point, records
from bench.analysis.comparing.seeds import geometric


def noise_floor(times: pd.DataFrame) -> float:
    """Return the smallest measured speed-up that counts as 1x: the lower noise floor of the latency table.

    It is at most 1 - `TOLERANCE`.

    Args:
        times: latency.parquet; it may be empty.
    """
    floors = times.loc[times["batch_size"] == 1, "noise_low"] if "noise_low" in times else pd.Series(dtype=float)
    return float(np.nanmin([1 - TOLERANCE, *floors]))


def fast_enough(chosen: Mapping[float, pd.DataFrame], budget: float, noise: float) -> pd.DataFrame:
    """Return the points of each method and task, for all seeds, whose measured speed-up reaches a budget.

    Of the FLOPs budgets where all seeds are fast enough, the smallest is taken, which has the best score on the
    selection split.

    Args:
        chosen: Map from FLOPs budget to its rows of `at_budget`.
        budget: The measured speed-up to reach, less `TOLERANCE`.
        noise: Speed-up that counts as 1x.
    """
    rows = _timed(chosen)
    rows = rows[rows["measured"] >= (noise if budget == 1 else budget * (1 - TOLERANCE))]
    return rows[rows["budget"] == rows.groupby(["method", "task"])["budget"].transform("min")]


def fastest(chosen: Mapping[float, pd.DataFrame]) -> dict[tuple[str, str], float]:
    """Map method and task to the largest measured speed-up that all seeds reach; NaN if none was timed."""
    return _timed(chosen).groupby(["method", "task"])["measured"].max().to_dict()


def _timed(chosen: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all FLOPs budgets with `measured`, the measured speed-up of the slowest seed."""
    rows = pd.concat(chosen.values(), ignore_index=True)
    groups = [rows[name] for name in ("method", "task", "budget")]
    known, calculated = rows["latency_1"].astype(float), rows["speedup"].astype(float)
    estimated = calculated * (known / calculated).groupby(groups).transform(geometric)
    return rows.assign(measured=known.fillna(estimated).groupby(groups).transform("min"))


def clock_note(noise: float) -> str:
    """Return a note on budgets in milliseconds."""
    return (
        "Time is measured for the first seed only, at batch size 1; for the other seeds it is estimated in proportion "
        "to FLOPs. Each method has the points chosen at the smallest budget in FLOPs where every seed is fast enough; "
        "scores, intervals and verdicts are those of these points for all seeds. Measured times vary: a measured "
        f"speed-up of {noise:.2f} or more counts as 1×."
    )


def milliseconds_of(points: pd.DataFrame, times: pd.DataFrame) -> dict[tuple[Any, ...], float]:
    """Map each timed point to its milliseconds per example at batch size 1."""
    return {key(row): float(row["milliseconds"]) for row in records(timed_points(points, times))}


def key(row: Point) -> tuple[Any, ...]:
    """Return what identifies an operating point."""
    return tuple(row[name] for name in POINT)
