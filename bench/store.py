"""Where results lie, and how they are written: whole or not at all; and what a run that failed leaves. No torch."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.compat import FIELDS
from bench.errors import UserError
from bench.names import LARGEST_SEED, valid_name

if TYPE_CHECKING:
    from bench.settings import Settings


@dataclass(frozen=True)
class RunKey:
    """One trained point: a contestant's variant on a task with a seed."""

    task: str
    method: str
    variant: str
    seed: int

    @property
    def facts(self) -> dict[str, Any]:
        """Its parts as plain values: the columns that name a run in tables."""
        return asdict(self)

    @property
    def path(self) -> Path:
        return Path(self.task) / self.method / self.variant / f"seed{self.seed}"

    @classmethod
    def of(cls, path: Path) -> RunKey:
        """Return the run of a path <task>/<method>/<variant>/seed<k>, the inverse of `path`.

        Raises:
            UserError: If a part is not a valid name, or the seed is not a valid seed.
        """
        if len(path.parts) != 4:
            raise UserError(f"{path} is not <task>/<method>/<variant>/seed<k>")
        task, method, variant, last = path.parts
        for name in (task, method, variant):
            if not valid_name(name):
                raise UserError(f"{name!r} is not a valid name")
        seed = re.fullmatch(r"seed(0|[1-9][0-9]{0,9})", last)
        if not seed or int(seed[1]) > LARGEST_SEED:
            raise UserError(f"{last!r} is not a seed from 0 to {LARGEST_SEED}")
        return cls(task, method, variant, int(seed[1]))


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
    table.to_parquet(part, index=False, compression="zstd", compression_level=12)
    part.replace(path)


def read_parquet_if_there(path: Path) -> pd.DataFrame:
    """The table of a file; an empty one where it is not there."""
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame()


def weights_of(folder: Path) -> str | None:
    """Return the digest of the weights of the run in `folder`, which its traces, costs, points and times carry too.

    Returns:
        "" for a run that failed, or was made before digests were recorded; None where there is no run.json.
    """
    path = folder / "run.json"
    return str(read_json(path).get("weights", "")) if path.is_file() else None


def clear_run(folder: Path) -> None:
    """Remove what an earlier making of a run left, test traces included; the reason of its last failure stays."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            remove_folder(path)
        elif path.name != "failure.json":
            path.unlink()


def finished_settings(settings: Settings, task: str = "*", seed: int | None = None) -> Settings:
    """Return `settings`, once there is a run with a result, be it a failure, of a task and seed (default: of any).

    Raises:
        UserError: There is none yet.
    """
    pattern = f"runs/{task}/*/*/seed{'*' if seed is None else seed}"
    if any(True for name in ("run.json", "failure.json") for _ in settings.root.glob(f"{pattern}/{name}")):
        return settings
    which = "" if task == "*" else f" of {task}" + ("" if seed is None else f", seed {seed},")
    raise UserError(f"no run{which} has a result in {settings.root} yet; run the workflow first: snakemake --cores all")


def points_file(settings: Settings, task: str, seed: int) -> Path:
    """The operating points of all runs of a task and seed."""
    return settings.root / "points" / task / f"seed{seed}.parquet"


def trials_file(settings: Settings, task: str, seed: int) -> Path:
    """The histories of their searches for thresholds."""
    return settings.root / "points" / task / f"seed{seed}-threshold-trials.parquet"


def log_file(settings: Settings, key: RunKey) -> Path:
    """What a run's job printed."""
    return settings.root / "logs" / "run" / key.path.with_suffix(".log")


def remove_folder(folder: Path) -> None:
    """Remove a folder if it is there; of a link to a folder only the contents, so that results stay where it points."""
    if not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


def check_folders(root: Path, *folders: Path) -> None:
    """Raise UserError if a folder below `root`, or one above it, is a file or a link that leads nowhere."""
    for folder in (root, *folders):
        for each in (folder, *folder.parents):
            if each.is_symlink() and not each.exists():
                raise UserError(f"{each} is a link to {each.readlink()}, which is not there; make that folder")
            if each.exists() and not each.is_dir():
                raise UserError(f"{each} is a file, where a folder is needed; move it, or name other `results`")


def record_failure(settings: Settings, key: RunKey, reason: str, *, again: bool) -> None:
    """Leaves a run that failed: its reason, and files that are empty, so that the workflow goes on to the report.

    `again`: whether the same command may try once more (a crash, memory), or would only end in the same way (a loss
    that is not finite).
    """
    folder, stamp = run_folder(settings, key), state_folder(settings, key) / "identity.json"
    clear_run(folder)
    (folder / "model").mkdir(parents=True, exist_ok=True)
    for name in ("costs.json", *(f"trace-{split}.parquet" for split in {settings.selection, "validation"})):
        (folder / name).write_bytes(b"")
    asked = read_json(stamp) if stamp.is_file() else {}
    facts = {"status": "failed", "reason": reason, "again": again, "key": key.facts}
    write_json(folder / "run.json", facts | {name: asked[name] for name in ("asked", "identity") if name in asked})
    (folder / "failure.json").unlink(missing_ok=True)


def read_points(settings: Settings) -> pd.DataFrame:
    """Return all-points.parquet of the profile.

    Raises:
        UserError: It is not there yet, or a run was made anew since.
    """
    path = settings.root / "all-points.parquet"
    if not path.is_file():
        raise UserError(f"{path} is not there yet; run the workflow (snakemake --cores all) first")
    points = pd.read_parquet(path).rename(columns=FIELDS)
    run = ["task", "method", "variant", "seed"]
    for *names, weights in points.reindex(columns=[*run, "weights"]).dropna().drop_duplicates().to_numpy():
        key = RunKey(*names)
        if weights_of(run_folder(settings, key)) not in (None, weights):
            raise UserError(f"{key.path} was made anew since its points were united; run the workflow again")
    return points
