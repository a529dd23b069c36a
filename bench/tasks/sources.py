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
        read = _sketch_reader(task, seed, sketch_sizes)
    elif source == "folder":
        if path is None:
            raise UserError("source 'folder' needs a path")
        read = _folder_reader(task, path)
    elif source == "hub":
        read = _hub_reader(task, revision or GLUE_REVISION)
    else:
        raise UserError(f"unknown source {source!r}; choose from hub, folder, sketch")

    splits: dict[str, Columns] = {}
    missing: list[str] = []
    for split in ("train", *task.validation_splits, *task.test_splits):
        pieces = read(split)
        for origin, piece in pieces:
            _check(task, origin, piece, hidden_labels=split in task.test_splits)
        if pieces:
            splits[split] = _join(task, [piece for _, piece in pieces])
        elif split in ("train", task.validation_splits[0]):
            raise UserError(f"{task.name}: source {source!r} {path or ''} has no split {split!r}, which is needed")
        else:
            missing.append(split)
    return Raw(splits, tuple(missing))


Pieces = list[tuple[str, Columns]]
"""Parts of a split in order, each with the origin that an error names; none where the split is absent."""


def _join(task: Task, pieces: list[Columns]) -> Columns:
    known = [name for name in ("idx", "difficulty") if all(name in piece for piece in pieces)]
    joined = {name: [value for piece in pieces for value in piece[name]] for name in (*task.columns, "label", *known)}
    joined.setdefault("idx", list(range(len(joined["label"]))))
    return joined


def _sketch_reader(task: Task, seed: int, sizes: Mapping[str, int]) -> Callable[[str], Pieces]:
    def read(split: str) -> Pieces:
        kind = split.partition("_")[0]
        if kind not in sizes:
            raise UserError(f"sketch_sizes has no size for {kind!r}")
        if kind == "test" and not sizes[kind]:
            return []
        rows = generate(task.name, split, sizes[kind], seed)
        return [(f"sketch {task.name}/{split}", {name: [row[name] for row in rows] for name in rows[0]})]

    return read


def _folder_reader(task: Task, folder: Path) -> Callable[[str], Pieces]:
    # Read with pyarrow itself: `datasets` would first copy every file into a cache keyed by path and time.
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not (folder / task.name).is_dir():
        raise UserError(f"no folder {folder / task.name}")

    def read(split: str) -> Pieces:
        pieces = []
        for file in sorted((folder / task.name).glob(f"{split}-*.parquet")):
            try:
                pieces.append((str(file), pq.ParquetFile(file).read().to_pydict()))
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{file}: unreadable: {_first_line(error)}") from error
        return pieces

    return read


def _hub_reader(task: Task, revision: str) -> Callable[[str], Pieces]:
    import datasets  # costs a second, so only where it is used

    try:
        loaded = datasets.load_dataset(GLUE_REPOSITORY, task.name, revision=revision)
    except Exception as error:  # the client raises anything from OSError to its own classes
        raise UserError(f"cannot load {GLUE_REPOSITORY} {task.name} at {revision}: {_first_line(error)}") from error

    def read(split: str) -> Pieces:
        if split not in loaded:
            return []
        return [(f"{GLUE_REPOSITORY} {task.name}/{split}", loaded[split].to_dict())]

    return read


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
