"""Text of a profile's own tasks: CSV, TSV, JSON lines or parquet files, or a data set of the Hub."""

import csv
import json
import sys
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
        if own.group:
            for piece in pieces:
                if split == "train" and own.group not in piece.columns:
                    raise UserError(f"{piece.origin}: no column {own.group!r}; there are {', '.join(piece.columns)}")
        return [
            replace(
                piece,
                columns={ours: piece.columns[theirs] for theirs, ours in wanted.items() if theirs in piece.columns},
            )
            for piece in pieces
        ]

    return read


def _file(file: Path, label: str) -> Piece:
    if file.suffix == ".parquet":
        return parquet(file, label)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
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


def _separated(reader: Any) -> list[tuple[int, dict[str, str]]]:
    """Rows of a file with a header, each with the number of its first line. ValueError for a row of another width."""
    csv.field_size_limit(sys.maxsize)  # a long text is no error
    names: list[str] = next(reader, [])
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
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"line {number}: an object with the columns' names is needed, not {line.strip()[:40]}")
    return found
