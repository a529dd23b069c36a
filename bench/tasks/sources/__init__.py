"""Where a task's text comes from: the Hub, a folder in either of GLUE's layouts, files of one's own, or the Sketch."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import UserError
from bench.settings import Data
from bench.tasks.catalogue import Task
from bench.tasks.sketch import generate
from bench.tasks.sources.glue import folder_reader, hub_reader
from bench.tasks.sources.own import own_reader
from bench.tasks.sources.rows import Columns, Piece, Read, join

__all__ = ["Columns", "Raw", "load"]


@dataclass(frozen=True)
class Raw:
    """Checked rows of one task as plain columns."""

    splits: dict[str, Columns]
    """The source's split name -> text columns, `label`, `idx`, and where they are known `difficulty` and `group`."""
    missing: tuple[str, ...]
    """Names of the splits that were looked for and that the source does not have."""


def load(task: Task, data: Data) -> Raw:
    """Read every split the source has (the tests only with `data.test`) and check its rows.

    data: the settings' section as it holds for this task; a task of a profile's own brings its own source instead.
    UserError where train or GLUE's first validation split is absent, and for the first bad row.
    """
    read = _reader(task, data)
    splits: dict[str, Columns] = {}
    missing: list[str] = []
    for split in ("train", *task.validation_splits, *(task.test_splits if data.test else ())):
        pieces = read(split)
        if pieces:
            splits[split] = join(task, split, pieces)
        elif split == "train" or (split == task.validation_splits[0] and not task.own):
            where = f"source {data.source!r} {data.path or ''}".strip() if not task.own else "its source"
            raise UserError(f"{task.name}: {where} has no split {split!r}, which is needed")
        else:
            missing.append(split)
    return Raw(splits, tuple(missing))


def _reader(task: Task, data: Data) -> Read:
    if task.own:
        return own_reader(task.own)
    if data.source == "sketch":
        return _sketch_reader(task, data.seed, data.sketch.model_dump())
    if data.source == "hub":
        return hub_reader("nyu-mll/glue", task.name, data.revision)
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
