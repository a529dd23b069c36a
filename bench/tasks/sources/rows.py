"""Rows as a file has them, checked and turned into the columns that everything else works with."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import UserError
from bench.tasks.catalogue import ALIASES, Task

__all__ = ["Columns", "Piece", "Read", "first_line", "join"]

Columns = dict[str, list[Any]]


def _row(number: int) -> str:
    return f"row {number}"


@dataclass(frozen=True)
class Piece:
    """A part of a split: columns as the file has them, under the task's names."""

    origin: str
    """What an error calls it: the file, or its place on the Hub."""
    columns: Columns
    """The task's text columns, `label`, and where there are any `idx`, `difficulty` and `group`."""
    names: tuple[str, ...] = ()
    """Class words in the order of the file's whole-numbered labels, where its metadata has them."""
    at: Callable[[int], str] = field(default=_row)
    """Position -> what an error calls the row: "row 5" from 0, or "line 7" of a text file."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Our name of a column -> the file's own, where they differ."""
    there: tuple[str, ...] = ()
    """The names of all columns of the file, where `columns` are only some of them."""

    def cell(self, row: int, name: str) -> str:
        """What an error calls the value of a column (our name) in a row."""
        return f"{self.origin}: {self.at(row)}: column {self.called.get(name, name)!r}"

    def lacks(self, name: str) -> UserError:
        """The error of a file without a column (our name)."""
        known = ", ".join(self.there or self.columns) or "none"
        return UserError(f"{self.origin}: no column {self.called.get(name, name)!r}; there are {known}")


Read = Callable[[str], list[Piece]]
"""Split name -> its parts in order; none where the source does not have it."""


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def join(task: Task, split: str, pieces: Sequence[Piece]) -> Columns:
    """The columns of a split: texts without outer blanks, `label` as class ids or numbers, `idx`, what else is known.

    Hidden labels (tests only) are -1, or NaN for regression. Rows are numbered in order, but those of a test split
    keep the source's numbers, which a submission needs, where it has distinct ones. UserError that names origin, row
    and column for the first row that cannot be used.
    """
    test = split in task.test_splits
    checked = [_checked(task, piece, test) for piece in pieces]
    known = [name for name in ("difficulty", "group") if all(name in piece.columns for piece in pieces)]
    joined = {name: [value for each in checked for value in each[name]] for name in (*task.columns, "label", *known)}
    joined["idx"] = list(range(len(joined["label"])))
    if test and all("idx" in each for each in checked):
        numbers = [value for each in checked for value in each["idx"]]
        if len(set(numbers)) == len(numbers):
            joined["idx"] = numbers
    return joined


def _checked(task: Task, piece: Piece, test: bool) -> Columns:
    for name in (*task.columns, *(() if test else ("label",))):
        if name not in piece.columns:
            raise piece.lacks(name)
    rows = len(piece.columns[task.columns[0]])
    if not rows:
        raise UserError(f"{piece.origin}: no rows")
    checked = dict(piece.columns)
    for name in task.columns:
        for row, text in enumerate(checked[name]):
            if not isinstance(text, str):
                raise UserError(f"{piece.cell(row, name)} is not text ({text!r})")
            if not text.strip() and name not in task.may_be_empty:
                raise UserError(f"{piece.cell(row, name)} is empty")
        checked[name] = [text.strip() for text in checked[name]]
    labels = checked.get("label", [None] * rows)
    checked["label"] = (_numbers if task.regression else _classes)(task, piece, labels, test)
    if test and "idx" in checked:
        checked["idx"] = [_index(piece, row, value) for row, value in enumerate(checked["idx"])]
    if "group" in checked:
        checked["group"] = [None if value is None else str(value).strip() for value in checked["group"]]
    return checked


def _hidden(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value) or str(value).strip() in ("", "-1", "-1.0")


def _index(piece: Piece, row: int, value: Any) -> int:
    try:
        if int(value) == float(value):
            return int(value)
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"{piece.cell(row, 'idx')} is {value!r}, not a whole number; without that column rows are numbered in order"
    )


def _bad_label(piece: Piece, row: int, value: Any, allowed: str) -> UserError:
    what = "missing" if _hidden(value) else f"{value!r}, {allowed}"
    return UserError(f"{piece.cell(row, 'label')} is {what}")


def _numbers(task: Task, piece: Piece, values: Sequence[Any], test: bool) -> list[float]:
    low, high = task.range
    found = []
    for row, value in enumerate(values):
        what = "outside"
        try:
            number = float("nan") if value is None else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if isinstance(value, bool) or number != number:
            number, what = float("nan"), "not a number from"
        if not low <= number <= high:
            if not (test and _hidden(value)):
                raise _bad_label(piece, row, value, f"{what} {low:g} to {high:g}")
            number = float("nan")
        found.append(number)
    return found


def _classes(task: Task, piece: Piece, values: Sequence[Any], test: bool) -> list[int]:
    ids = {_word(word): number for number, word in enumerate(task.labels)}
    allowed = ", ".join(task.labels)
    if task.numbered:
        ids |= {str(number): number for number in range(task.outputs)}
        allowed += f" or 0 to {task.outputs - 1}"
    if piece.names and isinstance(next((value for value in values if value is not None), None), int):
        ids = by_name(task, piece) or ids
    known: dict[tuple[type, str], int] = {}
    found = []
    for row, value in enumerate(values):
        key = type(value), str(value)
        if key not in known:
            number = ids.get(_word(value))
            if number is None and not (test and _hidden(value)):
                raise _bad_label(piece, row, value, f"none of {allowed}")
            known[key] = -1 if number is None else number
        found.append(known[key])
    return found


def by_name(task: Task, piece: Piece) -> dict[str, int]:
    """The file's whole numbers, as words, -> our class ids, by the names that its metadata gives them.

    Empty where either side only has numbers. Of a task of one's own the last name is known by elimination where at
    least two others are. UserError for names that cannot be matched.
    """
    names, labels = [_word(name) for name in piece.names], [_word(label) for label in task.labels]
    if names == [str(number) for number in range(len(names))] or sorted(labels) == sorted(map(str, range(len(labels)))):
        return {}
    found = {str(position): labels.index(name) for position, name in enumerate(names) if name in labels}
    strange = [position for position, name in enumerate(names) if name not in labels]
    if len(strange) == 1 and len(names) == len(labels) >= 3 and not task.numbered:
        found[str(strange[0])] = next(iter(set(range(len(labels))) - set(found.values())))
        strange = []
    if strange or len(set(found.values())) < len(found):
        raise UserError(
            f"{piece.origin}: its metadata calls the labels {', '.join(piece.names)}; "
            f"{task.name} knows {', '.join(task.labels)}"
        )
    return found


def _word(value: Any) -> str:
    """A label as it is compared: 1.0 is 1, "Not Entailment" is not_entailment."""
    plain = str(value).strip().lower()
    if re.fullmatch(r"-?[0-9]+(\.0*)?", plain):
        return plain.partition(".")[0]
    plain = re.sub(r"[\s-]+", "_", plain)
    return ALIASES.get(plain, plain)
