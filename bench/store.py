"""Where results lie, and how they are written: whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import UserError
from bench.settings import Settings


@dataclass(frozen=True)
class RunKey:
    """One trained point: a contestant's variant on a task with a seed."""

    task: str
    method: str
    variant: str
    seed: int

    @property
    def path(self) -> Path:
        return Path(self.task) / self.method / self.variant / f"seed{self.seed}"


def run_folder(settings: Settings, key: RunKey) -> Path:
    """<results>/<profile>/runs/<task>/<method>/<variant>/seed<k>."""
    return settings.root / "runs" / key.path


def state_folder(settings: Settings, key: RunKey) -> Path:
    """What a killed run goes on from; outside the run folder, whose files the workflow deletes before a job."""
    return settings.root / "state" / key.path


def write_json(path: Path, values: Any) -> None:
    """JSON through a temporary file: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> Any:
    """A JSON file of the results. Raises UserError where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; delete it and run again") from None


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Parquet through a temporary file, as `write_json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    table.to_parquet(part, index=False)
    part.replace(path)


def read_points(settings: Settings) -> pd.DataFrame:
    """all-points.parquet of the profile. Raises UserError where it is not there yet."""
    path = settings.root / "all-points.parquet"
    if not path.is_file():
        raise UserError(f"{path} is not there yet; run the workflow (snakemake --cores all) first")
    return pd.read_parquet(path)
