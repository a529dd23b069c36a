"""Every table of a profile, drawn from all-points.parquet and written as CSV, Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bench.reporting.tables.details import ablations as ablation_table
from bench.reporting.tables.details import frontier, per_exit, ratios, thresholds
from bench.reporting.tables.main import common_notes, main, paper
from bench.reporting.tables.table import Table

__all__ = ["Table", "tables", "write_all"]


def tables(
    points: pd.DataFrame,
    *,
    ablations: Mapping[str, str] | None = None,
    reference: str = "teacher",
    depth_reference: str | None = "cut",
    missing: Mapping[str, Sequence[str]] | None = None,
    sweeps: Path | None = None,
) -> list[Table]:
    """All tables of one profile.

    points: all-points.parquet. ablations: ablation -> the full method, by contestant name. missing: task ->
    the splits that its source does not have. sweeps: results/<profile>/sweeps.
    """
    ablated, notes = dict(ablations or {}), common_notes(points, missing or {})
    made = [
        main(points, notes, ablations=ablated, reference=reference),
        paper(points, notes),
        frontier(points, notes, reference=reference, depth_reference=depth_reference),
        per_exit(points, notes),
        thresholds(points, notes),
    ]
    if ablated:
        made.append(ablation_table(points, notes, ablations=ablated))
    trials = ratios(sweeps, notes) if sweeps else None
    return [*made, trials] if trials else made


def write_all(
    points: pd.DataFrame,
    out_dir: Path,
    *,
    ablations: Mapping[str, str] | None = None,
    reference: str = "teacher",
    depth_reference: str | None = "cut",
    missing: Mapping[str, Sequence[str]] | None = None,
    sweeps: Path | None = None,
) -> list[Path]:
    """Write every table (see `tables`) as <out_dir>/<name>.csv, .md and .tex; returns the files."""
    made = tables(
        points,
        ablations=ablations,
        reference=reference,
        depth_reference=depth_reference,
        missing=missing,
        sweeps=sweeps,
    )
    return [path for table in made for path in table.write(out_dir)]
