"""All tables, figures and the results page of a profile."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from bench.analysis.budgets import has_traces
from bench.analysis.metrics import METRICS
from bench.analysis.roles import Roles
from bench.names import FINDINGS
from bench.reporting import figures
from bench.reporting.findings import findings, sources_of
from bench.reporting.page import document
from bench.reporting.page.chooser import chooser
from bench.reporting.published import for_figures, read_published
from bench.reporting.tables import evidence_of, tables
from bench.settings import Settings
from bench.store import read_json, read_parquet_if_there, read_points
from bench.tasks.catalogue import tasks_of

_COLUMNS = (
    "kind", "point", "policy", "threshold", "thresholds", "exit", "split", "score", "metric", *METRICS, "examples",
    "flops", "flops_128", "speedup", "speedup_128", "mean_exit", "mean_layers", "exits", "parameters",
    "parameters_encoder", "on_frontier",
)  # fmt: skip


def complete(points: pd.DataFrame) -> pd.DataFrame:
    """Return `points` with all columns of an operating point; those missing because all runs failed are empty."""
    return points.reindex(columns=[*points, *(name for name in _COLUMNS if name not in points)])


def write_everything(settings: Settings) -> Iterator[str]:
    """Write <root>/{tables,figures,index.html}; yield messages on figures left out, then on the files written."""
    # Thousands of small frames are created here; Python strings take 2/3 of the time of Arrow strings.
    with pd.option_context("mode.string_storage", "python"):
        yield from _written(settings)


def _written(settings: Settings) -> Iterator[str]:
    points, missing = complete(read_points(settings)), _missing_splits(settings)
    likes = {name: entry.like for name, entry in settings.contestants.items() if entry.like}
    roles = Roles(settings.reference, settings.depth_reference, settings.ablations, likes)
    # Published points are shown with measured ones only if text and backbone are those of the papers.
    papers = settings.data.source != "sketch" and "bert-base-uncased" in settings.backbone.name
    sweeps, runs = settings.root / "sweeps", settings.root / "runs"
    times = read_parquet_if_there(settings.root / "latency.parquet")
    published = for_figures(read_published()) if papers else None
    # Figures are drawn while the tables are made.
    comparison = settings.comparison
    drawing = figures.begin(points, settings.root, roles, published=published, comparison=comparison, times=times)
    evidence = evidence_of(points, runs, comparison)
    made = tables(
        points,
        roles,
        missing=missing,
        sweeps=sweeps,
        runs=runs,
        times=times,
        evidence=evidence,
        glue_caps=settings.glue_caps,
    )
    for table in made:
        table.write(settings.root / "tables")
    declared = comparison.primary.contestant
    sources = sources_of(declared, runs) if declared else set()
    found = findings(points, made, roles, contestant=declared, sources=sources, level=comparison.level)
    (settings.root / FINDINGS).write_text("\n".join(found) + "\n", encoding="utf-8")
    skipped = drawing()
    yield from (f"no figure {each.name}: {each.reason}" for each in skipped)
    known = tasks_of(settings.own_tasks)
    choice = chooser(points[has_traces(points)], roles, evidence, known, times) if evidence else None
    written = document.write(points, settings.root, made, roles, missing=missing, skipped=skipped, choice=choice)
    yield f"wrote tables, figures and {written}"


def _missing_splits(settings: Settings) -> dict[str, list[str]]:
    """Map each task to the splits that its source does not have, according to its runs."""
    facts = [read_json(path, "status") for path in sorted(settings.root.glob("runs/*/*/*/*/run.json"))]
    return {run["key"]["task"]: run["data"]["missing_splits"] for run in facts if "data" in run}
