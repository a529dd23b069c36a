"""Deletion of trained weights that no remaining run needs, unless `keep_models` is set."""

from __future__ import annotations

from collections.abc import Iterable

from bench.method import contestant
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.ratios import foreseen, trials_so_far
from bench.settings import Settings
from bench.store import RunKey, run_folder, weights_file


def release_after(settings: Settings, key: RunKey) -> None:
    """Call `release` for the task and seed of a run, and for those of the runs that it needs."""
    needed = contestant(settings, key.method, key.task).needed(key)
    for task, seed in dict.fromkeys((each.task, each.seed) for each in (key, *needed)):
        release(settings, task, seed)


def release(settings: Settings, task: str, seed: int) -> None:
    """Delete the weights of the finished runs of a task and seed that no remaining run needs.

    Configuration and tokenizer stay. A run that needs deleted weights later trains them again. Nothing is deleted with
    `keep_models`.
    """
    if settings.keep_models:
        return
    identities = Identities(settings)
    planned = {run.key: run.needs for run in runs(settings)}
    here = [key for key in [*planned, *trials_so_far(settings)[0]] if (key.task, key.seed) == (task, seed)]
    readers = {key: needs for key, needs in planned.items() if _reads(needs, task, seed)}
    readers |= _trials(settings, task, seed)
    needed = {need for key, needs in readers.items() if not _finished(key, identities) for need in needs}
    for key in dict.fromkeys(here):
        if key not in needed and _finished(key, identities):
            weights_file(run_folder(settings, key)).unlink(missing_ok=True)


def _trials(settings: Settings, task: str, seed: int) -> dict[RunKey, tuple[RunKey, ...]]:
    """Return the trials of the studies that need models of a task and seed, with what they need.

    A run "any" stands for the trials that are not drawn yet. Files of a study with other settings do not count.
    """
    found: dict[RunKey, tuple[RunKey, ...]] = {}
    for study in settings.studies:
        for on in study.tasks:
            some = RunKey(on, study.method, "any", settings.seeds_of(on)[0])
            needs = contestant(settings, study.method, on).needed(some)
            if _reads(needs, task, seed):
                known = foreseen(settings, on, study.method, [settings.root])
                more = [some] * (len(known) < study.generations * study.population)
                found |= dict.fromkeys([*known, *more], needs)
    return found


def _reads(needs: Iterable[RunKey], task: str, seed: int) -> bool:
    """Return whether one of the needed runs is of a task and seed."""
    return any((need.task, need.seed) == (task, seed) for need in needs)


def _finished(key: RunKey, identities: Identities) -> bool:
    """Return whether a run has a result as it is planned now: a model, or a failure that would recur."""
    facts = identities.recorded(key)
    return facts is not None and not (facts["status"] == "failed" and facts["again"])
