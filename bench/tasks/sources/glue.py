"""Readers of GLUE: from the Hub, from its Parquet files in a folder, or from the TSV files of GLUE's own site."""

import csv
import io
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError, first_line
from bench.tasks.catalogue import Task
from bench.tasks.sources.rows import Columns, Piece, Read
from bench.tasks.sources.text import decoded

__all__ = ["folder_reader", "hub_reader", "parquet"]

_PAIR = {"sentence1": "sentence1", "sentence2": "sentence2"}
COLUMNS: dict[str, dict[str, str]] = {
    "cola": {"sentence": "sentence"},
    "sst2": {"sentence": "sentence"},
    "mrpc": {"sentence1": "#1 String", "sentence2": "#2 String"},
    "qqp": {"question1": "question1", "question2": "question2"},
    "stsb": _PAIR,
    "mnli": {"premise": "sentence1", "hypothesis": "sentence2"},
    "qnli": {"question": "question", "sentence": "sentence"},
    "rte": _PAIR,
    "wnli": _PAIR,
}
"""Text columns of tasks -> columns of the site's files."""
LABELS = {"mrpc": "Quality", "qqp": "is_duplicate", "stsb": "score", "mnli": "gold_label"}
"""Label column of the site's files, where it is not `label`."""
_COLA = ("source", "label", "mark", "sentence")
_MSR = {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"}


def hub_reader(
    repository: str, subset: str | None, revision: str | None, columns: Sequence[str], label: str = "label"
) -> Read:
    """Return a reader of a data set of the Hub.

    Args:
        repository: owner/name of the data set.
        subset: Its configuration; None if it has only one.
        revision: A commit; None: the newest.
        columns: The columns to read.
        label: The label column.

    Raises:
        UserError: The data set cannot be loaded.
    """
    import datasets  # slow to import (1 s)

    place = " ".join(name for name in (repository, subset) if name)
    try:
        loaded = datasets.load_dataset(repository, *([subset] if subset else []), revision=revision)
    except Exception as error:  # the client raises OSError and classes of its own
        raise UserError(
            f"cannot load {place} at {revision or 'its newest'}: {first_line(error)}; without a network, use files, or "
            "run `costeff fetch` on a machine with one and copy the Hub's cache"
        ) from error

    def read(split: str) -> list[Piece]:
        if split not in loaded:
            return []
        there = loaded[split].column_names
        names = getattr(loaded[split].features.get(label), "names", None)
        chosen = loaded[split].select_columns([name for name in dict.fromkeys(columns) if name in there])
        return [Piece(f"{place}/{split}", chosen.to_dict(), tuple(names or ()), there=tuple(there))]

    return read


def parquet(file: Path, columns: Sequence[str], label: str = "label") -> Piece:
    """Read columns of a Parquet file, and the class names that `datasets` wrote into its metadata.

    Args:
        file: The file.
        columns: The columns to read, if the file has them.
        label: The label column.

    Raises:
        UserError: The file is unreadable, has a column twice, or has a value that is not valid text.
    """
    # pyarrow reads the file in place; `datasets` would copy it into a cache first.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
        there = opened.schema_arrow.names
        wanted = [name for name in dict.fromkeys(columns) if name in there]
        if twice := next((name for name in wanted if there.count(name) > 1), None):
            raise UserError(f"{file}: column {twice!r} occurs twice; rename or remove one")
        table = opened.read(columns=wanted)
        read = {name: _values(file, name, table.column(name)) for name in wanted}
        written = json.loads((opened.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = written["info"]["features"][label].get("names") if written else None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: unreadable: {first_line(error)}") from error
    except (KeyError, TypeError, ValueError, AttributeError):
        names = None  # metadata of another kind has no class names
    return Piece(str(file), read, tuple(names or ()), there=tuple(there))


def _values(file: Path, name: str, column: Any) -> list[Any]:
    """Return a column as Python values.

    Raises:
        UserError: A value cannot be converted; the message names its row.
    """
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        for row, value in enumerate(column):
            try:
                value.as_py()
            except (ValueError, OverflowError) as error:
                raise UserError(f"{file}: row {row}: column {name!r}: {first_line(error)}") from error
        raise


def folder_reader(task: Task, folder: Path) -> Read:
    """Return a reader of a task in a folder, in the Hub's layout or that of GLUE's own site.

    Raises:
        UserError: The folder has neither layout; the message describes both.
    """
    hub, site = folder / task.name, folder / task.title
    if any(hub.glob("*.parquet")):
        known = (*task.columns, "label", "idx", "difficulty")
        return lambda split: [parquet(file, known) for file in _shards(hub, split)]
    if any((site / name).is_file() for name in ("train.tsv", _MSR["train"])):
        return lambda split: _site(task, site, split)
    raise UserError(
        f"{folder}: no text of {task.title}; looked for {task.name}/train-*.parquet, as on the Hub, "
        f"and for {task.title}/train.tsv, as GLUE's own site ships it"
    )


def _shards(folder: Path, split: str) -> list[Path]:
    """Return the Parquet files of a split; there are none if the source does not have it.

    Raises:
        UserError: Some of the files are missing.
    """
    files = sorted(folder.glob(f"{split}-*.parquet"))
    for file in files:
        if (numbered := re.search(r"-of-(\d+)$", file.stem)) and int(numbered[1]) != len(files):
            raise UserError(
                f"{folder}: {len(files)} of the {int(numbered[1])} files {split}-*.parquet; copy the missing ones, or "
                "remove those of another copy"
            )
    return files


def _site(task: Task, folder: Path, split: str) -> list[Piece]:
    """Read a split of the files of GLUE's site, for MRPC also from Microsoft's two files and the list of dev pairs."""
    name = split.replace("validation", "dev")
    file = folder / f"{name}.tsv"
    if file.is_file():
        return [_tsv(task, file, split)]
    if task.name != "mrpc":
        return []
    file, dev = folder / _MSR["test" if split == "test" else "train"], folder / "dev_ids.tsv"
    if not file.is_file():
        return []
    if split == "test":
        return [_tsv(task, file, split)]
    if not dev.is_file():
        raise UserError(f"{dev} is missing: it lists the pairs of {file.name} in the validation split")
    pairs = {tuple(row) for _, row in _table(dev, ("#1 ID", "#2 ID"))[1]}
    if split == "train":
        names, rows = _table(file)
        pairs = {tuple(row[names.index(name)] for name in ("#1 ID", "#2 ID")) for _, row in rows} - pairs
    return [_tsv(task, file, split, pairs)]


def _table(file: Path, header: tuple[str, ...] = ()) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the column names, and line number and cells of each row that is not blank. There is no quoting."""
    try:
        text, _ = decoded(file)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
        names = list(header) or next(reader, [])
        return names, [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: unreadable: {first_line(error)}") from error


def _tsv(task: Task, file: Path, split: str, pairs: Collection[tuple[str, ...]] | None = None) -> Piece:
    """Read the columns of a file of GLUE's site.

    Args:
        task: The task.
        file: The file.
        split: The split.
        pairs: Pairs of sentence ids; if given, only rows with these are returned.
    """
    # CoLA's train and dev files have no header.
    given, rows = _table(file, _COLA if task.name == "cola" and split != "test" else ())
    wanted = dict(COLUMNS[task.name])
    label = LABELS.get(task.name, "label")
    if label in given or split not in task.test_splits:
        wanted["label"] = label
    if split in task.test_splits and given[:1] in (["index"], ["id"]):
        wanted["idx"] = given[0]
    for name in wanted.values():
        if name not in given:
            raise UserError(f"{file}: no column {name!r}; the columns are {', '.join(given) or 'none'}")
    if pairs is not None:
        first, second = given.index("#1 ID"), given.index("#2 ID")
        rows = [(line, row) for line, row in rows if (row[first], row[second]) in pairs]
    places = [given.index(name) for name in wanted.values()]
    whole = [(line, row) for line, row in rows if max(places) < len(row)]
    if len(whole) < len(rows) and task.name != "qqp":  # other loaders also leave out truncated rows of QQP
        line, row = next((line, row) for line, row in rows if max(places) >= len(row))
        raise UserError(f"{file}: line {line}: the row is truncated after {row[-1]!r}")
    columns: Columns = {name: [row[place] for _, row in whole] for name, place in zip(wanted, places, strict=True)}
    lines = [line for line, _ in whole]
    return Piece(str(file), columns, at=lambda row: f"line {lines[row]}")
