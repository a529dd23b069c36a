"""Find runs with the same identity in the folders of the setting `reuse`, so that they need not be trained again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.encoder.saved import has_weights
from bench.errors import UserError
from bench.method import contestant
from bench.runs.identity import Identities
from bench.runs.plan import Planned, runs
from bench.settings import Settings
from bench.sharing.folders import runs_of
from bench.store import RunKey


def reusable_runs(settings: Settings, identities: Identities, key: RunKey | None = None) -> dict[RunKey, Path]:
    """Map planned runs, including trials of studies, to folders of runs with the same identity under `reuse`.

    A run without weights, as in a published folder, is left out if a run that must be trained depends on it.

    Args:
        settings: Settings of the benchmark.
        identities: Identities of its runs.
        key: If given, only this run and those that depend on it are considered, on which it depends whether it is
            reused.

    Raises:
        UserError: If a folder contains no runs, or is that of these results.
    """
    if not settings.reuse:
        return {}
    planned = {run.key: run for run in [*runs(settings), *_trials(settings, key)]}
    if key is not None:
        planned = _with_readers(planned | {key: _planned(settings, key)}, key)
    places = None if key is None else {(each.task, each.seed) for each in planned}
    there: dict[str, Path] = {}
    for folder in settings.reuse:
        if folder.resolve() == settings.root.resolve():
            raise UserError(f"reuse: {folder} is the folder of these results; name another folder, or none")
        for identity, path in _kept(settings, folder.absolute(), places):
            there.setdefault(identity, path)
    hashes = {each: identities.of(each).hash for each in planned}
    found = {each: there[identity] for each, identity in hashes.items() if identity in there}
    while True:
        made = [run for each, run in planned.items() if each not in found]
        needed = {need for run in made for need in run.needs if need in found}
        lacking = {need for need in needed if not has_weights(found[need])}
        if not lacking:
            return found
        found = {each: folder for each, folder in found.items() if each not in lacking}


def _with_readers(planned: dict[RunKey, Planned], key: RunKey) -> dict[RunKey, Planned]:
    """Return a run, the runs that need its model, those that need theirs and so on."""
    found = {key: planned[key]}
    while more := {
        each: run for each, run in planned.items() if each not in found and not found.keys().isdisjoint(run.needs)
    }:
        found |= more
    return found


def _kept(settings: Settings, folder: Path, places: set[tuple[str, int]] | None) -> Iterator[tuple[str, Path]]:
    """Yield (identity, folder) of the successful runs of a results folder that have traces.

    Args:
        settings: Settings of the benchmark.
        folder: The results folder.
        places: Consider only runs of these tasks and seeds; None: all.

    Raises:
        UserError: If no run of the folder has traces.
    """
    if not any(folder.glob("runs/*/*/*/*/trace-*.parquet")):
        points = any(folder.glob("runs/*/*/*/*/run.json"))
        why = "has points only, no traces" if points else "has no runs"
        raise UserError(f"reuse: {folder} {why}; name a results folder, or one published with its traces")
    traces = [f"trace-{split}.parquet" for split in {settings.selection, "validation"}]
    for place in [()] if places is None else sorted(places):
        for run, facts in runs_of(folder, *place).items():
            path = folder / "runs" / run.path
            if facts["status"] == "ok" and all((path / name).is_file() for name in traces):
                yield facts["identity"], path


def _trials(settings: Settings, key: RunKey | None) -> Iterator[Planned]:
    """Yield the trials of the studies that are known in advance from the histories under `reuse`.

    With `key` only those of its task, and those that need models of another task.
    """
    for study in settings.studies:
        for task in study.tasks:
            some = _planned(settings, RunKey(task, study.method, "any", settings.seeds_of(task)[0]))
            if key is None or key.task == task or any(need.task != task for need in some.needs):
                from bench.runs.ratios import foreseen  # imports Optuna, which is slow

                yield from (_planned(settings, each) for each in foreseen(settings, task, study.method, settings.reuse))


def _planned(settings: Settings, key: RunKey) -> Planned:
    return Planned(key, contestant(settings, key.method, key.task).needed(key))
