"""Croissant descriptions of the text of own tasks and of generated tasks, beside the text as CSV.

Format: https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import UserError
from bench.settings import Settings, load
from bench.sharing.folders import settings_of
from bench.tasks.catalogue import Task, tasks_of
from bench.tasks.sources import Columns
from bench.tasks.sources import load as read

_WHAT = {
    "label": "The class, or the score of a regression",
    "idx": "Number of the row in its source",
    "difficulty": "Level of difficulty of a generated example",
    "group": "Rows with an equal value are not divided between splits",
}


def write(folder: Path, out: Path) -> list[Path]:
    """Write <out>/<task>/ with croissant.json and a CSV file for each split, and return the paths of the descriptions.

    Args:
        folder: The results folder. The text of own tasks is read from the files that its settings name.
        out: The folder to write.

    Raises:
        UserError: The package mlcroissant is not installed, the text is not that of own or generated tasks, or the
            folder is a published one, which has no text of own tasks.
    """
    settings = settings_of(folder)
    own = [task for task in settings.tasks if task in settings.own_tasks]
    generated = [task for task in settings.tasks if task not in own and settings.data.source == "sketch"]
    if not own and not generated:
        raise UserError(f"{folder}: all tasks have the text of GLUE, which has a description on the Hub")
    if own:  # The settings of folders of others must not name files of this machine.
        settings = load(folder / "settings.yaml")
        if settings.root.resolve() != folder.resolve():
            raise UserError(f"{folder}: a published folder has no text of {', '.join(own)}; name your results folder")
    return [_described(settings, tasks_of(settings.own_tasks)[name], out / name) for name in (*own, *generated)]


def _described(settings: Settings, task: Task, out: Path) -> Path:
    try:
        import mlcroissant as mlc
    except ImportError:
        raise UserError("Croissant needs the package mlcroissant: pip install 'costeff-bench[exports]'") from None
    out.mkdir(parents=True, exist_ok=True)
    raw = read(task, settings.data.of(task.name))
    distribution, records = [], []
    for split, columns in raw.splits.items():
        table = _table(task, columns)
        file = out / f"{split}.csv"
        table.to_csv(file, index=False, lineterminator="\n")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        distribution.append(
            mlc.FileObject(
                id=file.name, name=file.name, content_url=file.name, encoding_formats=["text/csv"], sha256=digest
            )
        )
        fields = [
            mlc.Field(
                id=f"{split}/{name}",
                name=name,
                description=_WHAT.get(str(name), "Text"),
                data_types=[_kind(mlc, values)],
                source=mlc.Source(file_object=file.name, extract=mlc.Extract(column=name)),
            )
            for name, values in table.items()
        ]
        records.append(mlc.RecordSet(id=split, name=split, description=f"{len(table)} examples", fields=fields))
    source = f"generated with seed {settings.data.seed}" if task.is_glue else "own files"
    metadata = mlc.Metadata(
        name=task.name,
        description=f"{task.title}, {source}: {_answers(task)}.",
        distribution=distribution,
        record_sets=records,
    )
    path = out / "croissant.json"
    path.write_text(json.dumps(metadata.to_json(), indent=1, default=str) + "\n", encoding="utf-8")
    return path


def _answers(task: Task) -> str:
    return (
        f"classes {', '.join(task.labels)}" if task.labels else f"a score from {task.range[0]:g} to {task.range[1]:g}"
    )


def _table(task: Task, columns: Columns) -> pd.DataFrame:
    """Return the rows of a split with class names as labels, without columns that hold nothing."""
    table = pd.DataFrame(dict(columns))
    if task.labels:
        table["label"] = [task.labels[label] if label >= 0 else None for label in table["label"]]  # -1: hidden
    return table.dropna(axis="columns", how="all")


def _kind(mlc: Any, values: pd.Series) -> Any:
    if pd.api.types.is_integer_dtype(values):
        return mlc.DataType.INTEGER
    return mlc.DataType.FLOAT if pd.api.types.is_float_dtype(values) else mlc.DataType.TEXT
