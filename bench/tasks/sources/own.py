"""Text of a profile's own tasks: CSV, TSV, JSON lines or parquet files, or a data set of the Hub."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.settings import OwnTask
from bench.tasks.sources.glue import hub_reader, parquet
from bench.tasks.sources.rows import Columns, Piece, Read, first_line

__all__ = ["own_reader"]


def own_reader(own: OwnTask) -> Read:
    """Reads the splits that a profile declares, under the names `label` and `group`. UserError if unreadable."""
    renamed = {own.label: "label"} | ({own.group: "group"} if own.group else {})
    wanted = {**{name: name for name in own.columns}, **renamed}
    from_hub = hub_reader(own.hub, own.subset, own.revision, own.label) if own.hub else None

    def read(split: str) -> list[Piece]:
        pieces = from_hub(split) if from_hub else [_file(own.files[split], own.label)] if split in own.files else []
        return [
            _chosen(piece, wanted, required=("group",) * (split == "train" and bool(own.group))) for piece in pieces
        ]

    return read


def _chosen(piece: Piece, wanted: Mapping[str, str], required: Sequence[str]) -> Piece:
    """The wanted columns (the file's name -> ours) of a piece. UserError where a required one (ours) is not there."""
    there = tuple(piece.columns)
    columns = {ours: piece.columns[theirs] for theirs, ours in wanted.items() if theirs in piece.columns}
    chosen = replace(piece, columns=columns, called={ours: theirs for theirs, ours in wanted.items()}, there=there)
    for name in required:
        if name not in columns:
            raise chosen.lacks(name)
    return chosen


def _file(file: Path, label: str) -> Piece:
    if file.suffix == ".parquet":
        return parquet(file, label)
    try:
        text = io.StringIO(_text(file), newline="")
        if file.suffix in (".csv", ".tsv"):
            rows = _separated(csv.reader(text, delimiter="," if file.suffix == ".csv" else "\t", strict=True))
        else:
            rows = [(number, _object(line, number)) for number, line in enumerate(text, start=1) if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: {first_line(error)}") from error
    names = dict.fromkeys(name for _, row in rows for name in row)
    columns: Columns = {name: [row.get(name) for _, row in rows] for name in names}
    lines = [line for line, _ in rows]
    return Piece(str(file), columns, at=lambda row: f"line {lines[row]}")


def _text(file: Path) -> str:
    """The whole file, without a byte order mark. ValueError that names the line of what is no UTF-8."""
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: byte {error.start} is no UTF-8 text; save the file as UTF-8") from error


def _separated(reader: Any) -> list[tuple[int, dict[str, str]]]:
    """Rows of a file with a header, each with the number of its first line. ValueError for a row of another width."""
    csv.field_size_limit(sys.maxsize)  # a long text is no error
    names: list[str] = [name.strip() for name in next(reader, [])]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise ValueError(f"line 1: the header names column {twice!r} twice; rename or remove one")
    rows, line = [], reader.line_num + 1
    try:
        for row in reader:
            if row and len(row) != len(names):
                raise ValueError(f"line {line}: {len(row)} columns, where the header has {len(names)}")
            if row:
                rows.append((line, dict(zip(names, row, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: {error}") from error
    return rows


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line, object_pairs_hook=_once)
    except ValueError as error:
        raise ValueError(f"line {number}: not JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"line {number}: column {error} is there twice") from error
    if not isinstance(found, dict):
        raise ValueError(f"line {number}: an object with the columns' names is needed, not {line.strip()[:40]}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """KeyError for a name that is there twice: JSON's readers would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return found
