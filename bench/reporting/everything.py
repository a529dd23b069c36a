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


def write_everything(settings: Settings) -> Iterator[str]:
    """Writes <root>/{tables,figures,index.html}; yields what was left out and why, then what was written."""
    points = read_points(settings)
    missing = {planned.key.task: _missing(settings, planned) for planned in runs(settings)}
    roles = Roles(settings.reference, settings.depth_reference, settings.ablations)
    # Published points stand beside measured ones only where text and backbone are the papers'.
    papers = settings.data.source != "sketch" and "bert-base-uncased" in settings.backbone.name
    made = tables(points, roles, missing=missing, sweeps=settings.root / "sweeps")
    for table in made:
        table.write(settings.root / "tables")
    for left_out in figures.write_all(points, settings.root, roles, published=read_published() if papers else None):
        yield f"no figure {left_out.name}: {left_out.reason}"
    written = page.write(points, settings.root, made, roles, missing=missing)
    yield f"wrote tables, figures and {written}"


def _missing(settings: Settings, planned: Planned) -> list[str]:
    return read_json(run_folder(settings, planned.key) / "run.json").get("data", {}).get("missing_splits", [])
