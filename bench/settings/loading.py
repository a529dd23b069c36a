"""Load settings from YAML profiles, for the command line and the workflow."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bench.errors import UserError
from bench.names import plain_number
from bench.settings.sections import Contestant, Settings
from bench.settings.values import expand, explain, literal, merge

PACKAGED = Path(__file__).parents[1] / "packaged"
"""Folder with links to the Snakefile, the workflow, and the profiles of the suite and of Snakemake; files in a
wheel."""


_INT8 = "bench.precision.int8:Int8"
"""Method of the contestants that `precision_axis` adds."""


class _Loader(yaml.SafeLoader):
    """Loader that reads only decimal numbers as numbers: 1_0, 0x1F, 010 and 1:30 stay texts, as they are written."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    text = loader.construct_scalar(node)
    special = text.lower().lstrip("+-") in (".inf", ".nan")
    if not special and (not plain_number(text) or re.match(r"[+-]?0[0-9]", text)):
        return text
    read = loader.construct_yaml_int if node.tag.endswith("int") else loader.construct_yaml_float
    return read(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)


def load(path: str | Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Load the settings of a YAML file.

    A profile is a file, or the name of a profile of the suite (`sketch`). It may build on another profile with
    `extends: <file beside it, or a name>`. `~`, `$VAR` and `${VAR}` are expanded in settings that are paths, not in
    `path`; `$$` stands for one `$`. A relative `data.path`, or file of `own_tasks`, is relative to the folder of the
    file that states it, and in a variable or in `overrides` to the current folder. Modules of contestants are searched
    in the folder of this file.

    Args:
        path: The profile.
        overrides: Values that replace those of the profile.

    Returns:
        The validated settings.

    Raises:
        UserError: The profile is not valid; the message names the key, its value and what is allowed.
    """
    return load_several([path], overrides or {})


def load_several(paths: Sequence[str | Path], overrides: dict[str, Any]) -> Settings:
    """Load several profiles as `load` does; later ones override earlier ones."""
    values: dict[str, Any] = {}
    for path in paths:
        file = profile_file(str(path), Path(), "settings")
        values = _over(values, {"folder": literal(str(file.parent.absolute()))} | _read(file), file.name)
    return check(_over(values, _placed(overrides, Path()), "--config"), ", ".join(str(path) for path in paths))


def packaged_profiles() -> list[str]:
    """Return the names of the profiles of the suite."""
    return sorted(path.stem for path in (PACKAGED / "config").glob("*.yaml"))


def profile_file(name: str, folder: Path, where: str) -> Path:
    """Return the file of a profile.

    Args:
        name: Name of a profile of the suite (`sketch`), or a path.
        folder: Folder to which a path is relative.
        where: Prefix of the error message.

    Raises:
        UserError: The suite has no profile with this name.
    """
    if Path(name).suffix or name != Path(name).name:
        return folder / name
    own = packaged_profiles()
    if name not in own:
        raise UserError(
            f"{where}: no profile of the suite is named {name!r}; the profiles are {', '.join(own)}; "
            "to use a file, write its suffix, such as mine.yaml"
        )
    return (PACKAGED / "config" / f"{name}.yaml").resolve()


def check(values: dict[str, Any], where: str) -> Settings:
    """Return validated settings of a parsed mapping.

    Args:
        values: The mapping.
        where: Prefix of the error message.

    Raises:
        UserError: The settings are not valid.
    """
    try:
        return Settings.model_validate(_with_precisions(_with_likes(values, where), where))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, Settings)}") from None


def _with_likes(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the settings in which each contestant has the values of the one it is `like`, unless it sets its own.

    An entry with all keys, as in the settings.yaml that the workflow writes, is complete: what it lacks was removed.

    Raises:
        UserError: The other contestant does not exist, or is like this one.
    """
    entries = _mapping(values.get("contestants"))

    def full(name: str, before: tuple[str, ...]) -> Any:
        entry = entries[name]
        if not isinstance(other := _mapping(entry).get("like"), str) or entry.keys() >= Contestant.model_fields.keys():
            return entry
        key = f"{where}: contestants.{name}.like"
        if other not in entries:
            raise UserError(f"{key}: {other!r} is not a contestant; the contestants are {', '.join(map(str, entries))}")
        if other in before:
            raise UserError(f"{key}: {' -> '.join((*before, other))} is circular; give one of them a `method`")
        below = _mapping(full(other, (*before, other)))
        return _marked(merge(below, entry), entry, Path(where).name)

    return values | {"contestants": {name: full(name, (name,)) for name in entries}} if entries else values


def _with_precisions(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the settings with a contestant <name>-int8 for each contestant if `precision_axis` has int8.

    Ablations have none.

    Raises:
        UserError: A contestant has such a name, or `precision_axis` lacks float32.
    """
    axis, entries = values.get("precision_axis"), _mapping(values.get("contestants"))
    if not isinstance(axis, list) or "int8" not in axis:
        return values
    if "float32" not in axis:
        raise UserError(f"{where}: precision_axis = {axis}: int8 models are made from float32 ones; add float32")
    made = {}
    for name, entry in entries.items():
        if name in _mapping(values.get("ablations")) or _mapping(entry).get("method") == _INT8:
            continue
        own = {"method": _INT8, "options": {"of": name}}
        there = _mapping(entries.get(f"{name}-int8"))
        if there and there.get("method") != _INT8:
            raise UserError(
                f"{where}: contestants.{name}-int8: precision_axis adds a contestant of this name; rename yours"
            )
        made[f"{name}-int8"] = own | there
    return values | {"contestants": entries | made}


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the values of a profile merged over those of the profiles that it extends."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a safe loader
        values = {} if values is None else values
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        suite = ", ".join(packaged_profiles())
        raise UserError(f"settings {path}: {reason}; name a YAML file, or a profile of the suite: {suite}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-13-01
        raise UserError(f"settings {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"settings {path}: a mapping of keys is needed, not {type(values).__name__}")
    values = _placed(values, path.parent)
    if "extends" not in values:
        return values
    where = f"{path}: extends"
    parent = profile_file(expand(str(values.pop("extends")), where), path.parent.absolute(), where).resolve()
    if parent in (here := (*seen, path.resolve())):
        raise UserError(f"{path}: extends {parent.name}, which extends this file; remove one `extends`")
    below = _read(parent, here)
    below.pop("folder", None)  # the folder is that of the first file, not of those it extends
    return _over(below, values, path.name)


def _over(below: dict[str, Any], values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the values of the profile `name` merged over `below`.

    The source of an option that it changes, without stating a source, becomes the profile itself. Where it removes the
    contestant of the primary comparisons, those against its rivals go too.
    """
    merged = merge(below, values)
    before, own_data = (_mapping(_mapping(each.get("data")).get("tasks")) for each in (below, values))
    for task, own in own_data.items():
        if isinstance(own, dict):  # null here is the default, and not the value of the whole section
            merged["data"]["tasks"][task] = merge(_mapping(before.get(task)), own, keep_null=True)
    primary = _mapping(_mapping(merged.get("comparison")).get("primary"))
    removed = [each for each, entry in _mapping(values.get("contestants")).items() if entry is None]
    if primary.get("contestant") in removed:
        merged["comparison"] = merge(merged["comparison"], {"primary": {"contestant": None}})
    entries = _mapping(merged.get("contestants"))
    for contestant, own in _mapping(values.get("contestants")).items():
        if contestant in entries:
            entries[contestant] = _marked(entries[contestant], own, name)
    return merged


def _marked(entry: Any, own: Any, name: str) -> Any:
    """Return a contestant with the profile `name` as the source of each option that `own` sets without a source.

    Args:
        entry: The contestant, with the values of `own`.
        own: The values that the profile states for it.
        name: Name of the profile.
    """
    sources, own = _mapping(_mapping(entry).get("sources")), _mapping(own)
    if not sources or "sources" in own:
        return entry
    sections = [_mapping(each) for each in (own.get("options"), *_mapping(own.get("tasks")).values())]
    changed = {key for section in sections for key in section}
    here = {key: f"here ({name})" for key in sources if str(key).partition(".")[0] in changed}
    return entry | {"sources": sources | here}


def _mapping(value: Any) -> dict[Any, Any]:
    """Return `value` if it is a mapping, else an empty one; validation refuses values of the wrong type."""
    return value if isinstance(value, dict) else {}


def _placed(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a file in `folder` with absolute paths of the data, as jobs in any folder read them."""
    values = copy.deepcopy(values)
    data = _mapping(values.get("data"))
    named = [(section, "path") for section in (data, *map(_mapping, _mapping(data.get("tasks")).values()))]
    for task in _mapping(values.get("own_tasks")).values():
        files = _mapping(_mapping(task).get("files"))
        named += [(files, split) for split in files]
    for section, key in named:
        if isinstance(section.get(key), str):
            section[key] = _from(folder, section[key])
    return values


def _from(folder: Path, name: str) -> str:
    """Return the absolute path that `name` means in a file in `folder`.

    A relative path in a variable is relative to the current folder, as in a shell.
    """
    if name.startswith("~") or (name.startswith("$") and not name.startswith("$$")):
        try:
            expanded = expand(name, "path")
        except UserError:  # validation names the setting, unless another profile replaces it
            return name
        return literal(str(Path(expanded).absolute())) if expanded else name
    return name if Path(name).is_absolute() else str(Path(literal(str(folder.absolute()))) / name)
