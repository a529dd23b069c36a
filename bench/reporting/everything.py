"""All tables, figures and the results page of a profile, in one go."""

from __future__ import annotations

from collections.abc import Iterator

from bench.choosing.roles import Roles
from bench.reporting import figures, page
from bench.reporting.published import read_published
from bench.reporting.tables import tables
from bench.runs.plan import Planned, runs
from bench.settings import Settings
from bench.store import read_json, read_points, run_folder

_COLUMNS = (
    "kind", "point", "policy", "knob", "thresholds", "exit", "split", "score", "metric", "matthews", "accuracy", "f1",
    "pearson", "spearman", "examples", "flops", "flops_128", "speedup", "speedup_128", "mean_exit", "mean_layers",
    "exits", "parameters", "parameters_encoder", "on_frontier",
)  # fmt: skip


def complete(points: pd.DataFrame) -> pd.DataFrame:
    """`points` with every column of an operating point, empty where nothing was measured: all runs may have failed."""
    return points.reindex(columns=[*points, *(name for name in _COLUMNS if name not in points)])


def write_everything(settings: Settings) -> Iterator[str]:
    """Writes <root>/{tables,figures,index.html}; yields what was left out and why, then what was written."""
    points = complete(read_points(settings))
    missing = {planned.key.task: _missing(settings, planned) for planned in runs(settings)}
    roles = Roles(settings.reference, settings.depth_reference, settings.ablations)
    # Published points stand beside measured ones only where text and backbone are the papers'.
    papers = settings.data.source != "sketch" and "bert-base-uncased" in settings.backbone.name
    made = tables(points, roles, missing=missing, sweeps=settings.root / "sweeps")
    for table in made:
        table.write(settings.root / "tables")
    skipped = figures.write_all(points, settings.root, roles, published=read_published() if papers else None)
    yield from (f"no figure {each.name}: {each.reason}" for each in skipped)
    written = page.write(points, settings.root, made, roles, missing=missing, skipped=skipped)
    yield f"wrote tables, figures and {written}"


def _missing(settings: Settings, planned: Planned) -> list[str]:
    return read_json(run_folder(settings, planned.key) / "run.json").get("data", {}).get("missing_splits", [])
