"""Read results folders that others made: everything in them is untrusted input.

A published folder is plain data. Nothing in it is imported or executed, links are never followed, only the files of
`FILES` are read, and a run is known by the folder it lies in, which must agree with its `run.json`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from bench.errors import UserError
from bench.settings import Settings, explain
from bench.store import LARGEST_SEED, RunKey, valid_name

RUN_FILES = ("run.json", "costs.json", "model/config.json", "trace-*.parquet")
"""Files of a run that others need: no weights (a model's configuration is its shape) and no text."""
FILES = (
    "index.html",
    "all-points.parquet",
    "latency.parquet",
    "tables/*",
    "figures/*.png",
    "sweeps/*/*/trials.parquet",
    "sweeps/*/*/history-*.parquet",
    *(f"runs/*/*/*/*/{name}" for name in RUN_FILES),
)
"""Files of a results folder that others need; `costeff report` can draw figures for print again."""
MAX_JSON_BYTES = 4_000_000
MAX_SHOWN = 8
"""Refused entries that an error message names."""


@dataclass(frozen=True)
class ResultsFolder:
    """A results folder whose structure has been checked.

    Attributes:
        path: The folder.
        settings: Its settings; paths in them point to nothing, and `settings.root` is `path`.
        runs: Run -> content of its `run.json`.
    """

    path: Path
    settings: Settings
    runs: Mapping[RunKey, dict[str, Any]]

    def points(self) -> pd.DataFrame:
        """Return `all-points.parquet`.

        Raises:
            UserError: If it is missing, broken, or holds points of runs that are not in the folder.
        """
        table = read_table(self.path / "all-points.parquet")
        columns = ["task", "method", "variant", "seed"]
        if missing := [name for name in columns if name not in table]:
            raise UserError(f"{self.path / 'all-points.parquet'}: no column {missing[0]}; publish the folder again")
        known = {(key.task, key.method, key.variant, key.seed) for key in self.runs}
        for row in table[columns].drop_duplicates().itertuples(index=False):
            if tuple(row) not in known:
                raise UserError(
                    f"{self.path / 'all-points.parquet'}: points of a run that is not there: {tuple(row)!r}"
                )
        return table

    def run_files(self, key: RunKey) -> Iterator[Path]:
        """Yield the files of a run that others need, as paths below its folder; test traces are left out."""
        folder = self.path / "runs" / key.path
        for pattern in RUN_FILES:
            for file in sorted(folder.glob(pattern)):
                if not file.name.startswith("trace-test"):
                    yield file.relative_to(folder)


def open_folder(folder: Path) -> ResultsFolder:
    """Check a results folder and return what is known of it.

    Args:
        folder: A folder that `costeff publish` or the workflow wrote, under any name.

    Raises:
        UserError: If it holds no runs, or anything that is refused; the message names each refused entry.
    """
    refused = [f"{path.relative_to(folder)}: {why}" for path, why in _unsafe(folder)]
    runs = _runs(folder, sorted(folder.glob("runs/*/*/*/*/run.json")), refused)
    if not runs:
        raise UserError(f"{folder} holds no runs; name a results folder, or one that `costeff publish` wrote")
    return ResultsFolder(folder, settings_of(folder), runs)


def runs_of(folder: Path, task: str = "*", seed: int | None = None) -> dict[RunKey, dict[str, Any]]:
    """Return the runs of a results folder, of one task and seed if given, with the content of their `run.json`.

    Raises:
        UserError: If an entry of these runs is refused.
    """
    files = sorted(folder.glob(f"runs/{task}/*/*/{'*' if seed is None else f'seed{seed}'}/run.json"))
    places = dict.fromkeys(place for file in files for place in file.parents if place.is_relative_to(folder / "runs"))
    refused = [f"{place.relative_to(folder)}: a link" for place in places if place.is_symlink()]
    for file in files:
        refused += [f"{path.relative_to(folder)}: {why}" for path, why in _unsafe(file.parent)]
    return _runs(folder, files, refused)


def _runs(folder: Path, files: Sequence[Path], refused: list[str]) -> dict[RunKey, dict[str, Any]]:
    """Return the runs of `files`; raise UserError if one of them is refused, or something was before."""
    runs: dict[RunKey, dict[str, Any]] = {}
    for file in files if not refused else ():
        try:
            key = _key_of(file.parent.relative_to(folder / "runs"))
            runs[key] = _facts(file, key)
        except UserError as error:
            refused.append(f"{file.relative_to(folder)}: {error}")
    if refused:
        more = f"; and {len(refused) - MAX_SHOWN} more" if len(refused) > MAX_SHOWN else ""
        raise UserError(f"{folder} is refused: {'; '.join(refused[:MAX_SHOWN])}{more}")
    return runs


def settings_of(folder: Path) -> Settings:
    """Return the settings of a results folder, without paths, so that nothing outside of it is ever looked for.

    Raises:
        UserError: If `settings.yaml` is missing, too large or not valid.
    """
    file = folder / "settings.yaml"
    try:
        values = _parsed(file, yaml.safe_load)
    except UserError as error:
        raise UserError(f"{folder} is refused: {error}") from None
    if isinstance(values.get("data"), dict) and values["data"].get("path"):
        values["data"]["path"] = "text-is-not-published"
    try:
        settings = Settings.model_validate(values | {"results": "", "folder": "", "reuse": [], "profile": "published"})
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error, Settings)}") from None
    # The folder may have any name; it need not be one that a profile could have.
    return settings.model_copy(update={"results": folder.absolute().parent, "profile": folder.absolute().name})


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file that others wrote.

    Raises:
        UserError: If it is missing or broken.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; publish the folder again")
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds for broken files
        raise UserError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())[:200]})") from None


def _unsafe(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield links and special files in a folder, with the reason for refusing them; links are not followed."""
    for place, folders, files in os.walk(folder):
        for entry in sorted(Path(place) / name for name in [*folders, *files]):
            mode = entry.lstat().st_mode
            if stat.S_ISLNK(mode):
                yield entry, "a link"
            elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                yield entry, "not a regular file"


def _key_of(relative: Path) -> RunKey:
    """Return the run of a folder <task>/<method>/<variant>/seed<k>.

    Raises:
        UserError: If a part is not a valid name, or the seed is not a valid seed.
    """
    *names, last = relative.parts
    for name in names:
        if not valid_name(name):
            raise UserError(f"{name!r} is not a valid name")
    seed = re.fullmatch(r"seed(0|[1-9]\d{0,9})", last)
    if not seed or int(seed[1]) > LARGEST_SEED:
        raise UserError(f"{last!r} is not a seed from 0 to {LARGEST_SEED}")
    return RunKey(*names, int(seed[1]))


def _facts(file: Path, key: RunKey) -> dict[str, Any]:
    """Return the content of a run.json that agrees with its place and has what `merge` and `reuse` read."""
    facts = _parsed(file, json.loads)
    if facts.get("key") != key.facts:
        raise UserError(f"says that it is {json.dumps(facts.get('key'))[:200]}, which is not its place")
    if facts.get("status") not in ("ok", "failed"):
        raise UserError("status is neither ok nor failed")
    if not re.fullmatch(r"[0-9a-f]{16}", str(facts.get("identity", "0" * 16))):
        raise UserError("identity is not a hash")
    if facts["status"] == "ok":
        for path in ("identity", "asked.suite", "asked.backbone", "asked.selection", "asked.data.fingerprint",
                     "where.precision"):  # fmt: skip
            value: Any = facts
            for part in path.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is None:
                raise UserError(f"{path} is missing")
    elif not isinstance(facts.get("reason"), str):
        raise UserError("a failed run without a reason")
    return facts


def _parsed(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Return the mapping in a file of at most `MAX_JSON_BYTES` bytes.

    Raises:
        UserError: If the file is missing, too large, not UTF-8, not valid, nested too deeply or not a mapping.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{file.name} is larger than {MAX_JSON_BYTES / 1e6:g} MB")
        values = parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file.name} cannot be read ({' '.join(str(error).split())[:200]})") from None
    except RecursionError:
        raise UserError(f"{file.name} is nested too deeply") from None
    if not isinstance(values, dict):
        raise UserError(f"{file.name} holds {type(values).__name__}, not a mapping")
    return values
