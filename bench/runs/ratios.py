"""The ratio study: an Optuna search over pruning ratios in generations.

`ask` draws the trials of a generation, the workflow makes their runs, and `tell` adds the results to the history. The
stages exchange only files, and the output of a stage depends only on its input files and the settings. An interrupted
study therefore resumes from its files and gives the same bytes as an uninterrupted one.
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
from bench.store import RunKey, read_json, read_parquet, run_folder, write_json, write_parquet
from bench.trace import Costs

VERSION = 1
"""Version of the study; raise it when the same settings give other trials."""

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "score": "maximize",
    "flops": "minimize",
    "parameters": "minimize",
}
_OUTCOME = (*OBJECTIVES, "validation_score", "status", "reason")
_COLUMNS = ("number", "generation", "variant", *_OUTCOME, "distributions", "pareto")
_DRAWS = 50  # attempts to draw a variant that is new, since every trial costs a training


@dataclass(frozen=True)
class DrawnTrial:
    """A drawn trial.

    Attributes:
        number: Number of the trial in the study.
        variant: Variant to train.
        params: Value of each parameter.
        distributions: Distribution of each parameter, in Optuna's JSON format.
    """

    number: int
    variant: str
    params: dict[str, Any]
    distributions: dict[str, dict[str, Any]]


def study_of(settings: Settings, task: str, method: str) -> RatioStudy:
    """Return the study of a method on a task.

    Raises:
        UserError: If the settings do not have exactly one.
    """
    found = [study for study in settings.studies if study.method == method and task in study.tasks]
    if len(found) != 1:
        raise UserError(f"studies: {len(found)} studies of {method} on {task}; exactly one is needed")
    return found[0]


def trials_file(settings: Settings, task: str, method: str) -> Path:
    """Return the file that `finish` writes."""
    return _folder(settings, task, method) / "trials.parquet"


def generation_file(settings: Settings, task: str, method: str, generation: int) -> Path:
    """Return the file that `ask` writes."""
    return _folder(settings, task, method) / f"generation-{generation}.json"


def history_file(settings: Settings, task: str, method: str, generation: int) -> Path:
    """Return the file that `tell` writes: all trials up to a generation."""
    return _folder(settings, task, method) / f"history-{generation}.parquet"


def trial_keys(settings: Settings, task: str, method: str, generation: int) -> list[RunKey]:
    """Return the runs of the trials that `ask` wrote; they use the first seed of the task."""
    seed = settings.seeds_of(task)[0]
    return [RunKey(task, method, trial.variant, seed) for trial in _drawn_trials(settings, task, method, generation)]


def foreseen(settings: Settings, task: str, method: str, folders: Sequence[Path]) -> list[RunKey]:
    """Return the runs of all trials that are known in advance, given histories of the study in other folders."""
    study, searched = study_of(settings, task, method), contestant(settings, method, task)
    seed, history = settings.seeds_of(task)[0], pd.DataFrame()
    keys: list[RunKey] = []
    for generation in range(study.generations):
        variants = [trial.variant for trial in _sampled(study, searched, generation, history)]
        keys += [RunKey(task, method, variant, seed) for variant in variants]
        name = Path("sweeps") / task / method / f"history-{generation}.parquet"
        known = [_read_history(folder / name) for folder in folders if (folder / name).exists()]
        known = [table for table in known if list(table["variant"]) == [key.variant for key in keys]]
        if not known:
            break
        history = known[0]
    return keys


def _read_history(file: Path) -> pd.DataFrame:
    """Read a history from another results folder.

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
    """Return the runs of all trials drawn so far, and the number of trials still to draw by (task, method)."""
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


def ask(settings: Settings, task: str, method: str, generation: int) -> list[DrawnTrial]:
    """Draw the trials of a generation, given the history of the generations before it; write and return them.

    Raises:
        UserError: If the study has no such generation or the history is missing.
    """
    study = study_of(settings, task, method)
    _check_generation(study, generation)
    history = _history_before(settings, task, method, generation)
    drawn_trials = _sampled(study, contestant(settings, method, task), generation, history)
    values = {"task": task, "method": method, "generation": generation, "sampler": study.sampler}
    path = generation_file(settings, task, method, generation)
    write_json(path, values | {"trials": [asdict(trial) for trial in drawn_trials]})
    return drawn_trials


def tell(settings: Settings, task: str, method: str, generation: int) -> pd.DataFrame:
    """Add the results of a generation to the history; write and return it with one row for each trial.

    `score` is the score at full depth on the selection split and `flops` the mean over that split. `validation_score`
    is for reports only; the sampler does not use it. A failed run is a row with the reason.

    Raises:
        UserError: If a run of the generation is missing.
    """
    _check_generation(study_of(settings, task, method), generation)
    trials = _drawn_trials(settings, task, method, generation)
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
    """Write and return all trials of the study; `pareto` marks those that no other trial dominates."""
    history = _history_before(settings, task, method, study_of(settings, task, method).generations)
    best = [trial.number for trial in replay(history).best_trials]
    table = history.drop(columns="distributions").assign(pareto=history["number"].isin(best))
    write_parquet(trials_file(settings, task, method), table)
    return table


def replay(history: pd.DataFrame, sampler: BaseSampler | None = None) -> Study:
    """Return an in-memory Optuna study with the trials of a history; `user_attrs` has their generations."""
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
    """NSGA-II (Deb et al., 2002) in which the trials drawn by one `ask` form a generation.

    Optuna counts successful trials to find the current generation, so after a failed trial it would fill the previous
    generation with random trials. The parents of a generation are the best among the previous generation and its
    parents.
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
            return {}  # crossover needs two parents; missing parameters are drawn at random
        return super().sample_relative(study, trial, search_space)


def _sampled(study: RatioStudy, method: Method, generation: int, history: pd.DataFrame) -> list[DrawnTrial]:
    drawn = replay(history, _sampler(study, generation))
    known = set(history.get("variant", ()))
    drawn_trials: list[DrawnTrial] = []
    for _ in range(study.population):
        trial, variant = _draw(drawn, method, known)
        known.add(variant)
        if clash := set(trial.params) & set(_COLUMNS):
            raise UserError(
                f"{study.method}: rename the parameter {min(clash)} of its search space; a result has this name"
            )
        ranges = {name: json.loads(distribution_to_json(its)) for name, its in trial.distributions.items()}
        drawn_trials.append(DrawnTrial(len(history) + len(drawn_trials), variant, trial.params, ranges))
    return drawn_trials


def _draw(study: Study, method: Method, known: Iterable[str]) -> tuple[Trial, str]:
    """Draw a trial with a new variant; after `_DRAWS` attempts accept a known one."""
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
        # The first generation is random; constant_liar spreads the trials of one generation.
        return TPESampler(seed=seed, n_startup_trials=study.population, constant_liar=True)
    return _Generations(generation, study.population, seed)


def _outcome(settings: Settings, key: RunKey) -> dict[str, Any]:
    """Return the result of the run of a trial, with the keys of `_OUTCOME`."""
    nothing = dict.fromkeys((*OBJECTIVES, "validation_score"), float("nan"))
    folder = run_folder(settings, key)
    facts = read_json(folder / "run.json", "status")
    if facts["status"] != "ok":
        return nothing | {"status": "failed", "reason": facts["reason"]}
    task, cost = contestant(settings, key.method, key.task).task, Costs.load(folder / "costs.json")
    full = {
        split: full_depth(trace, cost, task) for split, trace in traces_of(settings, key).items() if labelled(trace)
    }
    found: dict[str, Any] = {name: float(full[settings.selection][name]) for name in OBJECTIVES}
    found["validation_score"] = float(full["validation"]["score"])
    if math.isnan(found["score"]):  # correlation of constant predictions; Optuna rejects NaN
        return found | {"status": "failed", "reason": f"the score on {settings.selection} is not defined"}
    return found | {"status": "ok", "reason": ""}


def _drawn_trials(settings: Settings, task: str, method: str, generation: int) -> list[DrawnTrial]:
    path = generation_file(settings, task, method, generation)
    try:
        return [DrawnTrial(**trial) for trial in read_json(path, "trials")["trials"]]
    except TypeError as error:
        raise UserError(f"{path}: not the trials of a study ({error}); delete it and run again") from None


def _history_before(settings: Settings, task: str, method: str, generation: int) -> pd.DataFrame:
    if generation == 0:
        return pd.DataFrame()
    path = history_file(settings, task, method, generation - 1)
    if not path.is_file():
        raise UserError(
            f"{path} is missing; run `costeff sweep tell {task} {method} --generation {generation - 1}` first"
        )
    return read_parquet(path)


def _check_generation(study: RatioStudy, generation: int) -> None:
    if not 0 <= generation < study.generations:
        raise UserError(
            f"generation {generation}: the last one of the study of {study.method} is {study.generations - 1}"
        )


def _typed(value: Any, distribution: BaseDistribution) -> Any:
    """Restore the type of a parameter: a column with missing values holds integers as floats."""
    return distribution.to_external_repr(distribution.to_internal_repr(value))


def _folder(settings: Settings, task: str, method: str) -> Path:
    return settings.root / "sweeps" / task / method
