"""The small tier of published results: chosen points without traces."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from bench.analysis.budgets import POINT, POINTS_ONLY, RUN, TIER, at_budget
from bench.store import RunKey, read_parquet

FILES = ("run.json", "costs.json")
"""Files of a run that are published with points only."""
_FACTS = {
    *("status", "reason", "again", "key", "identity", "asked", "where", "data", "backbone", "code", "hardware"),
    *("versions", "wall_seconds", "weights", "training", "restarts"),
}
"""Keys of `run.json` that are kept."""
_ALWAYS = ("static", "fixed_exit", "control")
BUDGETS = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 19.0)
"""Speed-ups at which the best point of each run is published; they include the budgets of all tables."""


def files_of(root: Path) -> list[Path]:
    """Return the files of a results folder that are published with points only; trials of studies have no points."""
    runs = [root / "runs" / path / name for path in runs_of(root) for name in FILES]
    return [root / "all-points.parquet", *(file for file in runs if file.is_file())]


def runs_of(root: Path) -> list[Path]:
    """Return the relative paths of the runs that have points in a results folder."""
    keys = read_parquet(root / "all-points.parquet")[RUN].drop_duplicates()
    return [RunKey(*key).path for key in keys.itertuples(index=False)]


def without_traces(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all-points.parquet that are published with points only.

    These are full depth, every fixed exit, the constant baseline, and the point of each run that `at_budget` chooses at
    each of `BUDGETS`. The exits of each example (column `exits_taken`) are left out.
    """
    chosen = pd.concat([at_budget(points, budget, by=tuple(RUN)) for budget in BUDGETS]).dropna(subset="score")
    kept = pd.MultiIndex.from_frame(points.reindex(columns=POINT)).isin(pd.MultiIndex.from_frame(chosen[POINT]))
    kept |= points["kind"].isin(_ALWAYS) | points["kind"].isna()  # a failed run has no kind
    return (
        points[kept].drop(columns="exits_taken", errors="ignore").assign(**{TIER: POINTS_ONLY}).reset_index(drop=True)
    )


def shortened(file: Path) -> str:
    """Return the content of a `run.json` or `costs.json` as compact JSON, with the keys that readers use."""
    values = json.loads(file.read_text(encoding="utf-8"))
    if file.name == "run.json":
        values = {name: value for name, value in values.items() if name in _FACTS}
    return json.dumps(values, separators=(",", ":"), sort_keys=True) + "\n"
