"""Types and helpers for setting values: merging, names, paths, and one-line descriptions of errors."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from bench.errors import UserError
from bench.names import LARGEST_SEED, plain_number, valid_name

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\}|\$)", re.ASCII)
"""A variable, or $$, which stands for one $."""
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols without ink."""
_LONGEST_PATH = 3000
"""Largest number of bytes of the results folder. Linux allows paths of 4,095; the files of a run need about 350
more."""


def expand(text: str, where: str) -> str:
    """Return `text` with a leading `~` and variables (`$NAME`, `${NAME}`) expanded; `$$` becomes `$`.

    Args:
        text: The text.
        where: Prefix of the error message.

    Raises:
        UserError: A variable is not set, or the home folder is unknown.
    """
    try:
        return _expanded(text)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _expanded(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not name:
            return "$"
        if name not in os.environ:
            raise ValueError(f"{text!r} uses the variable {name}, which is not set; set it, or write the value")
        return os.environ[name]

    try:
        home = str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:
        raise ValueError(f"{text!r}: this home folder is unknown; write the path, or ./~ for a literal ~") from None
    return _VARIABLE.sub(value, home)


def literal(text: str) -> str:
    """Return a path in the form that `expand` turns back into `text`: each `$` doubled, and `./` before a `~`."""
    return ("./" if text.startswith("~") else "") + text.replace("$", "$$")


def _path(value: Any) -> Any:
    """Expand a path given as text, and refuse one that is not valid in a file system."""
    if not isinstance(value, str):
        return value
    text = _expanded(value)
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError(f"{text!r}: a path cannot hold line breaks or other control characters")
    if not text:
        raise ValueError("an empty path; write . for the current folder")
    return text


def _checkpoint(value: Any) -> Any:
    """Expand the name of a checkpoint to one that does not change if a job that reads these settings expands it."""
    text = _path(value)
    if isinstance(text, str) and literal(text) != text:
        if "$" in text:
            raise ValueError(f"{value!r} is {text!r}, which contains a $; rename that folder")
        text = f"./{text}"
    return text


def check_part(key: str, value: int | float) -> None:
    """Raise ValueError if the size of a part is neither a count nor a fraction."""
    if value < 0 or (isinstance(value, float) and not 0 < value < 1):
        raise ValueError(f"{key} = {value}: must be a count, or a fraction between 0 and 1")


def _results(path: Path) -> Path:
    """Refuse a folder that Snakemake cannot match, or whose files would have paths that are too long."""
    if found := {"{", "}"} & set(str(path)):
        raise ValueError(f"{str(path)!r} holds {min(found)}, which Snakemake reads as a wildcard; rename the folder")
    parts = [len(os.fsencode(part)) for part in path.parts]
    if max(parts, default=0) > 255 or len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise ValueError("the path is too long; use a folder whose parts have at most 255 bytes each")
    return path


def _name(value: str) -> str:
    if not valid_name(value):
        raise ValueError(
            f"{value!r} is not a name: 1 to 64 letters, digits, points, _ and -, "
            "beginning with a letter or digit and not ending with a point or 20 repetitions"
        )
    return value


def _misread(given: Any, read: Any) -> str:
    """Return what is wrong with a value that pydantic has read as a number or as yes or no; "" if nothing is."""
    if isinstance(read, bool):
        number = isinstance(given, int | float) and not isinstance(given, bool)
        return f"yes or no is needed, not {given}" if number else ""
    if isinstance(read, int | float):
        if isinstance(given, bool):
            return f"a number is needed, not {'yes' if given else 'no'}"
        if isinstance(given, str) and not all(map(plain_number, given.split("/", 1))):
            return f"a number in decimal digits is needed, such as 10 or 1.0e-3, not {_short(given)}"
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(read, list | tuple) and isinstance(given, list | tuple):
        pairs = zip(given, read, strict=False)
    elif isinstance(read, dict) and isinstance(given, dict):
        pairs = ((given.get(key), value) for key, value in read.items())
    return next(filter(None, (_misread(*pair) for pair in pairs)), "")


class Values(BaseModel):
    """Base class of sections of the settings and of options of methods.

    Unknown keys, infinity and NaN are errors, and so are booleans as numbers, numbers as booleans, and texts such as
    1_0 as numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _as_written(cls, given: Any, read: ValidatorFunctionWrapHandler) -> Any:
        value = read(given)
        if wrong := _misread(given, value):
            raise ValueError(wrong)
        return value


Name = Annotated[str, AfterValidator(_name)]
"""Name of a task, contestant or variant; see `bench.names.valid_name`."""
Count = Annotated[int, Field(le=10**9)]
"""Whole number, or its digits: `--config` of Snakemake passes the numbers in a mapping as text.

A range in the `Field` of a default does not narrow that of an annotated type; fields with a range of their own are int.
"""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""Seed that torch, NumPy and Python accept."""
BatchCount = Annotated[int, Field(ge=1, le=2**14)]
"""Number of examples in a batch."""
Layers = Annotated[int, Field(ge=1, le=1000)]
"""Number of layers, or of an exit."""
Width = Annotated[int, Field(ge=1, le=2**16)]
"""Hidden size, number of neurons or of attention heads."""
LearningRate = Annotated[float, Field(gt=0, le=1e6)]
"""Learning rate. Also for options of methods, as are the types above."""
SpeedUp = Annotated[float, Field(gt=0, le=10_000)]
"""Speed-up over the reference."""
PathSetting = Annotated[
    Path, BeforeValidator(_path), PlainSerializer(lambda path: literal(str(path)), return_type=str, when_used="json")
]
"""Path in which `~` and variables are expanded. Settings of other types are not expanded."""
Results = Annotated[PathSetting, AfterValidator(_results)]
"""Folder of results, whose path Snakemake can match."""
Checkpoint = Annotated[str, BeforeValidator(_checkpoint)]
"""Name of a checkpoint, which may be a folder: expanded like a path. Also for options of methods."""


def twins(names: Iterable[str]) -> str:
    """Return an error message for names that are equal except for case, or "" if there are none.

    Folders with such names would be the same on file systems that ignore case.
    """
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(name.lower())) is not None:
            return f"{name!r} is named twice" if other == name else f"{other!r} and {name!r} differ only in case"
        seen[name.lower()] = name
    return ""


def merge(base: dict[str, Any], top: dict[str, Any], *, keep_null: bool = False) -> dict[str, Any]:
    """Return `top` merged over `base`: nested mappings are merged, other values replaced, and None removes a key.

    With `keep_null` None replaces the value, for a mapping that is merged over another one later.
    """
    merged = dict(base)
    for key, value in top.items():
        if value is None and not keep_null:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value, keep_null=keep_null)
        else:
            merged[key] = value
    return merged


def blank(text: str) -> bool:
    """Return whether `text` has no visible character.

    Blanks, control and format characters (such as U+200B), fillers and combining marks without a letter are invisible.
    """
    return all(
        letter in _FILLERS or unicodedata.category(letter) in ("Cc", "Cf", "Mn", "Zl", "Zp", "Zs") for letter in text
    )


def quoted(label: str) -> str:
    """Return the label in quotes, with escapes where other characters look the same."""
    return repr(label) if label.isascii() else ascii(label)


def lookalike(label: Any) -> str:
    """Return a normal form of `label` that is equal for labels that readers could confuse.

    Differences in case, blanks, invisible characters and Unicode compatibility forms (NFKC) are ignored, and so are
    zeros after the decimal point of a whole number: `US` and `us` are equal, and so are `1` and `1.0`, but not `+` and
    `++`.
    """
    visible = "".join(letter for letter in str(label) if unicodedata.category(letter) != "Cf")
    plain = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold()).split())
    return re.sub(r"^([+-]?[0-9]+)\.0*$", r"\1", plain)


def explain(error: ValidationError, section: type[BaseModel]) -> str:
    """Return a one-line description of the first problem in a validation error.

    Args:
        error: The error.
        section: The section of the settings that was validated.
    """
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
    """Return the keys allowed where `loc` ends in the section `model`, or "" outside the suite's sections."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return ""
        model = field.annotation
    if isinstance(model, type) and issubclass(model, BaseModel):
        return f"; there are {', '.join(model.model_fields)}"
    return ""
