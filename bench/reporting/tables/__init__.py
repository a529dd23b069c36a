"""Every table of a profile, drawn from all-points.parquet for CSV, Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bench.choosing.roles import Roles
from bench.reporting.tables.details import ablations as ablation_table
from bench.reporting.tables.details import frontier, per_exit, ratios, thresholds
from bench.reporting.tables.main import common_notes, main, paper
from bench.reporting.tables.table import Table

__all__ = ["Table", "tables"]


def tables(
    points: pd.DataFrame,
    roles: Roles,
    *,
    missing: Mapping[str, Sequence[str]] | None = None,
    sweeps: Path | None = None,
) -> list[Table]:
    """All tables of one profile.

    points: all-points.parquet. missing: task -> the splits that its source does not have. sweeps:
    results/<profile>/sweeps.
    """
    notes = common_notes(points, missing or {})
    made = [
        main(points, notes, roles),
        paper(points, notes),
        frontier(points, notes, roles),
        per_exit(points, notes),
        thresholds(points, notes),
    ]
    if roles.ablations:
        made.append(ablation_table(points, notes, roles.ablations))
    trials = ratios(sweeps, notes) if sweeps else None
    return [*made, trials] if trials else made
