"""The study over pruning ratios, in generations: ask for trials, run them as ordinary jobs, tell the results.

Nothing but files passes from one stage to the next, and a stage is a function of its files and the settings.
So a study that was killed goes on from what is there, and gives the same bytes as one that was not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from bench.analysis.points import full_depth, labelled
from bench.errors import UserError
from bench.method import Method, contestant
from bench.runs.replay import traces_of
from bench.settings import RatioStudy, Settings
from bench.sharing.untrusted import printable, read_table
from bench.store import RunKey, read_json, run_folder, write_json, write_parquet
from bench.trace import Costs

VERSION = 1
"""Raised when a study of the same settings would come out differently."""

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "score": "maximize",
    "flops": "minimize",
    "parameters": "minimize",
}
_OUTCOME = (*OBJECTIVES, "validation_score", "status", "reason")
_COLUMNS = ("number", "generation", "variant", *_OUTCOME, "distributions", "pareto")
_DRAWS = 50  # a trial costs a training: so often a variant that was asked before is drawn anew


@dataclass(frozen=True)
class Asked:
    """A trial that is to run: its number in the study, and what Optuna needs to see it again."""

    number: int
    variant: str
    params: dict[str, Any]
    distributions: dict[str, dict[str, Any]]
    """Parameter -> its range, as Optuna writes it in JSON."""


def study_of(settings: Settings, task: str, method: str) -> RatioStudy:
    """The study of a method on a task. Raises UserError where the settings have none, or two."""
    found = [study for study in settings.studies if study.method == method and task in study.tasks]
    if len(found) != 1:
        raise UserError(f"studies: {len(found)} of {method} on {task}; there must be one")
    return found[0]


def trials_file(settings: Settings, task: str, method: str) -> Path:
    """Where `finish` leaves the study."""
    return _folder(settings, task, method) / "trials.parquet"


def generation_file(settings: Settings, task: str, method: str, generation: int) -> Path:
    """Where `ask` leaves the trials of a generation."""
    return _folder(settings, task, method) / f"generation-{generation}.json"


def history_file(settings: Settings, task: str, method: str, generation: int) -> Path:
    """Where `tell` leaves all trials up to a generation."""
    return _folder(settings, task, method) / f"history-{generation}.parquet"


def trial_keys(settings: Settings, task: str, method: str, generation: int) -> list[RunKey]:
    """The runs of the trials that `ask` wrote: ordinary ones, with the first seed of the task."""
    seed = settings.seeds_of(task)[0]
    return [RunKey(task, method, trial.variant, seed) for trial in _asked(settings, task, method, generation)]


def foreseen(settings: Settings, task: str, method: str, folders: Sequence[Path]) -> list[RunKey]:
    """The trials of a study, as far as they follow from its histories in other folders of results."""
    study, asker = study_of(settings, task, method), contestant(settings, method, task)
    seed, history = settings.seeds_of(task)[0], pd.DataFrame()
    keys: list[RunKey] = []
    for generation in range(study.generations):
        variants = [trial.variant for trial in _sampled(study, asker, generation, history)]
        keys += [RunKey(task, method, variant, seed) for variant in variants]
        name = Path("sweeps") / task / method / f"history-{generation}.parquet"
        told = [_told(folder / name) for folder in folders if (folder / name).exists()]
        told = [table for table in told if list(table["variant"]) == [key.variant for key in keys]]
        if not told:
            break
        history = told[0]
    return keys


def _told(file: Path) -> pd.DataFrame:
    """Return a history from a results folder of others.

    Raises:
        UserError: If it is not a history of a study.
    """
    text = ("variant", "distributions", "status", "reason")
    table = read_table(file, dict.fromkeys(text, "text"), required=(*text, "generation", *OBJECTIVES))
    try:
        replay(table)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not the history of a study ({printable(error)})") from None
    return table


def trials_so_far(settings: Settings) -> tuple[list[RunKey], dict[tuple[str, str], int]]:
    """The runs of all trials that have been asked for, and by (task, method) how many are still to be asked for."""
    known: dict[RunKey, None] = {}
    later: dict[tuple[str, str], int] = {}
    for study in settings.studies:
        for task in study.tasks:
            later[task, study.method] = 0
            for generation in range(study.generations):
                if generation_file(settings, task, study.method, generation).is_file():
                    known |= dict.fromkeys(trial_keys(settings, task, study.method, generation))
                else:
                    later[task, study.method] += study.population
    return list(known), later


def ask(settings: Settings, task: str, method: str, generation: int) -> list[Asked]:
    """Writes and returns the trials of a generation, from the history of the generations before it.

    Raises UserError for a generation that the study does not have, a missing history, and a population
    that is too small for the sampler.
    """
    study = study_of(settings, task, method)
    _check_generation(study, generation)
    history = _history_before(settings, task, method, generation)
    asked = _sampled(study, contestant(settings, method, task), generation, history)
    values = {"task": task, "method": method, "generation": generation, "sampler": study.sampler}
    path = generation_file(settings, task, method, generation)
    write_json(path, values | {"trials": [asdict(trial) for trial in asked]})
    return asked


def tell(settings: Settings, task: str, method: str, generation: int) -> pd.DataFrame:
    """Writes and returns the history up to a generation, its trials' runs among it; one row a trial.

    A trial's score is that of full depth on the selection split, its FLOPs the mean over that split;
    `validation_score` is for reports and no sampler sees it. A failed run is a row with its reason. Raises
    UserError for a missing run.
    """
    _check_generation(study_of(settings, task, method), generation)
    trials = _asked(settings, task, method, generation)
    keys = trial_keys(settings, task, method, generation)
    rows = [
        {"number": trial.number, "generation": generation, "variant": trial.variant}
        | trial.params
        | _outcome(settings, key)
        | {"distributions": json.dumps(trial.distributions, sort_keys=True)}
        for trial, key in zip(trials, keys, strict=True)
    ]
    before = _history_before(settings, task, method, generation)
    table = pd.concat([before, pd.DataFrame(rows)], ignore_index=True)
    ratios = [column for column in table if column not in _COLUMNS]
    table = table[["number", "generation", "variant", *ratios, *_OUTCOME, "distributions"]]
    write_parquet(history_file(settings, task, method, generation), table)
    return table


def finish(settings: Settings, task: str, method: str) -> pd.DataFrame:
    """Writes and returns all trials of the study; `pareto` marks those that no other one dominates."""
    history = _history_before(settings, task, method, study_of(settings, task, method).generations)
    best = [trial.number for trial in replay(history).best_trials]
    table = history.drop(columns="distributions").assign(pareto=history["number"].isin(best))
    write_parquet(trials_file(settings, task, method), table)
    return table


def replay(history: pd.DataFrame, sampler: BaseSampler | None = None) -> Study:
    """The Optuna study of a history, in memory; its trials know their generation."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[*OBJECTIVES.values()], sampler=sampler)
    for row in history.to_dict("records"):
        written = json.loads(row["distributions"])
        ranges = {name: json_to_distribution(json.dumps(its)) for name, its in written.items()}
        done = row["status"] == "ok"
        trial = create_trial(
            state=TrialState.COMPLETE if done else TrialState.FAIL,
            params={name: _typed(row[name], its) for name, its in ranges.items()},
            distributions=ranges,
            values=[row[name] for name in OBJECTIVES] if done else None,
            user_attrs={"generation": row["generation"], "variant": row["variant"], "reason": row["reason"]},
        )
        study.add_trial(trial)
    return study


class _Generations(NSGAIISampler):
    """NSGA-II (Deb et al., 2002) whose generations are the study's own.

    Optuna's counts the trials that went well to find the present generation, so after a failed one it would
    draw at random to fill the old generation. Here a generation is what was asked together, and the best of
    its trials and of its parents are the parents of the next.
    """

    def __init__(self, generation: int, population: int, seed: int) -> None:
        super().__init__(population_size=population, seed=seed)
        self._generation = generation

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        return self._generation

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in complete if trial.user_attrs["generation"] == generation]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if len(self.get_parent_population(study, self._generation)) < 2:
            return {}  # crossover needs two parents; what is not given here is drawn at random
        return super().sample_relative(study, trial, search_space)


def _sampled(study: RatioStudy, method: Method, generation: int, history: pd.DataFrame) -> list[Asked]:
    drawn = replay(history, _sampler(study, generation))
    known = set(history.get("variant", ()))
    asked: list[Asked] = []
    for _ in range(study.population):
        trial, variant = _draw(drawn, method, known)
        known.add(variant)
        if clash := set(trial.params) & set(_COLUMNS):
            raise UserError(f"{study.method}: its search space names a parameter {min(clash)}, as a result is")
        ranges = {name: json.loads(distribution_to_json(its)) for name, its in trial.distributions.items()}
        asked.append(Asked(len(history) + len(asked), variant, trial.params, ranges))
    return asked


def _draw(study: Study, method: Method, known: Iterable[str]) -> tuple[Trial, str]:
    """A trial whose variant is not known; one that is where the space seems to have no other."""
    for _ in range(_DRAWS - 1):
        trial = study.ask()
        variant = method.search_space(trial)
        if variant not in known:
            return trial, variant
        study.tell(trial, state=TrialState.FAIL)
    trial = study.ask()
    return trial, method.search_space(trial)


def _sampler(study: RatioStudy, generation: int) -> BaseSampler:
    seed = study.seed + generation
    if study.sampler == "random":
        return RandomSampler(seed=seed)
    if study.sampler == "tpe":
        # The first generation is the random start; trials asked together keep away from each other.
        return TPESampler(seed=seed, n_startup_trials=study.population, constant_liar=True)
    if study.population < 2:
        raise UserError(f"studies: {study.method} has population = {study.population}; nsgaii needs 2 or more")
    return _Generations(generation, study.population, seed)


def _outcome(settings: Settings, key: RunKey) -> dict[str, Any]:
    """What a trial's run found, under the names of `_OUTCOME`."""
    nothing = dict.fromkeys((*OBJECTIVES, "validation_score"), float("nan"))
    folder = run_folder(settings, key)
    facts = read_json(folder / "run.json")
    if facts["status"] != "ok":
        return nothing | {"status": "failed", "reason": facts["reason"]}
    task, cost = contestant(settings, key.method, key.task).task, Costs.load(folder / "costs.json")
    full = {
        split: full_depth(trace, cost, task) for split, trace in traces_of(settings, key).items() if labelled(trace)
    }
    found: dict[str, Any] = {name: float(full[settings.selection][name]) for name in OBJECTIVES}
    found["validation_score"] = float(full["validation"]["score"])
    if math.isnan(found["score"]):  # a correlation of constant predictions; Optuna takes no such value
        return found | {"status": "failed", "reason": f"the score on {settings.selection} is not defined"}
    return found | {"status": "ok", "reason": ""}


def _asked(settings: Settings, task: str, method: str, generation: int) -> list[Asked]:
    written = read_json(generation_file(settings, task, method, generation))
    return [Asked(**trial) for trial in written["trials"]]


def _history_before(settings: Settings, task: str, method: str, generation: int) -> pd.DataFrame:
    if generation == 0:
        return pd.DataFrame()
    path = history_file(settings, task, method, generation - 1)
    if not path.is_file():
        raise UserError(f"{path} is missing; run `costeff sweep tell {task} {method} {generation - 1}` first")
    return pd.read_parquet(path)


def _check_generation(study: RatioStudy, generation: int) -> None:
    if not 0 <= generation < study.generations:
        raise UserError(f"generation {generation}: the study of {study.method} ends with {study.generations - 1}")


def _typed(value: Any, distribution: BaseDistribution) -> Any:
    """A table's cell as the parameter that it was: a column with gaps has made floats of whole numbers."""
    return distribution.to_external_repr(distribution.to_internal_repr(value))


def _folder(settings: Settings, task: str, method: str) -> Path:
    return settings.root / "sweeps" / task / method
