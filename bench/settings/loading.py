"""The one way from YAML profiles to settings, for the command line and the workflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bench.errors import UserError
from bench.settings.sections import Settings
from bench.settings.values import expand, expand_all, explain, merge

PACKAGED = Path(__file__).parents[1] / "packaged"
"""The workflow, the suite's own profiles and Snakemake's, wherever the package lies: the checkout's own, by links."""


def load(path: str | Path, overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of a YAML file, with `overrides` on top: the one way in for the command line and the workflow.

    A profile is a file, or the bare name of one of the suite's own (`sketch`), and may build on another with
    `extends: <file beside it, or a bare name>`. `~`, `$VAR` and `${VAR}` are expanded, in the path
    and in every text; a relative `data.path`, or file of `own_tasks`, is meant from the folder of the file that says
    it, and contestants' modules are looked for in the folder of this one. Raises UserError with one line that names
    the key, its value and what is allowed.
    """
    return load_several([path], overrides or {})


def load_several(paths: Sequence[str | Path], overrides: dict[str, Any]) -> Settings:
    """`load` of several profiles, each on top of those before it."""
    values: dict[str, Any] = {}
    for path in paths:
        file = profile_file(expand(str(path), "settings"), Path(), "settings")
        values = _over(values, {"folder": str(file.parent.absolute())} | _read(file), file.name)
    return check(_over(values, overrides, "--config"), ", ".join(str(path) for path in paths))


def profile_file(name: str, folder: Path, where: str) -> Path:
    """The file of a profile: of the suite's own by its bare name (`sketch`), of another by its path from `folder`.

    Raises UserError, which begins with `where`, for a bare name that none of the suite's own has.
    """
    if Path(name).suffix or name != Path(name).name:
        return _from(folder, name) if folder != Path() else Path(name)
    own = sorted(path.stem for path in (PACKAGED / "config").glob("*.yaml"))
    if name not in own:
        raise UserError(
            f"{where}: no profile of the suite is named {name!r}; there are {', '.join(own)}; "
            "a file of your own is named with its ending, such as mine.yaml"
        )
    return (PACKAGED / "config" / f"{name}.yaml").resolve()


def check(values: dict[str, Any], where: str) -> Settings:
    """Settings of a parsed mapping; `where` is named in the error."""
    try:
        return Settings.model_validate(expand_all(values, where))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, Settings)}") from None


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a profile over those that it extends."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"settings {path}: {reason}; name a YAML file, or a profile of the suite: sketch") from None
    except yaml.YAMLError as error:
        raise UserError(f"settings {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"settings {path}: a mapping of keys is needed, not {type(values).__name__}")
    data, own = values.get("data"), values.get("own_tasks")
    named = [(data, "path")] if isinstance(data, dict) else []
    for task in own.values() if isinstance(own, dict) else ():
        files = task.get("files") if isinstance(task, dict) else None
        named += [(files, split) for split in files] if isinstance(files, dict) else []
    for section, key in named:
        if isinstance(section.get(key), str):
            section[key] = str(_from(path.parent, section[key]))
    if "extends" not in values:
        return values
    where = f"{path}: extends"
    parent = profile_file(expand(str(values.pop("extends")), where), path.parent.absolute(), where).resolve()
    if parent in (here := (*seen, path.resolve())):
        raise UserError(f"{path}: extends {parent.name} goes round in a circle")
    below = _read(parent, here)
    below.pop("folder", None)  # where its own contestants lie, not this one's
    return _over(below, values, path.name)


def _over(below: dict[str, Any], values: dict[str, Any], name: str) -> dict[str, Any]:
    """The values `name` over those below it; what it changes of a recipe, and gives no source for, is chosen there."""
    merged = merge(below, values)
    for contestant, own in (values.get("contestants") or {}).items():
        entry = merged["contestants"].get(contestant) or {}
        if isinstance(own, dict) and entry.get("sources"):
            sections = [own.get("options") or {}, *(each or {} for each in (own.get("tasks") or {}).values())]
            changed = {key for section in sections for key in section} if "sources" not in own else set()
            here = {key: f"here ({name})" for key in entry["sources"] if key.partition(".")[0] in changed}
            merged["contestants"][contestant] = entry | {"sources": entry["sources"] | here}
    return merged


def _from(folder: Path, name: str) -> Path:
    """A path as a file in `folder` means it; one that begins with a variable or ~ is left for later."""
    return Path(name) if name.startswith(("$", "~")) else (folder / name).absolute()
