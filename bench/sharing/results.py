"""Results that leave the folder they were made in: what others need of them; what two people found, united."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bench.analysis.budgets import RUN
from bench.errors import UserError
from bench.settings import Settings, load
from bench.store import RunKey, read_json, read_parquet_if_there, write_parquet

log = logging.getLogger(__name__)

FILES = (
    "index.html",
    "all-points.parquet",
    "latency.parquet",
    "tables/*",
    "figures/*.png",
    "sweeps/*/*/trials.parquet",
    "sweeps/*/*/history-*.parquet",
    "runs/*/*/*/*/run.json",
    "runs/*/*/*/*/costs.json",
    "runs/*/*/*/*/model/config.json",
    "runs/*/*/*/*/trace-*.parquet",
)
"""What others need of a results folder: no weights (a model's configuration is its shape), no text, and no drawings for
print, which `costeff report` makes again."""


def publish(settings: Settings, out: Path) -> int:
    """Copies what others need of a profile's results into `out`; returns its size in bytes.

    Raises UserError where the results are not there, or `out` holds something already.
    """
    root = settings.root
    if not (root / "all-points.parquet").is_file():
        raise UserError(f"{root} has no results to publish; run the workflow first")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; name a folder that is not there yet, or remove it")
    for pattern in FILES:
        for file in sorted(root.glob(pattern)):
            if not file.name.startswith(("trace-test", ".")):
                target = out / file.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    values = placeless(settings)
    (out / "settings.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def placeless(settings: Settings) -> dict[str, Any]:
    """The settings as plain values without paths of this machine, which say nothing elsewhere."""
    values = settings.model_dump(mode="json") | {"results": str(Path()), "folder": str(Path()), "reuse": []}
    values["data"]["path"] = values["data"]["path"] and "$GLUE_DIR"
    for task in values["own_tasks"].values():
        task["files"] = {split: Path(file).name for split, file in task["files"].items()}
    if Path(values["backbone"]["name"]).is_absolute():
        values["backbone"]["name"] = Path(values["backbone"]["name"]).name
    return values


def merge(folders: Sequence[Path], out: Path) -> Settings:
    """Unites results folders (published ones, or a person's own) in `out`; returns its settings, for the report.

    Points and traces are copied as they are. Of times those of one machine stay, the first folder's that has any: what
    two machines took is no comparison. Raises UserError, by name, for other data, backbone, arithmetic, protocol,
    counting convention or version of the suite, and where both hold a run that was asked otherwise.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; name a folder that is not there yet, or remove it")
    first, *others = ({path: read_json(path / "run.json") for path in _runs(folder)} for folder in folders)
    known = {_key(facts): (path, facts) for path, facts in first.items()}
    for folder, runs in zip(folders[1:], others, strict=True):
        _check_alike([facts for _, facts in known.values()], list(runs.values()), folders[0], folder)
        for path, facts in runs.items():
            there = known.setdefault(_key(facts), (path, facts))
            if there[1].get("identity") != facts.get("identity"):
                raise UserError(f"{there[0]} and {path} were asked otherwise; name one of the contestants anew")
    for key, (path, _) in known.items():
        shutil.copytree(path, out / "runs" / key.path, ignore=shutil.ignore_patterns("*.safetensors", "trace-test*"))
    kept = _of_one_machine(folders, out)
    points = pd.concat(
        [_points(folder) if folder in kept else _untimed(_points(folder)) for folder in folders], ignore_index=True
    )
    run, point = ["task", "method", "variant", "seed"], ["kind", "point", "split"]
    points = points.drop_duplicates([*run, *(name for name in point if name in points)]).assign(profile=out.name)
    write_parquet(out / "all-points.parquet", points.reset_index(drop=True))
    settings = _united([load(folder / "settings.yaml") for folder in folders], out)
    (out / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    return settings


def _runs(folder: Path) -> Iterator[Path]:
    found = [path.parent for path in sorted(folder.glob("runs/*/*/*/*/run.json"))]
    if not found:
        raise UserError(f"{folder} holds no runs; name a results folder, or one that `costeff publish` wrote")
    yield from found


def _key(facts: dict[str, Any]) -> RunKey:
    return RunKey(**facts["key"])


def _points(folder: Path) -> pd.DataFrame:
    path = folder / "all-points.parquet"
    if not path.is_file():
        raise UserError(f"{path} is not there; publish the folder again")
    return pd.read_parquet(path)


def _of_one_machine(folders: Sequence[Path], out: Path) -> set[Path]:
    """The folders whose times may stand beside each other; theirs are united in `out`."""
    times = {folder: read_parquet_if_there(folder / "latency.parquet") for folder in folders}
    machines = {folder: set(table.get("hardware", ())) for folder, table in times.items()}
    first = next((machine for machine in machines.values() if machine), set())
    kept = {folder for folder, machine in machines.items() if machine == first}
    for folder in [folder for folder in folders if folder not in kept and machines[folder]]:
        log.warning(
            "the times in %s are of %s, not of %s: left out", folder, ", ".join(machines[folder]), ", ".join(first)
        )
    if first:
        table = pd.concat([times[folder] for folder in folders if folder in kept], ignore_index=True)
        write_parquet(out / "latency.parquet", table.drop_duplicates([*RUN, "operated", "batch_size"]))
    return kept


def _untimed(points: pd.DataFrame) -> pd.DataFrame:
    timed = [name for name in points if re.fullmatch(r"(latency|promised|p95|reference_p95)_\d+(_low|_high)?", name)]
    return points.assign(**dict.fromkeys(timed, float("nan")))


def _check_alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], a: Path, b: Path) -> None:
    """Raises UserError for the first thing in which two folders' runs cannot be compared."""
    facts: dict[str, Callable[[dict[str, Any]], Any]] = {
        "the version of the suite": lambda run: run["asked"]["suite"],
        "the backbone": lambda run: run["asked"]["backbone"],
        "the split that choices are made on": lambda run: run["asked"]["selection"],
        "arithmetic": lambda run: run["where"]["precision"],
    }
    tasks = {_key(each).task for each in ours} & {_key(each).task for each in theirs}
    facts |= {f"the text of {task}": partial(_text, task) for task in sorted(tasks)}
    for what, read in facts.items():
        mine, others = ({str(read(each)) for each in runs if each["status"] == "ok"} - {""} for runs in (ours, theirs))
        if mine and others and mine != others:
            raise UserError(f"{a} and {b} differ in {what} ({min(mine)}; {min(others)}) and cannot be united")


def _text(task: str, run: dict[str, Any]) -> str:
    return run["asked"]["data"]["fingerprint"] if _key(run).task == task else ""


def _united(several: Sequence[Settings], out: Path) -> Settings:
    """Settings of all their contestants, tasks and seeds; the rest is the first one's."""
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
    return Settings.model_validate(values | {"results": out.parent, "profile": out.name})
