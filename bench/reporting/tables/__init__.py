"""Tables of a profile, made from all-points.parquet, as CSV, Markdown and LaTeX.

Functions that make a table share these arguments: `points`, all operating points; `notes`, the notes below every table;
`roles`, the roles of the methods; `evidence`, the resamples and settings of comparisons, or None without traces.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bench.analysis.budgets import POINT, has_traces, timed_points
from bench.analysis.comparing.resampling import resamples_of
from bench.analysis.roles import Roles
from bench.reporting.tables.comparisons import ablations, verdicts
from bench.reporting.tables.costs import latency, storage, training
from bench.reporting.tables.details import per_exit, ratios, thresholds
from bench.reporting.tables.format.table import Table
from bench.reporting.tables.main import MISMATCHED, Evidence, main
from bench.reporting.tables.notes import common_notes
from bench.reporting.tables.paper import paper
from bench.reporting.tables.replayed import policies, portfolio
from bench.reporting.tables.summaries import frontier, quality, rankings, summary
from bench.settings import Comparison
from bench.tasks.catalogue import TASKS

__all__ = ["Table", "evidence_of", "tables"]


def tables(
    points: pd.DataFrame,
    roles: Roles,
    *,
    missing: Mapping[str, Sequence[str]] | None = None,
    sweeps: Path | None = None,
    runs: Path | None = None,
    times: pd.DataFrame | None = None,
    comparison: Comparison | None = None,
    glue_caps: Mapping[str, str] | None = None,
    evidence: Evidence | None = None,
) -> list[Table]:
    """Return all tables of one profile; the one of published numbers only if a task has the name of a GLUE task.

    Args:
        points: All operating points.
        roles: The roles of the methods.
        missing: Map from task to the splits that its source does not have.
        sweeps: results/<profile>/sweeps.
        runs: results/<profile>/runs. Without traces differences have no intervals.
        times: latency.parquet; None or empty if nothing was measured.
        comparison: Settings of comparisons.
        glue_caps: `Settings.glue_caps`. The text of tasks that are not in it is not that of GLUE.
        evidence: Resamples to share with other parts of the report. Default: made from `runs` and `comparison`.
    """
    points = points.reindex(columns=list(dict.fromkeys([*points, *_NEEDED])))
    times = pd.DataFrame() if times is None else times
    timed = timed_points(points, times).drop_duplicates(POINT)
    points = points.merge(timed[[*POINT, "milliseconds"]], on=POINT, how="left")
    notes = common_notes(points, missing or {})
    evidence = evidence or evidence_of(points, runs, comparison or Comparison())
    traced = points[has_traces(points)] if evidence else points
    made = [
        summary(traced, notes, roles, evidence),
        main(points, notes, roles, evidence=evidence),
        verdicts(traced, notes, roles, evidence),
        *([rankings(traced, notes, roles, evidence)] if evidence else []),
        *([paper(points, notes, glue_caps or {})] if points["task"].isin(list(TASKS)).any() else []),
        frontier(points, notes, roles),
        quality(points, notes, roles),
        per_exit(points, notes),
        thresholds(points, notes),
        *([cost] if (cost := training(points, notes, roles)) else []),
        *([sizes] if (sizes := storage(points, notes)) else []),
        *([speed] if (speed := latency(points, notes, roles, times)) else []),
    ]
    if evidence and runs:
        made += [policies(traced, notes, roles, runs), portfolio(traced, notes, roles, evidence)]
    if roles.ablations:
        made.append(ablations(traced, notes, roles.ablations, evidence))
    trials = ratios(sweeps, notes) if sweeps else None
    return [*made, trials] if trials else made


def evidence_of(points: pd.DataFrame, runs: Path | None, comparison: Comparison) -> Evidence | None:
    """Return the resamples of a profile, which read traces on demand; None without traces."""
    if runs is None or not any(runs.glob("*/*/*/*/trace-validation.parquet")):
        return None
    splits = ("validation", MISMATCHED)
    return Evidence(comparison, {split: resamples_of(points, runs, comparison, split=split) for split in splits})


# Columns that are missing if all runs failed.
_NEEDED = (
    *("task", "method", "variant", "label", "seed", "status", "reason", "profile", "source", "selection"),
    *("split", "kind", "point", "policy", "threshold", "thresholds", "exit", "score", "metric", "examples", "constant"),
    *("flops", "flops_128", "speedup", "speedup_128", "parameters", "latency_1", "latency_32"),
    *("promised_1", "promised_32"),
)
