"""Data sources of tasks: the Hub, a folder in either layout of GLUE, own files, or generated text."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.errors import DataError, UserError
from bench.settings import Data
from bench.tasks.catalogue import Task
from bench.tasks.sketch import generate
from bench.tasks.sources.glue import folder_reader, hub_reader
from bench.tasks.sources.own import own_reader
from bench.tasks.sources.rows import Columns, Piece, Read, join

__all__ = ["Columns", "Raw", "load"]


@dataclass(frozen=True)
class Raw:
    """Checked rows of a task as plain columns."""

    splits: dict[str, Columns]
    """Split of the source -> text columns, `label`, `idx`, and `difficulty` and `group` if known."""
    missing: tuple[str, ...]
    """Names of splits that the source does not have."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Split -> number of rows left out because a text is empty; only splits with such rows."""
    notes: tuple[str, ...] = ()
    """Assumptions and oddities that readers report about files, one line each."""


def load(task: Task, data: Data, problems: list[str] | None = None) -> Raw:
    """Read and check all splits of the source; test splits only if `data.test` is set.

    Args:
        task: The task. An own task has its own source.
        data: The section `data` of the settings for this task.
        problems: If given, problems of rows and files are appended instead of raised, and the rest is returned.

    Raises:
        DataError: Rows cannot be used and `problems` is not given, or no row of a split can be used.
        UserError: The source does not exist.
    """
    read = _reader(task, data)
    splits: dict[str, Columns] = {}
    missing: list[str] = []
    dropped: dict[str, int] = {}
    notes: list[str] = []
    found: list[str] = []
    for split in ("train", *task.validation_splits, *(task.test_splits if data.test else ())):
        try:
            pieces = read(split)
        except UserError as error:
            found.append(str(error))
            continue
        if pieces:
            joined = join(task, split, pieces)
            found += joined.problems
            notes += joined.notes
            if joined.dropped:
                dropped[split] = joined.dropped
            if joined.columns.get("label"):
                splits[split] = joined.columns
            elif not joined.problems:
                found.append(f"{pieces[0].origin}: no rows are left without those that have an empty text")
        elif split == "train" or (split == task.validation_splits[0] and task.is_glue):
            where = f"source {data.source!r} {data.path or ''}".strip() if task.is_glue else "its source"
            found.append(f"{task.name}: {where} has no split {split!r}, which is needed")
        else:
            missing.append(split)
    unusable = {"train", *task.validation_splits} - {*splits, *missing}
    if found and (problems is None or unusable):
        raise DataError(found)
    if problems is not None:
        problems += found
    return Raw(splits, tuple(missing), dropped, tuple(notes))


def _reader(task: Task, data: Data) -> Read:
    if task.own:
        return own_reader(task.own)
    if data.source == "sketch":
        return _sketch_reader(task, data.seed, data.sketch.model_dump())
    if data.source == "hub":
        return hub_reader("nyu-mll/glue", task.name, data.revision, (*task.columns, "label", "idx"))
    if data.path is None:
        raise UserError("source 'folder' needs a path")
    return folder_reader(task, data.path)


def _sketch_reader(task: Task, seed: int, sizes: Mapping[str, int]) -> Read:
    def read(split: str) -> list[Piece]:
        kind = split.partition("_")[0]
        if kind == "test" and not sizes[kind]:
            return []
        rows = generate(task.name, split, sizes[kind], seed)
        return [Piece(f"sketch {task.name}/{split}", {name: [row[name] for row in rows] for name in rows[0]})]

    return read
