"""The runs and trials of a profile that are still missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from bench.encoder.saved import has_weights
from bench.method import contestant
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.ratios import trials_so_far
from bench.runs.reuse import reusable_runs
from bench.settings import Settings
from bench.store import RunKey, run_folder, weights_file


@dataclass(frozen=True)
class Coming:
    """Runs that are still to be trained here."""

    runs: tuple[RunKey, ...]
    trials: tuple[RunKey, ...]
    """Trials of ratio studies; random points replace those that the study has not drawn yet."""
    reusable_runs: Mapping[RunKey, Path]
    """Runs that will be copied from a folder under `reuse`."""

    def __len__(self) -> int:
        return len(self.runs) + len(self.trials)

    def lines(self) -> Iterator[str]:
        """Yield a line about reused runs, if there are any."""
        if self.reusable_runs:
            names = Counter(key.method for key in (*self.runs, *self.trials))
            made = ", ".join(f"{name} ({count})" for name, count in names.items())
            yield f"reuse: {len(self.reusable_runs)} runs are copied; trained here: {made or 'none'}"


def coming(settings: Settings, identities: Identities) -> Coming:
    """Return what is missing.

    Raises:
        UserError: where a text, a checkpoint or a folder cannot be read.
    """
    elsewhere = reusable_runs(settings, identities)
    drawn, later = trials_so_far(settings)
    planned = dict.fromkeys(run.key for run in runs(settings))
    foreseen = [key for key in elsewhere if key not in planned and key not in drawn]
    trials = dict.fromkeys([*drawn, *foreseen])
    wanted = dict.fromkeys([*planned, *trials])
    missing = [key for key in wanted if not _finished(settings, key, identities)]
    made_here = [key for key in missing if key not in elsewhere]
    made_here += _trained_again(settings, made_here, elsewhere)
    return Coming(
        tuple(key for key in made_here if key not in trials),
        (
            *(key for key in made_here if key in trials),
            *_not_drawn(settings, later, Counter((key.task, key.method) for key in foreseen)),
        ),
        {key: elsewhere[key] for key in missing if key in elsewhere},
    )


def _finished(settings: Settings, key: RunKey, identities: Identities) -> bool:
    """Return whether a run has a result; with `keep_models` also the file of its weights, empty if it has none."""
    there = not settings.keep_models or weights_file(run_folder(settings, key)).is_file()
    return there and identities.recorded(key) is not None


def _trained_again(settings: Settings, made: Sequence[RunKey], elsewhere: Container[RunKey]) -> list[RunKey]:
    """Return the runs whose weights were deleted and that a run among `made`, or another such run, needs.

    Args:
        settings: the profile.
        made: the runs that are trained.
        elsewhere: the runs that are copied.
    """
    found: dict[RunKey, None] = {}
    open_ = list(made)
    while open_:
        key = open_.pop()
        for need in contestant(settings, key.method, key.task).needed(key):
            there = need in elsewhere or has_weights(run_folder(settings, need))
            if need not in found and need not in made and not there:
                found[need] = None
                open_.append(need)
    return list(found)


def _not_drawn(
    settings: Settings, later: Mapping[tuple[str, str], int], foreseen: Mapping[tuple[str, str], int]
) -> Iterator[RunKey]:
    """Yield random points in place of the trials that a study has not drawn yet.

    Args:
        settings: the profile.
        later: number of such trials by (task, method).
        foreseen: number of them that are known from reused results.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for study in settings.studies:
        for task in study.tasks:
            drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(study.seed))
            method = contestant(settings, study.method, task)
            for _ in range(later[task, study.method] - foreseen[task, study.method]):
                yield RunKey(task, study.method, method.search_space(drawn.ask()), settings.seeds_of(task)[0])
