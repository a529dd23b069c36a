"""One threshold an exit, found by Optuna on the calibration trace, without a forward pass."""

from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import IntDistribution
from optuna.trial import Trial

from bench.artefacts import Costs, Trace
from bench.choosing.frontier import nondominated
from bench.choosing.points import predictions
from bench.choosing.policies import Policy, replay_many
from bench.tasks.catalogue import Task
from bench.tasks.scores import scores


@dataclass(frozen=True)
class ThresholdStudy:
    """What a study found."""

    vectors: list[list[float]]
    """Non-dominated threshold vectors, one knob an exit, cheapest first.

    Empty where fewer than two exits have a choice: the uniform thresholds are all there is then.
    """
    trials: pd.DataFrame
    """One row a trial: number, origin (uniform, sampled), threshold_1 .., score, flops, on_frontier."""


def per_exit(
    policy: Policy, trace: Trace, costs: Costs, task: Task, *, grid: int, trials: int, seed: int
) -> ThresholdStudy:
    """Search one threshold an exit for (score up, mean FLOPs at true lengths down) on `trace`.

    Each exit that any knob can use picks one of the `grid` knobs of the policy's range (patience: a number of
    exits from 1 to E, its own at each exit); the others, and the last, keep the strictest. The non-dominated
    uniform thresholds of that grid are tried first, then `trials` sampled ones, so the result is never below
    the uniform frontier. Deterministic by `seed`.
    """
    exits, count, outputs = trace.logits.shape
    knobs = policy.knobs(grid, exits, outputs)
    free = range(policy.earliest, exits - 1)
    statistic, answers = policy.statistic(trace.logits), predictions(trace, task)
    flops, examples = costs.flops(trace.lengths), np.arange(count)

    def vectors_of(choices: NDArray[np.int64]) -> NDArray[np.float64]:
        """[K, free exits] positions on the grid -> [K, E] thresholds."""
        vectors = np.full((len(choices), exits), knobs[-1])
        vectors[:, free.start : free.stop] = knobs[choices]
        return vectors

    def judged(choices: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score and mean FLOPs [K]; an undefined score is as bad as a score can be."""
        left = replay_many(policy, statistic, vectors_of(choices))
        score = scores(task, answers[left, examples], trace.labels)[task.metrics[0]]
        return np.nan_to_num(score, nan=-1.0), flops[left, examples].mean(axis=1)

    if policy.name == "none" or len(free) < 2:
        return ThresholdStudy([], _table(np.empty((0, exits)), np.empty(0), np.empty(0), 0))

    uniform = np.repeat(np.arange(len(knobs))[:, None], len(free), axis=1)
    uniform = uniform[_first_of_equals(*judged(uniform))]
    study = _study(seed)
    space = {f"exit_{e + 1}": IntDistribution(0, len(knobs) - 1) for e in free}
    for choice in uniform:
        study.enqueue_trial(dict(zip(space, map(int, choice), strict=True)))

    def objective(trial: Trial) -> tuple[float, float]:
        choice = [trial.suggest_int(name, 0, each.high) for name, each in space.items()]
        [score], [cost] = judged(np.array([choice]))
        return float(score), float(cost)

    study.optimize(objective, n_trials=len(uniform) + trials)
    tried = np.array([[trial.params[name] for name in space] for trial in study.trials])
    score, cost = np.array([trial.values for trial in study.trials]).T
    vectors = vectors_of(tried)
    table = _table(vectors, score, cost, len(uniform))
    best = table[table["on_frontier"]].drop_duplicates(["score", "flops"]).sort_values("flops", kind="stable")
    return ThresholdStudy(vectors[best.index].tolist(), table)


def _study(seed: int) -> optuna.Study:
    # Measured on 6 exits: NSGA-II with a population of 20 dominates as much as TPE, thirty times as fast.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def _first_of_equals(score: NDArray[np.float64], flops: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the non-dominated points, one of those that score and cost the same."""
    best = np.flatnonzero(nondominated(score, flops))
    _, first = np.unique(np.column_stack([score, flops])[best], axis=0, return_index=True)
    return best[np.sort(first)]


def _table(
    vectors: NDArray[np.float64], score: NDArray[np.float64], flops: NDArray[np.float64], uniform: int
) -> pd.DataFrame:
    """One row a trial, in order; the first `uniform` of them were enqueued."""
    table = pd.DataFrame(vectors, columns=[f"threshold_{e + 1}" for e in range(vectors.shape[1])])
    table.insert(0, "number", np.arange(len(table)))
    table.insert(1, "origin", np.where(np.arange(len(table)) < uniform, "uniform", "sampled"))
    return table.assign(score=score, flops=flops, on_frontier=nondominated(score, flops))
