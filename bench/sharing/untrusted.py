"""Read untrusted files. Each function checks its input and raises a one-line error for a bad file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import UserError

MAX_MAPPING_BYTES = 4_000_000
MAX_CELLS = 200_000_000
"""Largest number of values of a table, those in lists included. A compressed file of a few kilobytes can decompress to
more than memory."""
MAX_TABLE_BYTES = 1_000_000_000
"""Largest size of a table in memory."""


def printable(value: object, *, most: int = 300) -> str:
    """Return `str(value)` on one line: control characters are escaped, and it is cut after `most` characters."""
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(value))
    return text if len(text) <= most else f"{text[:most]}..."


def irregular(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield links and special files in a folder, with a description of each. Links are not followed.

    Raises:
        UserError: A folder in it cannot be read.
    """

    def stop(error: OSError) -> None:
        raise UserError(f"{printable(error.filename)} cannot be read ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=stop):
        for entry in sorted(Path(place) / name for name in [*folders, *files]):
            mode = entry.lstat().st_mode
            if stat.S_ISLNK(mode):
                yield entry, "a link"
            elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                yield entry, "not a regular file"


def read_mapping(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Return the mapping in a JSON or YAML file.

    Args:
        file: A regular file of at most `MAX_MAPPING_BYTES` bytes in UTF-8.
        parse: `json.loads` or `yaml.safe_load`.

    Raises:
        UserError: The file is missing, too large, not UTF-8, not valid, nested too deeply or not a mapping.
    """
    try:
        if file.is_symlink() or not file.is_file():
            raise UserError(f"{file.name} does not exist or is not a regular file")
        if file.stat().st_size > MAX_MAPPING_BYTES:
            raise UserError(f"{file.name} is larger than {MAX_MAPPING_BYTES / 1e6:g} MB")
        values = parse(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise UserError(f"{file.name} is nested too deeply") from None
    except UserError:
        raise
    except Exception as error:  # parsers raise many kinds: ValueError, YAMLError, and AttributeError for odd tags
        raise UserError(f"{file.name} cannot be read ({printable(error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{file.name} holds {type(values).__name__}, not a mapping")
    return values


def read_table(path: Path, kinds: Mapping[str, str], *, required: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a Parquet table with one value per cell.

    Args:
        path: The file.
        kinds: Column -> `text`, `number`, `whole` (an integer), `numbers` (a list of numbers in each cell) or `bytes`.
            Other columns may contain texts or numbers. Any column may be empty.
        required: Columns that must exist.

    Raises:
        UserError: The file is missing, broken or too large, or a column is missing or of another kind.
    """
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path} does not exist or is not a regular file; publish the folder again")
    try:
        with pq.ParquetFile(path) as file:
            table = _bounded(file)
    except Exception as error:  # pyarrow raises many kinds for broken files
        raise UserError(f"{path}: not a readable Parquet file ({printable(error)})") from None
    if table is None:
        raise UserError(f"{path}: more than {MAX_CELLS} values, or {MAX_TABLE_BYTES / 1e9:g} GB when decompressed")
    names = table.column_names
    if missing := [name for name in required if name not in names]:
        raise UserError(f"{path}: no column {missing[0]}; publish the folder again")
    for name, column in zip(names, table.schema, strict=True):
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns {printable(name)}")
        if not _is(column.type, kinds.get(name, "")):
            wanted = kinds.get(name, "text or number")
            raise UserError(f"{path}: column {printable(name)} holds {printable(column.type)}, not {wanted}")
    # The metadata may name an index of its own; it is not needed.
    return table.replace_schema_metadata(None).to_pandas()


def cells(facts: pq.FileMetaData) -> int:
    """Return the number of values in a Parquet file, those in lists included."""
    groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
    return sum(group.column(place).num_values for group in groups for place in range(group.num_columns))


def _bounded(file: pq.ParquetFile) -> pa.Table | None:
    """Return the table of a file, or None if it is too large in memory. Texts that repeat are stored once in a file."""
    facts = file.metadata
    if max(cells(facts), facts.num_rows) > MAX_CELLS:
        return None
    stored = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
    size, batches = 0, []
    for batch in file.iter_batches(batch_size=min(4096, max(1, MAX_TABLE_BYTES // max(1, stored)))):
        size += batch.nbytes
        if size > MAX_TABLE_BYTES:
            return None
        batches.append(batch)
    return pa.Table.from_batches(batches, file.schema_arrow)


def _is(kind: pa.DataType, wanted: str) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    whole = pa.types.is_integer(kind)
    number = whole or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    numbers = listed and (pa.types.is_floating(kind.value_type) or pa.types.is_null(kind.value_type))
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    fits = {"text": text, "whole": whole, "number": number, "numbers": numbers, "bytes": binary, "": text or number}
    return pa.types.is_null(kind) or fits[wanted]
