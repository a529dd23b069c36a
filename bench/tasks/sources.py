"""Where a task's text comes from: the Hub, a folder of parquet files, or the generated Sketch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import UserError
from bench.tasks.catalogue import Task
from bench.tasks.sketch import generate

__all__ = ["GLUE_REPOSITORY", "GLUE_REVISION", "Columns", "Raw", "Source", "load"]

Source = Literal["hub", "folder", "sketch"]
Columns = dict[str, list[Any]]

GLUE_REPOSITORY = "nyu-mll/glue"
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


@dataclass(frozen=True)
class Raw:
    """Checked rows of one task as plain columns."""

    splits: dict[str, Columns]
    """GLUE split name -> text columns, `label`, `idx`, and `difficulty` where it is known."""
    missing: tuple[str, ...]
    """GLUE split names that the source does not have."""


def load(
    task: Task,
    source: Source,
    path: Path | None,
    revision: str | None,
    seed: int,
    sketch_sizes: Mapping[str, int],
) -> Raw:
    """Read every split the source has and check its rows.

    path: folder holding `<task>/<split>-*.parquet` (source "folder" only).
    revision: commit of the Hub's data set (source "hub" only); None is the pinned one.
    seed, sketch_sizes: what source "sketch" generates, with a size for each of train, validation and test.
    UserError where train or the first validation split is absent, and for the first bad row.
    """
    if source == "sketch":
        read: Callable[[str], tuple[str, Columns] | None] = _sketch_reader(task, seed, sketch_sizes)
    elif source == "folder":
        if path is None:
            raise UserError("source 'folder' needs a path")
        read = _folder_reader(task, Path(path))
    elif source == "hub":
        read = _hub_reader(task, revision or GLUE_REVISION)
    else:
        raise UserError(f"unknown source {source!r}; choose from hub, folder, sketch")

    splits: dict[str, Columns] = {}
    missing: list[str] = []
    for split in ("train", *task.validation_splits, *task.test_splits):
        found = read(split)
        if found is None:
            missing.append(split)
            continue
        origin, columns = found
        _check(task, origin, columns, hidden_labels=split in task.test_splits)
        columns.setdefault("idx", list(range(len(columns["label"]))))
        splits[split] = columns
    for split in ("train", task.validation_splits[0]):
        if split in missing:
            raise UserError(f"{task.name}: {path or source} has no {split} split ({task.name}/{split}-*.parquet)")
    return Raw(splits, tuple(missing))


def _sketch_reader(task: Task, seed: int, sizes: Mapping[str, int]) -> Callable[[str], tuple[str, Columns]]:
    def read(split: str) -> tuple[str, Columns]:
        kind = split.partition("_")[0]
        if kind not in sizes:
            raise UserError(f"sketch_sizes has no size for {kind}")
        rows = generate(task.name, split, sizes[kind], seed)
        return f"sketch {task.name}/{split}", {name: [row[name] for row in rows] for name in rows[0]}

    return read


def _folder_reader(task: Task, folder: Path) -> Callable[[str], tuple[str, Columns] | None]:
    # Read with pyarrow itself: `datasets` would first copy every file into a cache keyed by path and time.
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not (folder / task.name).is_dir():
        raise UserError(f"no folder {folder / task.name}")

    def read(split: str) -> tuple[str, Columns] | None:
        files = sorted((folder / task.name).glob(f"{split}-*.parquet"))
        columns: Columns = {}
        for file in files:
            try:
                shard = pq.read_table(file).to_pydict()
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{file}: unreadable: {str(error).splitlines()[0]}") from error
            _check(task, str(file), shard, hidden_labels=split in task.test_splits)
            for name, values in shard.items():
                columns.setdefault(name, []).extend(values)
        return (str(folder / task.name / split), columns) if files else None

    return read


def _hub_reader(task: Task, revision: str) -> Callable[[str], tuple[str, Columns] | None]:
    import datasets  # costs a second, so only where it is used

    try:
        loaded = datasets.load_dataset(GLUE_REPOSITORY, task.name, revision=revision)
    except Exception as error:  # the client raises anything from OSError to its own classes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load {GLUE_REPOSITORY} {task.name} at {revision}: {reason}") from error

    def read(split: str) -> tuple[str, Columns] | None:
        if split not in loaded:
            return None
        return f"{GLUE_REPOSITORY} {task.name}/{split}", loaded[split].to_dict()

    return read


def _check(task: Task, origin: str, columns: Columns, hidden_labels: bool) -> None:
    """UserError that names origin, row and column for the first row that cannot be used."""
    for name in (*task.columns, "label"):
        if name not in columns:
            raise UserError(f"{origin}: no column {name!r}")
    if not columns["label"]:
        raise UserError(f"{origin}: no rows")
    for name in task.columns:
        for row, text in enumerate(columns[name]):
            if not isinstance(text, str):
                raise UserError(f"{origin}: row {row}: column {name!r} is not text ({text!r})")
            if not text.strip() and name not in task.may_be_empty:
                raise UserError(f"{origin}: row {row}: column {name!r} is empty")
    for row, label in enumerate(columns["label"]):
        if isinstance(label, bool) or not isinstance(label, int | float):
            raise UserError(f"{origin}: row {row}: column 'label' is not a number ({label!r})")
        if label == -1 and hidden_labels:
            continue
        valid = 0 <= label <= 5 if task.regression else label in range(task.outputs)
        if not valid:
            allowed = "0 to 5" if task.regression else f"0 to {task.outputs - 1}, whole"
            what = "missing" if label == -1 else f"{label}, outside {allowed}"
            raise UserError(f"{origin}: row {row}: column 'label' is {what}")
