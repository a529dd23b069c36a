"""All tables, figures and the results page of a profile, in one go."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from bench.choosing.roles import Roles
from bench.errors import UserError
from bench.reporting.published import for_figures, read_published
from bench.reporting.tables import tables
from bench.runs.plan import Planned, runs
from bench.settings import Settings
from bench.store import read_json, run_folder


def read_points(settings: Settings) -> pd.DataFrame:
    """all-points.parquet of the profile. Raises UserError where it is not there yet."""
    path = settings.root / "all-points.parquet"
    if not path.is_file():
        raise UserError(f"{path} is not there yet; run the workflow (snakemake --cores all) first")
    return pd.read_parquet(path)


def write_everything(settings: Settings) -> Iterator[str]:
    """Writes <root>/{tables,figures,index.html}; yields what was left out and why, then what was written."""
    from bench.reporting import figures, page  # seconds of imports that `costeff compare` need not wait for

    points = read_points(settings)
    missing = {planned.key.task: _missing(settings, planned) for planned in runs(settings)}
    roles = Roles(settings.reference, settings.depth_reference, settings.ablations)
    # Published points stand beside measured ones only where text and backbone are the papers'.
    papers = settings.data.source != "sketch" and "bert-base-uncased" in settings.backbone.name
    folders = {name: settings.root / name for name in ("sweeps", "runs")}
    made = tables(points, roles, missing=missing, comparison=settings.comparison, **folders)
    for table in made:
        table.write(settings.root / "tables")
    for left_out in figures.write_all(
        points, settings.root, roles, published=for_figures(read_published()) if papers else None
    ):
        yield f"no figure {left_out.name}: {left_out.reason}"
    written = page.write(points, settings.root, made, roles, missing=missing)
    yield f"wrote tables, figures and {written}"


def _missing(settings: Settings, planned: Planned) -> list[str]:
    return read_json(run_folder(settings, planned.key) / "run.json").get("data", {}).get("missing_splits", [])
