"""Check the rows of files and convert them to the columns of a task."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import UserError
from bench.names import plain_number
from bench.settings import blank, lookalike
from bench.tasks.catalogue import ALIASES, Task

__all__ = ["Columns", "Joined", "Piece", "Read", "join"]

Columns = dict[str, list[Any]]
_NAMED = 5
"""Largest number of rows, labels or values of a kind that a message lists; further ones are counted."""
_LISTED = 10
"""Largest number of declared labels that a message lists."""


def _row(number: int) -> str:
    return f"row {number}"


@dataclass(frozen=True)
class Piece:
    """Part of a split: columns of a file under the names that the task uses."""

    origin: str
    """Name of the piece in messages: the file, or its place on the Hub."""
    columns: Columns
    """Text columns of the task, `label`, and `idx`, `difficulty` and `group` if they exist."""
    names: tuple[str, ...] = ()
    """Class labels in the order of the file's integer labels, if its metadata has them."""
    at: Callable[[int], str] = field(default=_row)
    """Position -> name of the row in messages: "row 5" from 0, or "line 7" of a text file."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Column of the task -> column of the file, where they differ."""
    there: tuple[str, ...] = ()
    """Names of all columns of the file, if `columns` has only some of them."""
    notes: tuple[str, ...] = ()
    """Assumptions and oddities that the reader reports about the file."""

    def cell(self, row: int, name: str) -> str:
        """Return the name of a cell in messages, by its row and the task's name of its column."""
        return f"{self.origin}: {self.at(row)}: column {self.called.get(name, name)!r}"

    def lacks(self, name: str) -> UserError:
        """Return the error for a file without a column, given by the task's name of it."""
        known = ", ".join(self.there or self.columns) or "none"
        return UserError(f"{self.origin}: no column {self.called.get(name, name)!r}; there are {known}")


Read = Callable[[str], list[Piece]]
"""Function: split name -> its pieces in order; empty if the source does not have the split."""


@dataclass
class Joined:
    """Split made of pieces."""

    columns: Columns
    """Texts, labels and other columns of the usable rows; empty if a column is missing."""
    problems: list[str]
    """One line for each kind of fault, with file, row and column. Rows with a fault are not in `columns`."""
    dropped: int
    """Number of rows left out because a text is empty, where the task allows it."""
    notes: tuple[str, ...]


def join(task: Task, split: str, pieces: Sequence[Piece]) -> Joined:
    """Check and join the pieces of a split.

    Outer blanks of texts are removed. `label` becomes class ids, or numbers in the units of the file; hidden labels,
    allowed only in test splits, become -1 or NaN. `idx` numbers the rows in order, except in a test split with distinct
    numbers of its own, which a submission needs.
    """
    test = split in task.test_splits
    checked = [_checked(task, piece, test) for piece in pieces]
    problems = [problem for each in checked for problem in each.problems]
    dropped = sum(each.dropped for each in checked)
    notes = tuple(note for piece in pieces for note in piece.notes)
    if not all(each.columns for each in checked):
        return Joined({}, problems, dropped, notes)
    columns = [each.columns for each in checked]
    starts = [sum(len(piece.columns[task.columns[0]]) for piece in pieces[:number]) for number in range(len(pieces))]
    known = [name for name in ("difficulty", "group") if all(name in each for each in columns)]
    joined = {name: [value for each in columns for value in each[name]] for name in (*task.columns, "label", *known)}
    joined["idx"] = [start + row for start, each in zip(starts, columns, strict=True) for row in each["row"]]
    if test and all("idx" in each for each in columns):
        numbers = [value for each in columns for value in each["idx"]]
        if len(set(numbers)) == len(numbers):
            joined["idx"] = numbers
    return Joined(joined, problems, dropped, notes)


def _checked(task: Task, piece: Piece, test: bool) -> Joined:
    """Return the usable rows of a piece. The column `row` has their positions in it."""
    missing = [name for name in (*task.columns, *(() if test else ("label",))) if name not in piece.columns]
    if missing:
        return Joined({}, [str(piece.lacks(name)) for name in missing], 0, ())
    rows = len(piece.columns[task.columns[0]])
    if not rows:
        return Joined({}, [f"{piece.origin}: no rows"], 0, ())
    faults, drops = _Faults(piece), bool(task.own and task.own.drop_empty)
    dropped: set[int] = set()
    for name in task.columns:
        for row, text in enumerate(piece.columns[name]):
            if text is None or text != text or (isinstance(text, str) and blank(text)):
                if name in task.may_be_empty and isinstance(text, str):
                    continue
                if drops:
                    dropped.add(row)
                else:
                    remedy = f"; fill it, or set own_tasks.{task.name}.drop_empty: true" if task.own else ""
                    faults.add(row, name, "is empty", remedy)
            elif not isinstance(text, str):
                faults.add(row, name, f"is not text ({_short(text)})", kind="is not text")
            elif not text.isascii() and not _encodable(text):
                faults.add(row, name, "holds half of a surrogate pair, which is no character")
    kept = [row for row in range(rows) if row not in dropped]
    labels = piece.columns.get("label", [None] * rows)
    try:
        found = (_numbers if task.regression else _classes)(task, piece, [labels[row] for row in kept], test)
    except UserError as error:
        return Joined({}, [*faults.lines(), str(error)], len(dropped), ())
    good, numbers = [], []
    for row, (number, complaint) in zip(kept, found, strict=True):
        if complaint:
            faults.add(row, "label", complaint)
        elif row not in faults.rows:
            good.append(row)
            numbers.append(number)
    checked: Columns = {name: [values[row] for row in good] for name, values in piece.columns.items()}
    checked |= {name: [text.strip() for text in checked[name]] for name in task.columns}
    checked |= {"label": numbers, "row": good}
    if test and "idx" in checked:
        checked["idx"] = [_index(piece, row, value) for row, value in zip(good, checked["idx"], strict=True)]
    if "group" in checked:
        checked["group"] = [_group(value) for value in checked["group"]]
    return Joined(checked, faults.lines(), len(dropped), ())


class _Faults:
    """Faults of a piece: each kind once, with its rows."""

    def __init__(self, piece: Piece) -> None:
        self.rows: set[int] = set()
        self._piece = piece
        self._found: dict[tuple[str, str], tuple[str, str, list[int]]] = {}

    def add(self, row: int, name: str, complaint: str, remedy: str = "", kind: str | None = None) -> None:
        """Record a fault in a row. `name` is the task's name of the column."""
        self.rows.add(row)
        self._found.setdefault((name, kind or complaint), (complaint, remedy, []))[2].append(row)

    def lines(self) -> list[str]:
        """Return one line for each kind of fault, and a count where a column has many kinds."""
        listed, counts = [], dict[str, int]()
        for (name, _), (complaint, remedy, rows) in self._found.items():
            counts[name] = counts.get(name, 0) + 1
            if counts[name] <= _NAMED:
                listed.append(f"{self._piece.cell(rows[0], name)} {complaint}{self._others(rows)}{remedy}")
        for name, count in counts.items():
            if count > _NAMED:
                column = self._piece.called.get(name, name)
                listed.append(f"{self._piece.origin}: column {column!r}: {count - _NAMED} more values cannot be used")
        return listed

    def _others(self, rows: Sequence[int]) -> str:
        if len(rows) == 1:
            return ""
        places = ", ".join(self._piece.at(row) for row in rows[1 : _NAMED + 1])
        return f" (in {len(rows)} rows; next: {places}{', ...' if len(rows) > _NAMED + 1 else ''})"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _absent(value: Any) -> bool:
    """Return whether a cell has no value."""
    return value is None or (isinstance(value, float) and value != value) or str(value).strip() == ""


def _hidden(value: Any) -> bool:
    return _absent(value) or str(value).strip() in ("-1", "-1.0")


def _group(value: Any) -> str | None:
    """Return the name of a group, or None for a row without a group."""
    if value is None or value != value:  # NaN, and pandas' NaT
        return None
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return str(whole).strip() or None


def _index(piece: Piece, row: int, value: Any) -> int:
    try:
        if _written(value) and int(value) == float(value):
            return int(value)
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"{piece.cell(row, 'idx')} is {value!r}, not a whole number; without that column rows are numbered in order"
    )


def _complaint(value: Any, allowed: str) -> str:
    return "is missing" if _absent(value) else f"is {_short(value)}, {allowed}"


Found = list[tuple[float, str]]
"""For each row, its class id or number, and a description of its fault ("" if there is none)."""


def _written(value: Any) -> bool:
    """Return whether a cell may hold a number: a text must be in decimal digits, and booleans are none."""
    if isinstance(value, str):
        return plain_number(value.strip())
    return value is not None and not isinstance(value, bool)


def _numbers(task: Task, piece: Piece, values: Sequence[Any], test: bool) -> Found:
    low, high = task.range
    found: Found = []
    for value in values:
        what = "outside"
        try:
            number = float(value) if _written(value) else float("nan")
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if number != number:
            what = "not a number from"
        wrong = not low <= number <= high
        if wrong and test and _hidden(value):
            number, wrong = float("nan"), False
        found.append((number, _complaint(value, f"{what} {low:.6g} to {high:.6g}") if wrong else ""))
    return found


def _classes(task: Task, piece: Piece, values: Sequence[Any], test: bool) -> Found:
    written = _glue_words if task.is_glue else _as_written
    ids = {written(label)[0]: number for number, label in enumerate(task.labels)}
    if task.is_glue:
        ids |= {str(number): number for number in range(task.outputs)}
    if piece.names and isinstance(next((value for value in values if value is not None), None), int):
        ids = by_name(task, piece) or ids
    known: dict[tuple[type, str], tuple[float, str]] = {}
    found: Found = []
    for value in values:
        key = type(value), str(value)
        if key not in known:
            number = next((ids[word] for word in written(value) if word in ids), None)
            wrong = number is None and not (test and _hidden(value))
            known[key] = (-1 if number is None else number, _not_declared(task, value) if wrong else "")
        found.append(known[key])
    return found


def _not_declared(task: Task, value: Any) -> str:
    """Return the description of a label that is not declared; for an own task with the most similar declared label."""
    allowed = f"none of {', '.join(task.labels)}"
    if task.is_glue:
        return _complaint(value, f"{allowed} or 0 to {task.outputs - 1}")
    if len(task.labels) > _LISTED:
        allowed = f"none of the {len(task.labels)} declared labels"
    plain = {lookalike(label): label for label in task.labels}
    near = plain[difflib.get_close_matches(lookalike(value), plain, n=1, cutoff=0.0)[0]]
    if lookalike(value) != lookalike(near):
        return _complaint(value, f"{allowed}; the nearest is {near!r}")
    shown = repr if (str(value) + near).isascii() else ascii
    return f"is {shown(str(value))}, and the declared label is {shown(near)}: use one form for both"


def by_name(task: Task, piece: Piece) -> dict[str, int]:
    """Map the integer labels of a file, as text, to class ids, by the class names in the file's metadata.

    Returns:
        The mapping, empty if the names in the metadata or in the task are only numbers.

    Raises:
        UserError: A name in the metadata is not a label of the task.
    """
    written = _glue_words if task.is_glue else _as_written
    names, labels = [written(name)[0] for name in piece.names], [written(label)[0] for label in task.labels]
    if names == [str(number) for number in range(len(names))] or sorted(labels) == sorted(map(str, range(len(labels)))):
        return {}
    if set(names) - set(labels) or len(set(names)) < len(names):
        raise UserError(
            f"{piece.origin}: its metadata calls the labels {', '.join(piece.names)}; "
            f"{task.name} has the labels {', '.join(task.labels)}"
        )
    return {str(position): labels.index(name) for position, name in enumerate(names)}


def _as_written(value: Any) -> list[str]:
    """Return the forms in which a label of an own task may be declared, the most exact first.

    These are the label as written, without outer blanks, and for a whole number without a decimal point. Booleans of
    JSON and Parquet become `true` and `false`.
    """
    exact = str(value)
    if isinstance(value, bool):
        return [exact.lower(), exact]
    plain = exact.strip()
    return [exact, plain, re.sub(r"^([+-]?[0-9]+)\.0*$", r"\1", plain)]


def _glue_words(value: Any) -> list[str]:
    """Return a label of GLUE in normal form.

    For example, 1.0 becomes 1 and "Not Entailment" becomes not_entailment. Aliases are replaced.
    """
    plain = str(value).strip().lower()
    if re.fullmatch(r"-?[0-9]+(\.0*)?", plain):
        return [plain.partition(".")[0]]
    plain = re.sub(r"[\s-]+", "_", plain)
    return [ALIASES.get(plain, plain)]
