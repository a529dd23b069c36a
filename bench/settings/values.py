"""Nested plain values, as YAML gives them: merged, expanded, and what is wrong with them in one line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.errors import UserError

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?"
"""Pattern of a valid name, for regular expressions that match the whole of it."""
LARGEST_SEED = 2**32 - 1


def valid_name(name: object) -> bool:
    """Return whether `name` can be the name of a task, contestant, variant or profile.

    Names are folders, parts of workflow paths and table cells: 1 to 64 letters, digits, points, underscores and
    hyphens, beginning with a letter or digit and not ending with a point.
    """
    return isinstance(name, str) and re.fullmatch(NAME, name) is not None


def expand(text: str, where: str) -> str:
    """`text` with `~` and variables expanded. Raises UserError that names a variable that is not set."""
    home = str(Path(text).expanduser()) if text.startswith("~") else text
    expanded = os.path.expandvars(home)
    if unset := re.search(r"\$([A-Za-z_]\w*|\{[A-Za-z_]\w*\})", expanded):
        name = unset[1].strip("{}")
        raise UserError(f"{where}: {text!r} names the variable {name}, which is not set; set it, or write the value")
    return expanded


def expand_all(value: Any, where: str) -> Any:
    """Every text of nested values expanded; `where` names it in an error."""
    if isinstance(value, dict):
        return {key: expand_all(each, f"{where}: {key}") for key, each in value.items()}
    if isinstance(value, list):
        return [expand_all(each, where) for each in value]
    return expand(value, where) if isinstance(value, str) else value


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings are merged; everything else in `top` wins, and null removes a key."""
    merged = dict(base)
    for key, value in top.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def explain(error: ValidationError, section: type[BaseModel]) -> str:
    """The first problem of a validation error of a section of the settings, as one line."""
    first, more = error.errors()[0], error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"] if part != "function-after") or "settings"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such key" + _allowed(first["loc"], section)
    elif first["type"] != "value_error" and first["type"] != "missing":
        message = f"{message}, not {first['input']!r}"
    return f"{key}: {message}" + (f" (and {more} more)" if more else "")


def _allowed(loc: tuple[int | str, ...], model: Any) -> str:
    """The keys of the section of `model` that `loc` ends in, where it is one of ours."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return ""
        model = field.annotation
    if isinstance(model, type) and issubclass(model, BaseModel):
        return f"; there are {', '.join(model.model_fields)}"
    return ""
