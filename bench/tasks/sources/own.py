"""Readers of own tasks: CSV, TSV, JSON lines or Parquet files, or a data set of the Hub."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bench.errors import UserError, first_line
from bench.names import plain_number
from bench.settings import OwnTask
from bench.tasks.sources.glue import hub_reader, parquet
from bench.tasks.sources.rows import Columns, Piece, Read
from bench.tasks.sources.text import delimited, json_rows

__all__ = ["own_reader"]


def own_reader(own: OwnTask) -> Read:
    """Return a reader of the declared splits. The label and group columns are renamed to `label` and `group`.

    Raises:
        UserError: A file or data set is unreadable.
    """
    renamed = {own.label: "label"} | ({own.group: "group"} if own.group else {})
    wanted = {**{name: name for name in own.columns}, **renamed}
    files = {str(split): file for split, file in own.files.items()}
    from_hub = hub_reader(own.hub, own.subset, own.revision, tuple(wanted), own.label) if own.hub else None

    def read(split: str) -> list[Piece]:
        pieces = from_hub(split) if from_hub else [_file(own, files[split], tuple(wanted))] if split in files else []
        return [_chosen(piece, wanted, group_needed=split == "train" and bool(own.group)) for piece in pieces]

    return read


def _chosen(piece: Piece, wanted: Mapping[str, str], group_needed: bool) -> Piece:
    """Return a piece with only the wanted columns.

    Args:
        piece: The piece.
        wanted: Column of the file -> column of the task.
        group_needed: Whether a missing group column is an error.

    Raises:
        UserError: The group column is missing.
    """
    columns = {ours: piece.columns[theirs] for theirs, ours in wanted.items() if theirs in piece.columns}
    chosen = replace(piece, columns=columns, called={ours: theirs for theirs, ours in wanted.items()})
    if group_needed and "group" not in columns:
        raise chosen.lacks("group")
    return chosen


def _file(own: OwnTask, file: Path, wanted: tuple[str, ...]) -> Piece:
    if file.suffix == ".parquet":
        return parquet(file, wanted, own.label)
    try:
        if file.suffix in (".csv", ".tsv"):
            found = delimited(file, own.columns, own.label, _is_label(own))
        else:
            found = json_rows(file)
        if not found.names:
            raise ValueError("the file is empty")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {first_line(error)}") from error
    for name in wanted:
        if found.names.count(name) > 1:
            raise UserError(f"{file}: line 1: column {name!r} occurs twice in the header; rename or remove one")
    columns: Columns = {name: [row.get(name) for row in found.rows] for name in wanted if name in found.names}
    notes = tuple(f"{file.name}: {note}" for note in found.notes)
    return Piece(str(file), columns, at=found.places.__getitem__, there=tuple(found.names), notes=notes)


def _is_label(own: OwnTask) -> Callable[[str], bool]:
    """Return a function that checks whether a cell of the label column is a label of the task."""
    labels = {str(label) for label in own.labels or ()}

    def is_label(cell: str) -> bool:
        if labels:
            return cell.strip() in labels
        number = cell.strip()
        return own.range is not None and plain_number(number) and own.range[0] <= float(number) <= own.range[1]

    return is_label
