"""Read results folders of others. Everything in them is untrusted input.

A published folder is plain data. Nothing in it is imported or executed, links are not followed, and only the files in
`PUBLISHED` are read. A run is identified by its folder, which must agree with its `run.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from bench import compat
from bench.analysis.budgets import POINTS_ONLY, SIMPLICITY, TIER
from bench.analysis.metrics import METRICS
from bench.errors import UserError
from bench.exit_policies.policies import BUILTIN
from bench.names import FINDINGS
from bench.settings import Settings, explain
from bench.sharing.records import SPLITS, Records
from bench.sharing.untrusted import irregular, printable, read_mapping, read_table
from bench.store import PART, RunKey
from bench.tasks.catalogue import tasks_of

RUN_FILES = (
    "run.json",
    "costs.json",
    "model/config.json",
    "trace-calibration.parquet",
    "trace-validation.parquet",
    "trace-validation_mismatched.parquet",
)
"""Published files of a run. They contain no weights (only the model's configuration) and no text."""
PUBLISHED = (
    "index.html",
    FINDINGS,
    "all-points.parquet",
    "latency.parquet",
    "tables/*",
    "figures/*.png",
    "sweeps/*/*/trials.parquet",
    "sweeps/*/*/history-*.parquet",
    *(f"runs/*/*/*/*/{name}" for name in RUN_FILES),
)
"""Published files of a results folder. Figures for print are left out; `costeff report` draws them again."""
_RUN_FILE = re.compile(
    r"(run|costs|failure)\.json"
    r"|trace-(calibration|(validation|test)(_matched|_mismatched)?)\.parquet"
    r"|model/([A-Za-z0-9_-]+\.(json|txt|model|jinja|safetensors)|\.snakemake_timestamp)"
)
"""Files that the workflow writes into a run's folder."""
_RUN = ("task", "method", "variant", "seed")
_KINDS = {
    **dict.fromkeys((*_RUN[:3], "label", "kind", "policy", "metric", "split", "status", "reason"), "text"),
    **dict.fromkeys(("profile", "arithmetic", "selection", "source", "operated", "hardware", "torch", TIER), "text"),
    **dict.fromkeys(("seed", "point", "batch_size"), "whole"),
    **dict.fromkeys(("exit", "exit_start", "threshold", "score", *METRICS, "on_frontier"), "number"),
    **dict.fromkeys(("flops", "flops_128", "speedup", "speedup_128", "mean_exit"), "number"),
    **dict.fromkeys(("promised", "seconds", "p95_seconds", "noise_low", "noise_high"), "number"),
    **dict.fromkeys(("mean_layers", "parameters", "parameters_encoder", "examples", "constant"), "number"),
    **dict.fromkeys(("thresholds", "exits"), "numbers"),
    "exits_taken": "bytes",
}
_KINDS |= {old: _KINDS[name] for old, name in compat.FIELDS.items()}
"""Columns of `all-points.parquet` and `latency.parquet`."""
_TIMED = ("operated", "batch_size", "examples", "promised", "speedup", "seconds", "p95_seconds", "hardware", "torch")
"""Columns that a `latency.parquet` has beside those of the run."""
_VALUES = {
    "kind": {*SIMPLICITY, "control"},
    "metric": {*METRICS},
    "split": {"calibration", "validation", "validation_mismatched", "test", "test_mismatched"},
    "selection": {"calibration", "validation"},
    "status": {"ok", "failed"},
    TIER: {POINTS_ONLY},
}
"""Allowed values of categorical columns of `all-points.parquet`; a failed run has no value in some of them."""
_LARGEST = 1e18
_FREE = {"note", "sources", "labels", "columns", "label", "group"}
"""Settings that hold free text or names of the data, which are never expanded."""
MAX_SHOWN = 12
"""Largest number of refused entries in an error message."""

_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _Data(BaseModel):
    fingerprint: _Hash
    reported: _Hash | None = None


class _Method(BaseModel):
    options: dict[str, Any]


class _Asked(BaseModel):
    suite: int
    backbone: dict[str, Any]
    selection: str
    data: _Data
    method: _Method
    checkpoints: dict[str, str] = {}
    budget: dict[str, Any] = {}


class _Where(BaseModel):
    precision: str


class _Text(BaseModel):
    missing_splits: list[str]


class _Backbone(BaseModel):
    name: str
    sha256: str


class _Run(BaseModel):
    """The parts of a `run.json` that are read from folders of others."""

    data: _Text = _Text(missing_splits=[])
    backbone: _Backbone | None = None
    code: str | None = None
    hardware: dict[str, str | None] = {}
    versions: dict[str, str] = {}
    wall_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0


class _Finished(_Run):
    status: Literal["ok"]
    identity: _Hash
    asked: _Asked
    where: _Where


class _Failed(_Run):
    status: Literal["failed"]
    reason: str
    identity: _Hash | None = None


_RunFacts: TypeAdapter[_Finished | _Failed] = TypeAdapter(Annotated[_Finished | _Failed, Field(discriminator="status")])


@dataclass(frozen=True)
class ResultsFolder:
    """Results folder with a checked structure.

    Attributes:
        path: The folder.
        settings: Its settings, without paths; `settings.root` is `path`.
        runs: Run -> content of its `run.json`.
    """

    path: Path
    settings: Settings
    runs: Mapping[RunKey, dict[str, Any]]

    def points(self, records: Records | None = None, splits: Collection[str] = SPLITS) -> pd.DataFrame:
        """Return `all-points.parquet`, after checking the traces and costs of its runs.

        Args:
            records: Checks that remember the examples of other folders, for folders to be merged.
            splits: The splits whose traces are checked.

        Raises:
            UserError: The file is missing, broken, or has points of runs that are not in the folder; or a trace or
                costs file is missing, broken, or contradicts the points, the task or another run.
        """
        table = self._of_runs("all-points.parquet", ("label", "status", "reason", "selection"))
        if problem := _problem(table):
            raise UserError(f"{self.path / 'all-points.parquet'}: {problem}")
        tasks = tasks_of(self.settings.own_tasks)
        _refuse(self.path, (records or Records()).problems(self.path, self.runs, table, tasks, splits))
        return table

    def latencies(self) -> pd.DataFrame:
        """Return `latency.parquet`, or an empty table if no latency was measured.

        Raises:
            UserError: As in `points`.
        """
        if not (self.path / "latency.parquet").is_file():
            return pd.DataFrame()
        return self._of_runs("latency.parquet", _TIMED)

    def traced(self, key: RunKey) -> bool:
        """Return whether a run has a trace of the validation split."""
        return (self.path / "runs" / key.path / "trace-validation.parquet").is_file()

    def run_files(self, key: RunKey) -> Iterator[Path]:
        """Yield the files of a run that are published, as paths relative to its folder."""
        yield from (Path(name) for name in RUN_FILES if (self.path / "runs" / key.path / name).is_file())

    def _of_runs(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        table = compat.table(read_table(self.path / name, _KINDS, required=(*_RUN, *columns)))
        for row in table[[*_RUN]].drop_duplicates().itertuples(index=False):
            if RunKey(*row) not in self.runs:
                place = printable("/".join(map(str, row)))
                raise UserError(f"{self.path / name}: rows of a run that the folder does not contain: {place}")
        return table


def _problem(points: pd.DataFrame) -> str:
    """Return what is wrong with the values of `all-points.parquet`, or an empty string."""
    for name, known in _VALUES.items():
        if name in points and (unknown := set(points[name].dropna()) - known):
            return f"{name} {printable(min(unknown))!r} is not one of {', '.join(sorted(known))}"
    finished = points[points["status"] != "failed"]
    if finished.empty:
        return ""
    for name in ("kind", "point", "policy", "metric", "split", "flops", "exit", "exit_start", "thresholds", "exits"):
        if name not in finished or finished[name].isna().any():
            return f"a finished run without {name}"
    for name in ("score", "speedup"):  # a score may be undefined, and the constant baseline has no speed-up
        if name not in finished:
            return f"no column {name}"
    if finished.duplicated([*_RUN, "kind", "point", "split"]).any():
        return "two rows of one operating point"
    for name, values in finished.select_dtypes("number").items():
        if (values.abs() > _LARGEST).any():
            return f"{name} above {_LARGEST:g}"
    if not finished["score"].dropna().between(-1, 1).all():
        return "a score outside -1 to 1"
    if (finished["speedup"] <= 0).any() or (finished.loc[finished["kind"] != "control", "flops"] <= 0).any():
        return "FLOPs or a speed-up that is not above 0"
    if (finished.groupby("task")["metric"].nunique() > 1).any():
        return "a task that is scored by two metrics"
    exits = finished["exits"].map(len)
    if not (finished["exit"].between(0, exits) & finished["thresholds"].map(len).isin([0, *exits.unique()])).all():
        return "exits or thresholds that the model does not have"
    if "exits_taken" in finished and (finished["exits_taken"].notna() & finished["policy"].isin(BUILTIN)).any():
        return "recorded exits of a policy that is computed from the traces"
    return ""


def open_folder(folder: Path) -> ResultsFolder:
    """Check a results folder and return its settings and runs.

    Args:
        folder: A folder that `costeff publish` or the workflow wrote, under any name.

    Raises:
        UserError: The folder has no runs, or has refused entries, which the message lists.
    """
    refused = [f"{path.relative_to(folder)}: {why}" for path, why in irregular(folder)] if folder.is_dir() else []
    files = [file for file in sorted((folder / "runs").rglob("*")) if file.is_file() and not file.is_symlink()]
    runs = _runs(folder, files, refused)
    if not runs:
        raise UserError(f"{folder} has no runs; name a results folder, or one that `costeff publish` wrote")
    return ResultsFolder(folder, settings_of(folder), runs)


def runs_of(folder: Path, task: str = "*", seed: int | None = None) -> dict[RunKey, dict[str, Any]]:
    """Return the runs of a results folder with the content of their `run.json`.

    Args:
        folder: The results folder.
        task: Return only runs of this task.
        seed: Return only runs with this seed.

    Raises:
        UserError: An entry of these runs is refused.
    """
    places = sorted(folder.glob(f"runs/{task}/*/*/{'*' if seed is None else f'seed{seed}'}"))
    above = dict.fromkeys(each for place in places for each in (*list(place.parents)[2::-1], place))
    refused = [f"{each.relative_to(folder)}: a link" for each in above if each.is_symlink()]
    files: list[Path] = []
    for place in places:
        if place.is_dir() and not place.is_symlink():
            refused += [f"{path.relative_to(folder)}: {why}" for path, why in irregular(place)]
            files += [file for file in sorted(place.rglob("*")) if file.is_file() and not file.is_symlink()]
    return _runs(folder, files, refused)


def settings_of(folder: Path) -> Settings:
    """Return the settings of a results folder without paths, so that no file outside the folder is read.

    Raises:
        UserError: `settings.yaml` is missing, too large or not valid.
    """
    file = folder / "settings.yaml"
    try:
        values = read_mapping(file, _plain_yaml)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if isinstance(values.get("data"), dict) and values["data"].get("path"):
        values["data"]["path"] = "text-is-not-published"
    for key, text in _texts(values):
        if "$" in text.replace("$$", "") or text.startswith("~"):  # $$ is a plain $, which is not expanded
            where = f"{file}: {printable(key)}"
            raise UserError(
                f"{where}: {printable(text)} contains a variable or a home folder; publish the folder again"
            )
    try:
        settings = Settings.model_validate(
            values | {"results": ".", "folder": ".", "reuse": [], "profile": "published"}
        )
    except ValidationError as error:
        raise UserError(f"{file}: {printable(explain(error, Settings))}") from None
    # The name of the folder need not be a valid name of a profile.
    return settings.model_copy(update={"results": folder.absolute().parent, "profile": folder.absolute().name})


def _texts(values: Any, key: str = "settings") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of all texts in nested values that settings may expand; free text and labels are left out."""
    if isinstance(values, dict):
        for name, value in values.items():
            if name not in _FREE:
                yield from _texts(value, str(name))
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value, key)
    elif isinstance(values, str):
        yield key, values


def _plain_yaml(text: str) -> Any:
    """Parse YAML, but refuse aliases: with them a short text can expand to values larger than memory."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the other one takes seconds for a file of this size
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
        raise ValueError("aliases (*name) are not accepted")
    return yaml.load(text, loader)  # a safe loader


def _runs(folder: Path, files: Sequence[Path], refused: list[str]) -> dict[RunKey, dict[str, Any]]:
    """Return the runs of the files below `runs`.

    Args:
        folder: The results folder.
        files: The files.
        refused: Entries refused so far.

    Raises:
        UserError: An entry is refused.
    """
    runs: dict[RunKey, dict[str, Any]] = {}
    for file in files:
        place = file.relative_to(folder / "runs")
        if any(part.startswith(PART) for part in place.parts[4:-1]):  # left by a process that was killed
            continue
        try:
            if len(place.parts) < 5 or not _RUN_FILE.fullmatch("/".join(place.parts[4:])):
                raise UserError("not a file of a run; delete it")
            key = RunKey.of(Path(*place.parts[:4]))
            if place.parts[4:] == ("run.json",):
                runs[key] = _facts(file, key)
        except UserError as error:
            refused.append(f"{file.relative_to(folder)}: {error}")
    _refuse(folder, refused)
    return runs


def _refuse(folder: Path, refused: Sequence[str]) -> None:
    """Raise UserError that lists the refused entries, if there are any."""
    if refused:
        more = f"; and {len(refused) - MAX_SHOWN} more" if len(refused) > MAX_SHOWN else ""
        shown = "; ".join(printable(each) for each in refused[:MAX_SHOWN])
        raise UserError(f"{folder} is refused: {shown}{more}")


def _facts(file: Path, key: RunKey) -> dict[str, Any]:
    """Return the content of a `run.json` that is complete and agrees with the path of its run."""
    facts = read_mapping(file, json.loads)
    if facts.get("key") != key.facts:
        raise UserError(f"its key does not match its path: {json.dumps(facts.get('key'))}")
    try:
        _RunFacts.validate_python(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "status"  # the first part is the status
        raise UserError(f"{where}: {first['msg']}") from None
    return facts
