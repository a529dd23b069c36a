"""Paths of results, atomic writes, and the files of a failed run. This module does not import torch."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from bench import compat
from bench.errors import UserError, first_line
from bench.names import LARGEST_SEED, valid_name

if TYPE_CHECKING:
    from bench.settings import Settings


PART = ".part-"
"""Prefix of the temporary folders of `written_at_once`; one remains after a process was killed."""


@dataclass(frozen=True)
class RunKey:
    """Key of a run: a variant of a contestant on a task with a seed."""

    task: str
    method: str
    variant: str
    seed: int

    @property
    def facts(self) -> dict[str, Any]:
        """Parts of the key as plain values: the columns that identify a run in tables."""
        return asdict(self)

    @property
    def path(self) -> Path:
        """Relative path of the run: <task>/<method>/<variant>/seed<k>."""
        return Path(self.task) / self.method / self.variant / f"seed{self.seed}"

    @classmethod
    def of(cls, path: Path) -> RunKey:
        """Return the key of a path <task>/<method>/<variant>/seed<k>, the inverse of `path`.

        Raises:
            UserError: A part is not a valid name, or the seed is not valid.
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


def needed_run(settings: Settings, key: RunKey, contestant: str, variant: str, task: str | None) -> RunKey:
    """Return the run of another contestant that the run `key` needs.

    Args:
        settings: The settings of the profile.
        key: The run that needs it.
        contestant: Name of the other contestant.
        variant: Its variant.
        task: Its task; None: that of `key`. If this task does not have the seed of `key`, its first seed is used.
    """
    task = task or key.task
    seeds = settings.seeds_of(task)
    return RunKey(task, contestant, variant, key.seed if task == key.task or key.seed in seeds else seeds[0])


def run_named(name: str, key: RunKey) -> RunKey:
    """Return the run that a name among the `needs` of the run `key` stands for: contestant/variant, or a whole path."""
    method, _, variant = name.partition("/")
    return RunKey.of(Path(name)) if "/" in variant else RunKey(key.task, method, variant, key.seed)


def run_folder(settings: Settings, key: RunKey) -> Path:
    """Return the folder of a run: <results>/<profile>/runs/<task>/<method>/<variant>/seed<k>."""
    return settings.root / "runs" / key.path


def state_folder(settings: Settings, key: RunKey) -> Path:
    """Return the folder of the state from which an interrupted run resumes.

    It is outside the run folder, because Snakemake deletes the outputs of a job before it starts the job.
    """
    return settings.root / "state" / key.path


@contextmanager
def written_at_once(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` at the end and is removed after an error.

    After an interruption the file has its old content or the new one. The temporary file is in a folder of its own
    beside `path`, so that processes that write the same file at the same time do not mix their contents.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PART, dir=path.parent, ignore_cleanup_errors=True) as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(path)


@contextmanager
def complete_or_not_at_all(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out` and rename it to `out` at the end; remove it after an error.

    Raises:
        UserError: `out` is not empty or cannot be written.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f"{out} is not empty; name a folder that does not exist, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent.absolute())
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror} ({error.filename})") from None
    with temporary as folder:
        part = Path(folder) / out.name
        part.mkdir()
        yield part
        try:
            part.replace(out)
        except OSError as error:  # another process has written the folder meanwhile
            raise UserError(f"{out} cannot be written: {error.strerror}; name another folder") from None


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically; see `written_at_once`."""
    with written_at_once(path) as part:
        part.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Return the content of a JSON file of the results, all of which contain a mapping.

    Args:
        path: The file.
        *keys: Keys that the mapping must have.

    Raises:
        UserError: The file is missing or broken, is not a mapping, or lacks a key.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"a mapping is needed, not {type(values).__name__}")
        if missing := [key for key in keys if key not in values]:
            raise ValueError(f"no {missing[0]!r} in it")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the workflow first: costeff workflow PROFILE") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}; delete it and run again") from None
    return values


def read_facts(path: Path) -> dict[str, Any]:
    """Return the content of a run.json or failure.json.

    Raises:
        UserError: The file is missing or broken, or not the facts of a run.
    """
    succeeded = read_json(path, "status")["status"] == "ok"
    return {"again": True} | read_json(path, *(("identity", "asked", "where") if succeeded else ("reason",)))


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a Parquet file atomically; see `written_at_once`."""
    with written_at_once(path) as part:
        table.to_parquet(part, index=False, compression="zstd", compression_level=12)


def read_parquet(path: Path) -> pd.DataFrame:
    """Return the table of a Parquet file of the results.

    Raises:
        UserError: The file is missing or broken.
    """
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the workflow first: costeff workflow PROFILE") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable table ({first_line(error)}); delete it and run again") from None


def read_parquet_if_there(path: Path) -> pd.DataFrame:
    """Return the table of a file, or an empty table if there is no such file; see `read_parquet`."""
    return read_parquet(path) if path.is_file() else pd.DataFrame()


def weights_of(folder: Path) -> str | None:
    """Return the digest of the weights of the run in `folder`; its traces, costs, points and latencies store it too.

    Returns:
        "" for a run that failed or that was made before digests were recorded, None if there is no run.json.
    """
    path = folder / "run.json"
    return str(read_json(path).get("weights", "")) if path.is_file() else None


def weights_file(folder: Path) -> Path:
    """Return the path of the weights of a run folder. The file may be missing or, in a failed run, empty."""
    return folder / "model" / "model.safetensors"


def clear_run(folder: Path) -> None:
    """Remove all files of an earlier training of a run, test traces included, except the reason of its last failure."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            remove_folder(path)
        elif path.name != "failure.json":
            path.unlink()


def seed_of(settings: Settings, task: str, seed: int | None) -> int:
    """Return the seed of a run of a task, after checking that the profile has this task and seed.

    Args:
        settings: The settings of the profile.
        task: Name of the task.
        seed: The seed; None for the first one of the task.

    Raises:
        UserError: If the profile does not run the task, or not with this seed; the message lists what it has.
    """
    if task not in settings.tasks:
        raise UserError(f"no task {task!r} in this profile; choose from {', '.join(settings.tasks)}")
    seeds = settings.seeds_of(task)
    if seed is not None and seed not in seeds:
        raise UserError(f"{task} has no seed {seed} in this profile; its seeds are {', '.join(map(str, seeds))}")
    return seeds[0] if seed is None else seed


def finished_settings(settings: Settings, task: str = "*", seed: int | None = None) -> Settings:
    """Return `settings` if at least one run of its tasks and contestants has a result, a failure included.

    Args:
        settings: The settings of the profile.
        task: Consider only runs of this task.
        seed: Consider only runs with this seed.

    Raises:
        UserError: No such run has a result.
    """
    for name in ("run.json", "failure.json"):
        for file in settings.root.glob(f"runs/{task}/*/*/seed{'*' if seed is None else seed}/{name}"):
            of_task, contestant = file.parts[-5:-3]
            if of_task in settings.tasks and contestant in settings.contestants:
                return settings
    which = "" if task == "*" else f" of {task}" + ("" if seed is None else f", seed {seed},")
    raise UserError(f"no run{which} has a result in {settings.root}; run the workflow first: costeff workflow PROFILE")


def points_file(settings: Settings, task: str, seed: int) -> Path:
    """Return the path of the operating points of all runs of a task and seed."""
    return settings.root / "points" / task / f"seed{seed}.parquet"


def trials_file(settings: Settings, task: str, seed: int) -> Path:
    """Return the path of the trials of the threshold searches of a task and seed."""
    return settings.root / "points" / task / f"seed{seed}-threshold-trials.parquet"


def log_file(settings: Settings, key: RunKey) -> Path:
    """Return the path of the log of a run's job."""
    return settings.root / "logs" / "run" / key.path.with_suffix(".log")


def remove_folder(folder: Path) -> None:
    """Remove a folder if it exists. If it is a link to a folder, remove only the contents of the target."""
    if not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


def check_folders(root: Path, *folders: Path) -> None:
    """Check that folders and their parents can be created.

    Args:
        root: A folder.
        *folders: Folders below `root`.

    Raises:
        UserError: One of them, or a parent, is a file or a broken link.
    """
    for folder in (root, *folders):
        for each in (folder, *folder.parents):
            if each.is_symlink() and not each.exists():
                raise UserError(f"{each} is a link to {each.readlink()}, which does not exist; create that folder")
            if each.exists() and not each.is_dir():
                raise UserError(f"{each} is a file, where a folder is needed; move it, or set another `results`")


def mark_model(folder: Path) -> None:
    """Write the files of a run's model that are missing, empty: the run has no model, or one without weights."""
    weights = weights_file(folder)
    weights.parent.mkdir(parents=True, exist_ok=True)
    for file in (weights, weights.with_name("config.json")):
        file.touch()


def record_failure(settings: Settings, key: RunKey, reason: str, *, again: bool) -> None:
    """Write the files of a failed run: its reason, and empty outputs, so that the workflow continues to the report.

    Args:
        settings: The settings of the profile.
        key: The run.
        reason: The reason, in one line.
        again: Whether the same command should try the run again. True after a crash or a lack of memory, False where
            the result would be the same, such as a loss that is not finite.
    """
    folder, stamp = run_folder(settings, key), state_folder(settings, key) / "identity.json"
    clear_run(folder)
    mark_model(folder)
    for name in ("costs.json", *(f"trace-{split}.parquet" for split in {settings.selection, "validation"})):
        (folder / name).write_bytes(b"")
    asked = read_json(stamp) if stamp.is_file() else {}
    facts = {"status": "failed", "reason": reason, "again": again, "key": key.facts}
    write_json(folder / "run.json", facts | {name: asked[name] for name in ("asked", "identity") if name in asked})
    (folder / "failure.json").unlink(missing_ok=True)


def read_points(settings: Settings) -> pd.DataFrame:
    """Return the table all-points.parquet of a profile.

    Raises:
        UserError: The file does not exist, or a run was trained again after the file was written.
    """
    path = settings.root / "all-points.parquet"
    points = compat.table(read_parquet(path))
    run = ["task", "method", "variant", "seed"]
    for *names, weights in points.reindex(columns=[*run, "weights"]).dropna().drop_duplicates().to_numpy():
        key = RunKey(*names)
        if weights_of(run_folder(settings, key)) not in (None, weights):
            raise UserError(f"{key.path} was trained again after its points were collected; run the workflow again")
    return points
