"""Publish a results folder, and merge several into one."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from bench import compat
from bench.analysis.budgets import RUN
from bench.errors import UserError
from bench.names import LOADED_FROM, valid_name
from bench.settings import Settings, explain
from bench.sharing import points_only as small
from bench.sharing.folders import PUBLISHED, ResultsFolder, open_folder
from bench.sharing.records import Records
from bench.sharing.untrusted import printable
from bench.store import RunKey, complete_or_not_at_all, read_json, read_parquet, write_parquet

log = logging.getLogger(__name__)


def publish(settings: Settings, out: Path, *, points_only: bool = False) -> int:
    """Copy the published files of a profile's results into `out`.

    Args:
        settings: The settings of the profile.
        out: The folder to write; must not exist or be empty.
        points_only: Write chosen points and the facts of the runs alone (`bench.sharing.points_only`).

    Returns:
        Size of `out` in bytes.

    Raises:
        UserError: There are no results, they contain links or special files, `out` is not empty, or others would refuse
            the folder (`ResultsFolder.points`).
    """
    root = settings.root
    if not (root / "all-points.parquet").is_file():
        raise UserError(f"{root} has no results to publish; run the workflow first")
    files = [file for pattern in PUBLISHED for file in sorted(root.glob(pattern)) if not file.name.startswith(".")]
    files = small.files_of(root) if points_only else _of_settings(files, settings)
    above = {place for file in files for place in (file, *file.parents) if place.is_relative_to(root) and place != root}
    if refused := sorted(place for place in above if place.is_symlink() or not (place.is_file() or place.is_dir())):
        named = ", ".join(printable(place.relative_to(root)) for place in refused)
        raise UserError(f"{root}: links and special files are not published: {named}; replace them by files")
    with complete_or_not_at_all(out) as part:
        for file in files:
            target = part / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if points_only and file.suffix == ".json":
                target.write_text(small.shortened(file), encoding="utf-8")
            elif points_only:
                write_parquet(target, small.without_traces(compat.table(read_parquet(file))))
            elif file.name == "config.json":
                target.write_text(json.dumps(_without_paths(read_json(file)), indent=2) + "\n", encoding="utf-8")
            else:
                shutil.copyfile(file, target)
        (part / "settings.yaml").write_text(yaml.safe_dump(placeless(settings), sort_keys=False))
        try:
            open_folder(part).points()
        except UserError as error:
            raise UserError(str(error).replace(str(part), str(root))) from None
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def _of_settings(files: Sequence[Path], settings: Settings) -> list[Path]:
    """Return the files without those of runs that have no points, such as runs of a contestant that was removed."""
    runs, kept = settings.root / "runs", set(small.runs_of(settings.root))
    trials = {study.method for study in settings.studies}  # their runs have no points

    def wanted(file: Path) -> bool:
        parts = file.relative_to(runs).parts[:4] if file.is_relative_to(runs) else ()
        return not parts or Path(*parts) in kept or parts[1] in trials

    return [file for file in files if wanted(file)]


def _without_paths(value: Any) -> Any:
    """Return a model's configuration without the folders that it or its members were loaded from."""
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items() if key != LOADED_FROM}
    return value


def placeless(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain values without paths of this machine."""
    values = settings.model_dump(mode="json") | {"results": str(Path()), "folder": str(Path()), "reuse": []}
    values["data"]["path"] = values["data"]["path"] and "$GLUE_DIR"
    for task in values["own_tasks"].values():
        task["files"] = {split: _last_name(file) for split, file in task["files"].items()}
    for task in values["data"]["tasks"].values():
        if task.get("path"):
            task["path"] = _last_name(str(task["path"]))
    for entry in values["contestants"].values():
        entry |= {name: _without_folders(entry[name]) for name in ("options", "tasks")}
    if Path(values["backbone"]["name"]).is_absolute():
        values["backbone"]["name"] = Path(values["backbone"]["name"]).name
    return values


def _without_folders(value: Any) -> Any:
    """Return options in which checkpoints that are absolute paths, or need a variable or ~, have their last names."""
    if isinstance(value, list | tuple):
        return [_without_folders(each) for each in value]
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, str) and (value.startswith(("~", "/")) or "$" in value.replace("$$", "")):
        return _last_name(value)
    return value


def _last_name(path: str) -> str:
    return re.sub(r"[$~]", "_", Path(path).name)


def merge(folders: Sequence[Path], out: Path, finish: Callable[[Settings], None] = lambda settings: None) -> Settings:
    """Merge results folders, published or not, into `out`.

    Points and traces are copied unchanged. If a run failed in one folder and finished in another, the finished one is
    kept; if only one folder has its traces, the run of that folder. Only latencies of one machine are kept, that of the
    first folder with latencies, because latencies of different machines are not comparable. `out` is written
    atomically: an interrupted merge leaves no partial folder.

    Args:
        folders: The folders, all untrusted (see `bench.sharing.folders`).
        out: The folder to write; its name becomes the name of the profile.
        finish: Called with the settings of the merged folder before it is renamed to `out`, for example to write
            tables.

    Returns:
        The settings of `out`.

    Raises:
        UserError: The folders differ in data, backbone, arithmetic, selection split, counting convention or version of
            the suite; two folders have different results of one run, or runs of one contestant with different options
            or budgets; or a folder has refused entries. The message names the culprit.
    """
    if not valid_name(out.name):
        raise UserError(f"--out {out}: its name becomes the profile's; use letters, digits, points, - and _")
    opened = [open_folder(folder) for folder in folders]
    united: dict[RunKey, ResultsFolder] = {}
    for each in opened:
        _check_alike([of.runs[key] for key, of in united.items()], list(each.runs.values()), folders[0], each.path)
        for key, facts in each.runs.items():
            there = united.setdefault(key, each)
            kept = there.runs[key]
            if len({kept.get("identity"), facts.get("identity")} - {None}) > 1:
                places = " and ".join(str(of.path / "runs" / key.path) for of in (there, each))
                raise UserError(f"{places} were made with different options; rename one of the contestants")
            if kept["status"] != facts["status"]:
                united[key] = there if kept["status"] == "ok" else each
            elif kept["status"] == "ok" and each.traced(key) and not there.traced(key):
                united[key] = each
    check_options(opened)
    with complete_or_not_at_all(out) as part:
        settings = _written(opened, united, part)
        finish(settings)
    return settings.model_copy(update={"results": out.parent})


def _written(opened: Sequence[ResultsFolder], united: Mapping[RunKey, ResultsFolder], out: Path) -> Settings:
    """Write runs, points, latencies and settings of the merged folders into `out`, and return the settings."""
    records = Records()
    every = [folder.points(records) for folder in opened]
    for key, folder in united.items():
        for file in folder.run_files(key):
            source, target = (place / "runs" / key.path / file for place in (folder.path, out))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target, follow_symlinks=False)
    timed = _of_one_machine(opened, out)
    tables = []
    for folder, points in zip(opened, every, strict=True):
        points = points if folder in timed else _untimed(points)
        own = {key for key, of in united.items() if of is folder}
        rows = [RunKey(*key) in own for key in points[["task", "method", "variant", "seed"]].itertuples(index=False)]
        tables.append(points[rows])
    points = pd.concat(tables, ignore_index=True).assign(profile=out.name)
    write_parquet(out / "all-points.parquet", points)
    settings = _united([folder.settings for folder in opened], out)
    (out / "settings.yaml").write_text(yaml.safe_dump(placeless(settings), sort_keys=False))
    return settings


def _of_one_machine(folders: Sequence[ResultsFolder], out: Path) -> list[ResultsFolder]:
    """Write the latencies of the first machine into `out`, and return the folders with latencies of that machine."""
    times = {folder.path: folder.latencies() for folder in folders}
    machines = {path: set(table.get("hardware", ())) for path, table in times.items()}
    first = next((machine for machine in machines.values() if machine), set())
    kept = [folder for folder in folders if machines[folder.path] == first]
    for path, machine in machines.items():
        if machine and machine != first:
            log.warning("latencies in %s left out: measured on %s, not %s", path, _listed(machine), _listed(first))
    if first:
        table = pd.concat([times[folder.path] for folder in kept], ignore_index=True)
        write_parquet(out / "latency.parquet", table.drop_duplicates([*RUN, "operated", "batch_size"]))
    return kept


def _listed(machines: set[str]) -> str:
    return ", ".join(sorted(map(str, machines)))


def _untimed(points: pd.DataFrame) -> pd.DataFrame:
    timed = [name for name in points if re.fullmatch(r"(latency|promised|p95|reference_p95)_\d+(_low|_high)?", name)]
    return points.assign(**dict.fromkeys(timed, float("nan")))


def _check_alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], a: Path, b: Path) -> None:
    """Raise UserError for the first property in which the runs of two folders are not comparable."""
    facts: dict[str, Callable[[dict[str, Any]], Any]] = {
        "the version of the suite": lambda run: run["asked"]["suite"],
        "the backbone": lambda run: run["asked"]["backbone"],
        "the selection split": lambda run: run["asked"]["selection"],
        "arithmetic": lambda run: run["where"]["precision"],
    }
    tasks = {each["key"]["task"] for each in ours} & {each["key"]["task"] for each in theirs}
    facts |= {f"the text of {task}": partial(_reported, task) for task in sorted(tasks)}
    keys = [{(each["key"]["task"], each["key"]["seed"]) for each in runs} for runs in (ours, theirs)]
    shared = sorted(keys[0] & keys[1])
    facts |= {f"the text of {task}, seed {seed}": partial(_text, (task, seed)) for task, seed in shared}
    for what, read in facts.items():
        mine, others = ({str(read(each)) for each in runs if each["status"] == "ok"} - {""} for runs in (ours, theirs))
        if mine and others and mine != others:
            raise UserError(f"{a} and {b} differ in {what} ({min(mine)}; {min(others)}) and cannot be merged")


def check_options(folders: Sequence[ResultsFolder]) -> None:
    """Check that all seeds and tasks of a contestant were trained with the same options, budget and restarts.

    Runs that their folder's settings do not plan are left out: they remain from earlier settings and are in no table.
    Tasks are compared only if no contestant has options of its own for a task.

    Raises:
        UserError: Two runs differ.
    """
    across = not any(entry.tasks for folder in folders for entry in folder.settings.contestants.values())
    seen: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    for folder in folders:
        planned = {task: set(folder.settings.seeds_of(task)) for task in folder.settings.tasks}
        for key, facts in folder.runs.items():
            if facts["status"] != "ok" or key.seed not in planned.get(key.task, ()):
                continue
            place, made = folder.path / "runs" / key.path, _made_with(facts["asked"])
            alike = {name: value for name, value in made.items() if name != "budget.steps"}
            names = (key.method, key.variant)
            for group, values in [((key.task, *names), made), *[(names, alike)] * across]:
                first, others = seen.setdefault(group, (place, values))
                if values != others:
                    what = min(name for name in {*values, *others} if values.get(name) != others.get(name))
                    shown = "; ".join(printable(of.get(what, "not there")) for of in (others, values))
                    raise UserError(
                        f"{first} and {place} were made with different options ({printable(what)}: {shown}); rename "
                        "one of the contestants"
                    )


def _made_with(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, budget and restarts of a run, in which checkpoints are named by their bytes."""
    made = {"restarts": asked.get("restarts"), "checkpoints": sorted(map(str, asked["checkpoints"].values()))}
    made |= {f"budget.{name}": value for name, value in asked.get("budget", {}).items()}
    options = json.dumps(asked["method"])
    for name, digest in asked["checkpoints"].items():
        options = options.replace(json.dumps(name), json.dumps(digest))
    method = json.loads(options)
    made |= {f"method.{name}": value for name, value in method.items() if name != "options"}
    return made | {f"options.{name}": value for name, value in method["options"].items()}


def _reported(task: str, run: dict[str, Any]) -> str:
    """Return the fingerprint of the validation splits if the run is of `task`, else "".

    Runs of version 0.2 have only a fingerprint of all splits, which is returned instead.
    """
    data = run["asked"]["data"]
    return data.get("reported", data["fingerprint"]) if run["key"]["task"] == task else ""


def _text(key: tuple[str, int], run: dict[str, Any]) -> str:
    """Return the fingerprint of all splits if the run has this task and seed, else ""."""
    return run["asked"]["data"]["fingerprint"] if (run["key"]["task"], run["key"]["seed"]) == key else ""


def _united(several: Sequence[Settings], out: Path) -> Settings:
    """Return settings with the contestants, tasks and seeds of all folders, and other values of the first one.

    Raises:
        UserError: They contradict each other.
    """
    values = several[0].model_dump()
    for other in several[1:]:
        values["contestants"] = {name: entry.model_dump() for name, entry in other.contestants.items()} | values[
            "contestants"
        ]
        values["ablations"] = dict(other.ablations) | values["ablations"]
        values["own_tasks"] = {name: own.model_dump() for name, own in other.own_tasks.items()} | values["own_tasks"]
    tasks = list(dict.fromkeys(task for each in several for task in each.tasks))
    seeds = {
        task: sorted({seed for each in several if task in each.tasks for seed in each.seeds_of(task)}) for task in tasks
    }
    shared = sorted(set.intersection(*(set(of_task) for of_task in seeds.values()))) or [min(min(seeds.values()))]
    values |= {"tasks": tasks, "seeds": shared, "more_seeds": seeds, "studies": []}
    try:
        return Settings.model_validate(values | {"results": out.parent, "profile": out.name})
    except ValidationError as error:
        places = " and ".join(str(each.root) for each in several)
        raise UserError(f"the settings of {places} do not fit together: {explain(error, Settings)}") from None
