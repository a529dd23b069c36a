"""Nested plain values, as YAML gives them: merging, names, paths, and one line for what is wrong."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from bench.errors import UserError
from bench.names import LARGEST_SEED, valid_name

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
_LONGEST_PATH = 3000
"""Bytes of the results folder: Linux allows paths of 4,095, and a run's files lie some 350 below."""


def expand(text: str, where: str) -> str:
    """Return `text` with a leading `~` and variables (`$NAME`, `${NAME}`) expanded.

    Raises:
        UserError: A variable is not set, or the home folder is not known; the line begins with `where`.
    """
    try:
        return _expanded(text)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _expanded(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise ValueError(f"{text!r} names the variable {name}, which is not set; set it, or write the value")
        return os.environ[name]

    try:
        home = str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:
        raise ValueError(
            f"{text!r}: this home folder is not known; write the path, or ./~ for that character"
        ) from None
    return _VARIABLE.sub(value, home)


def _path(value: Any) -> Any:
    """Expand a path given as text, and refuse one that no file system takes."""
    if not isinstance(value, str):
        return value
    text = _expanded(value)
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError(f"{text!r}: a path cannot hold line breaks or other control characters")
    if not text:
        raise ValueError("an empty path; write . for the current folder")
    if _VARIABLE.search(text):
        raise ValueError(f"{value!r} is {text!r}, which names a variable again; rename that folder")
    if text.startswith("~"):  # a home folder again, once these settings are written down and read by a job
        text = f"./{text}"
    return text


def _results(path: Path) -> Path:
    """Refuse a folder whose paths Snakemake cannot match, or the file system cannot hold."""
    if found := {"{", "}"} & set(str(path)):
        raise ValueError(f"{str(path)!r} holds {min(found)}, which Snakemake reads as a wildcard; rename the folder")
    parts = [len(os.fsencode(part)) for part in path.parts]
    if max(parts, default=0) > 255 or len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise ValueError("the path is too long; name a folder of at most 255 bytes a part")
    return path


def _name(value: str) -> str:
    if not valid_name(value):
        raise ValueError(
            f"{value!r} is not a name: 1 to 64 letters, digits, points, _ and -, "
            "beginning with a letter or digit and not ending with a point or 20 repetitions"
        )
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, not {'yes' if value else 'no'}")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""A name of a task, contestant or variant: see `bench.store.valid_name`."""
Whole = Annotated[int, BeforeValidator(_number)]
Count = Annotated[Whole, Field(le=10**9)]
"""A whole number, or its digits: Snakemake's `--config` leaves the numbers of a mapping as text."""
Seed = Annotated[Whole, Field(ge=0, le=LARGEST_SEED)]
"""What torch, NumPy and Python take as a seed."""
PathSetting = Annotated[Path, BeforeValidator(_path)]
"""A path: `~` and variables are expanded in it. Other texts are taken as written."""
Results = Annotated[PathSetting, AfterValidator(_results)]
"""The folder of results, which Snakemake must be able to match."""
Checkpoint = Annotated[str, BeforeValidator(_path)]
"""A checkpoint's name, which may be a folder: expanded like a path. Also for options of methods."""


def twins(names: Iterable[str]) -> str:
    """Return what is wrong with names that are equal, or differ only in capital letters; "" if nothing is.

    Their folders would be one on file systems that ignore case.
    """
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(name.lower())) is not None:
            return f"{name!r} is named twice" if other == name else f"{other!r} and {name!r} differ only in case"
        seen[name.lower()] = name
    return ""


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `top` over it: nested mappings are merged, other values replaced, and null removes a key."""
    merged = dict(base)
    for key, value in top.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def lookalike(label: Any) -> str:
    """Return a form of `label` that is equal for labels that a reader could confuse.

    Case, blanks, invisible characters and Unicode compatibility forms (NFKC) do not count, nor do zeros after the
    point of a whole number: `US` and `us`, `1` and `1.0` are alike; `+` and `++` are not.
    """
    visible = "".join(letter for letter in str(label) if unicodedata.category(letter) != "Cf")
    plain = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold()).split())
    return re.sub(r"^([+-]?[0-9]+)\.0*$", r"\1", plain)


def explain(error: ValidationError, section: type[BaseModel]) -> str:
    """Return the first problem of a validation error of a section of the settings, as one line."""
    first, more = error.errors()[0], error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"] if part not in ("function-after", "[key]")) or "settings"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such key" + _allowed(first["loc"], section)
    elif first["type"] != "value_error" and first["type"] != "missing":
        message = f"{message}, not {_short(first['input'])}"
    return " ".join(f"{key}: {message}".split()) + (f" (and {more} more)" if more else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _allowed(loc: tuple[int | str, ...], model: Any) -> str:
    """Return the keys of the section of `model` that `loc` ends in, if it is one of the suite's."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return ""
        model = field.annotation
    if isinstance(model, type) and issubclass(model, BaseModel):
        return f"; there are {', '.join(model.model_fields)}"
    return ""
