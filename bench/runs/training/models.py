"""Deletion of trained weights that no remaining run needs, unless `keep_models` is set."""

from __future__ import annotations

from bench.errors import UserError
from bench.method import contestant
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.ratios import history_file, trials_so_far
from bench.settings import Settings
from bench.store import RunKey, read_json, run_folder, weights_file


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
    here = settings.model_copy(update={"tasks": [task]})
    identities, everyone = Identities(settings), runs(settings)
    planned = [run for run in everyone if (run.key.task, run.key.seed) == (task, seed)]
    read = [run for run in everyone if any((need.task, need.seed) == (task, seed) for need in run.needs)]
    needed = {need for run in read if not _finished(settings, run.key, identities) for need in run.needs}
    if seed == settings.seeds_of(task)[0]:
        for study in settings.studies:
            if task in study.tasks and not history_file(settings, task, study.method, study.generations - 1).is_file():
                needed |= {*contestant(settings, study.method, task).needed(RunKey(task, study.method, "any", seed))}
    trials = [key for key in trials_so_far(here)[0] if (key.task, key.seed) == (task, seed)]
    for key in dict.fromkeys([*(run.key for run in planned), *trials]):
        if key not in needed and _finished(settings, key, identities):
            weights_file(run_folder(settings, key)).unlink(missing_ok=True)


def _finished(settings: Settings, key: RunKey, identities: Identities) -> bool:
    """Return whether a run has a result: a model as it is planned now, or a failure."""
    try:
        facts = read_json(run_folder(settings, key) / "run.json")
    except UserError:
        return False
    return facts["status"] == "failed" or facts.get("identity") == identities.of(key).hash
