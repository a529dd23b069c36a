"""Read text files as rows: CSV, TSV, JSON lines and JSON arrays, with their encoding and line numbers."""

import codecs
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["TextRows", "decoded", "delimited", "json_rows"]

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass
class TextRows:
    """Rows of a text file, in order."""

    names: list[str]
    """Columns of the file; a name may occur twice."""
    rows: list[dict[str, Any]]
    places: list[str]
    """Name of each row in messages, such as "line 7"."""
    notes: list[str] = field(default_factory=list)
    """Assumptions and oddities that the reader reports about the file, one line each."""


def decoded(file: Path) -> tuple[str, list[str]]:
    """Read a file as UTF-8, or as UTF-16 if it has that byte order mark.

    Returns:
        The text without a byte order mark, and notes.

    Raises:
        ValueError: A byte is invalid in that encoding (the message names the line), or the text has NUL characters.
        OSError: The file cannot be read.
    """
    content = file.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if wide else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(_lines(content[: error.start].decode(encoding, errors="ignore") + "x"))
        name = "UTF-16" if wide else "UTF-8"
        raise ValueError(f"line {line}: byte {error.start} is not valid {name}; save the file as UTF-8") from error
    if "\0" in text:
        line = len(_lines(text[: text.index("\0")] + "x"))
        raise ValueError(f"line {line}: a NUL character, as in UTF-16 without a byte order mark; save it as UTF-8")
    return text, ["the file is UTF-16"] if wide else []


def delimited(file: Path, columns: Sequence[str], label: str, is_label: Callable[[str], bool]) -> TextRows:
    """Read a CSV or TSV file with a header.

    TSV files have no quoting, as in GLUE: a quotation mark is part of the text. Cells of CSV files may be quoted. The
    delimiter of a CSV file is the first of comma, semicolon, tab and vertical bar with which the header contains
    `columns`.

    Args:
        file: The file. Its suffix decides between CSV and TSV.
        columns: Columns that must be in the header.
        label: The label column, which may be missing.
        is_label: Function that returns whether a cell is a valid label. It is used to detect stray quotation marks,
            which merge several rows into one cell.

    Raises:
        ValueError: A row is broken; the message names the line.
    """
    csv.field_size_limit(sys.maxsize)  # texts may be long
    text, notes = decoded(file)
    lines = _lines(text)
    plain = file.suffix == ".tsv"
    delimiter = "\t" if plain else _delimiter(lines, columns)
    if not plain and delimiter != ",":
        notes.append(f"columns are separated by {_DELIMITERS[delimiter]} (guessed from the header)")
    style: dict[str, Any] = {"delimiter": delimiter}
    style |= {"quoting": csv.QUOTE_NONE} if plain else {"strict": True}
    found = TextRows([], [], [], notes)
    reader = csv.reader(iter(lines), **style)
    start, quoted = 1, 0
    try:
        found.names = [name.strip() for name in next(reader, [])]
        start = reader.line_num + 1
        for row in reader:
            if not row and plain and len(found.names) == 1:
                row = [""]
            if row and len(row) != len(found.names):
                raise ValueError(f"line {start}: {len(row)} columns, where the header has {len(found.names)}")
            if row:
                if label in found.names:
                    _check_span(lines, start, row, delimiter, found.names.index(label), is_label)
                quoted += plain and any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in row)
                found.rows.append(dict(zip(found.names, row, strict=True)))
                found.places.append(f"line {start}")
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {start}: {error}") from error
    if quoted:
        found.notes.append(
            f"{quoted} rows have a cell in quotation marks, which are part of the text in TSV; if they only enclose "
            "it, rename the file to .csv"
        )
    return found


def json_rows(file: Path) -> TextRows:
    """Read JSON lines, or a JSON array of objects.

    Raises:
        ValueError: A line or element is not an object; the message names it.
    """
    text, notes = decoded(file)
    if text.lstrip().startswith("["):
        elements = _parsed(text, "not a JSON array")
        found = [(f"element {number}", value) for number, value in enumerate(elements, start=1)]
    else:
        found = [
            (f"line {number}", _parsed(line, "not JSON", f"line {number}: "))
            for number, line in enumerate(_lines(text), start=1)
            if line.strip()
        ]
    for place, value in found:
        if not isinstance(value, dict):
            raise ValueError(f"{place}: an object with the columns' names is needed, not {json.dumps(value)[:40]}")
    names = list(dict.fromkeys(name for _, row in found for name in row))
    return TextRows(names, [row for _, row in found], [place for place, _ in found], notes)


def _lines(text: str) -> list[str]:
    """Return the lines of a text with their line ends. Only LF, CR LF and CR end a line."""
    return list(io.StringIO(text, newline=""))


def _delimiter(lines: Sequence[str], columns: Sequence[str]) -> str:
    for delimiter in _DELIMITERS:
        names = [name.strip() for name in next(csv.reader(iter(lines), delimiter=delimiter), [])]
        if set(columns) <= set(names):
            return delimiter
    return ","


def _check_span(
    lines: Sequence[str], first: int, row: Sequence[str], delimiter: str, place: int, is_label: Callable[[str], bool]
) -> None:
    """Check that no cell of a row contains a line that is a row itself.

    Lines on which a quoted cell can begin or end are not checked for a label of their own.

    Args:
        lines: All lines of the file.
        first: Number of the first line of the row.
        row: Cells of the row.
        delimiter: The delimiter.
        place: Position of the label column.
        is_label: Function that returns whether a cell is a valid label.

    Raises:
        ValueError: A cell contains a row.
    """
    broken = [number for number, cell in enumerate(row) if "\n" in cell or "\r" in cell]
    if not broken:
        return
    last = first + sum(len(_lines(row[number] + "x")) - 1 for number in broken)
    for number in range(first + (place < broken[0]), last + (place < broken[-1])):
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            cells = next(csv.reader([lines[number - 1]], delimiter=delimiter, quoting=quoting), [])
            if len(cells) == len(row) and is_label(cells[place]):
                raise ValueError(
                    f"line {first}: a quotation mark opens a cell that contains line {number}, which is a row with a "
                    "label; double the marks within a text, or save it as .tsv, which has no quoting, or as .jsonl"
                )


def _parsed(text: str, fault: str, place: str = "") -> Any:
    """Parse JSON.

    Raises:
        ValueError: The text is not JSON, or an object has a name twice. The message is one line.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place}{fault}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a mapping; raise ValueError if a name occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"column {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found
