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
        key: If given, only the runs of its task and seed are considered.

    Raises:
        UserError: If a folder contains no runs, or is that of these results.
    """
    if not settings.reuse:
        return {}
    there: dict[str, Path] = {}
    for folder in settings.reuse:
        if folder.resolve() == settings.root.resolve():
            raise UserError(f"reuse: {folder} is the folder of these results; name another folder, or none")
        for identity, path in _kept(folder.absolute(), key):
            there.setdefault(identity, path)
    tasks = None if key is None else [key.task]
    planned = {run.key: run for run in [*runs(settings, tasks), *_trials(settings, key)]}
    if key is not None:
        planned.setdefault(key, _planned(settings, key))
        planned = {each: run for each, run in planned.items() if each.seed == key.seed}
    hashes = {each: identities.of(each).hash for each in planned}
    found = {each: there[identity] for each, identity in hashes.items() if identity in there}
    while True:
        made = [run for each, run in planned.items() if each not in found]
        needed = {need for run in made for need in run.needs if need in found}
        lacking = {need for need in needed if not has_weights(found[need])}
        if not lacking:
            return found
        found = {each: folder for each, folder in found.items() if each not in lacking}


def _kept(folder: Path, key: RunKey | None) -> list[tuple[str, Path]]:
    """Return (identity, folder) of the successful runs of a results folder; with `key` those of its task and seed."""
    found = runs_of(folder, key.task, key.seed) if key else runs_of(folder)
    if not found and not any(folder.glob("runs/*/*/*/*/run.json")):
        raise UserError(f"reuse: {folder} has no runs; name a results folder, or a published one")
    return [(facts["identity"], folder / "runs" / run.path) for run, facts in found.items() if facts["status"] == "ok"]


def _trials(settings: Settings, key: RunKey | None) -> Iterator[Planned]:
    """Yield the trials of the studies that are known in advance from the histories under `reuse`."""
    for study in settings.studies:
        for task in study.tasks:
            if key is None or task == key.task:
                from bench.runs.ratios import foreseen  # imports Optuna, which is slow

                yield from (_planned(settings, each) for each in foreseen(settings, task, study.method, settings.reuse))


def _planned(settings: Settings, key: RunKey) -> Planned:
    return Planned(key, contestant(settings, key.method, key.task).needed(key))
