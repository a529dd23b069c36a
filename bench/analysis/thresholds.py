"""Search for one threshold per exit on the trace of the selection split, without a forward pass.

At an exit, only thresholds that change which examples exit there matter, so the search space is finite. A small space
is searched completely. In a large one, a direct search comes first. It starts from every corner ("all examples exit at
k") and from uniform thresholds, performs coordinate ascent of score + weight x halvings of the cost for twelve weights,
and then a Pareto local search that changes one threshold of each non-dominated vector until nothing new is found.
Scores are sums over examples, so one matrix product evaluates every threshold of an exit. Optuna's NSGA-II starts from
the result.

A choice among so many vectors could overfit a small selection split. Measured by `benchmarks/thresholds.py` on 13 runs
of the sketch (128 examples to choose on, 256 to report on, three splits each), as the area under the chosen frontier on
selection / validation: one threshold 0.346 / 0.307, with fixed exits 0.414 / 0.380, with fixed exits and the direct
search 0.443 / 0.402; sampling with Optuna from there gives the same. Two regularised choices were tried on ten of those
runs and are not used: keeping a vector only if its gain exceeds one standard error (paired bootstrap; validation 0.497
against 0.507 without), and keeping all vectors only if they gain in four-fold cross-validation (0.506 against 0.507).
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import IntDistribution
from optuna.trial import Trial

from bench.analysis.frontier import nondominated
from bench.analysis.metrics import METRICS, f1_of_sums, matthews_of_sums, pearson_of_sums
from bench.analysis.points import predictions
from bench.exit_policies.policies import Policy
from bench.tasks.catalogue import Task
from bench.trace import Costs, Trace

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Found = tuple[Ints, Floats, Floats]
"""Choices [K, F], their scores and their mean FLOPs [K]."""

# Weights of the ascent: the score, as a fraction, that a halving of the cost is worth.
_WEIGHTS = np.concatenate([[0.0], np.geomspace(0.004, 0.6, 11)])
_STARTS, _SWEEPS = 8, 4
# Number of vectors whose neighbours the local search evaluates in one round, and number of rounds.
_VECTORS, _ROUNDS = 32, 20
# Vectors x examples of the largest space that is searched completely, which takes about 0.1 seconds.
_WHOLE = 2_000_000
# Number of examples for the direct search; its result is evaluated on all examples.
_EXAMPLES = 4_000
# Vectors x examples held in memory.
_BLOCK = 1_000_000


@dataclass(frozen=True)
class ThresholdStudy:
    """The result of a threshold search.

    Attributes:
        vectors: Non-dominated threshold vectors with one threshold per exit, cheapest first. Empty if fewer than two
            exits have a choice, because uniform thresholds then cover all possibilities.
        trials: One row per vector tried, with number, origin, threshold_1 .. threshold_E, score, flops and
            on_frontier. `origin` is "corner", "uniform" (equivalent to one threshold for all exits), "search" (from the
            direct search) or "sampled" (by Optuna).
    """

    vectors: list[list[float]]
    trials: pd.DataFrame


def per_exit(
    policy: Policy, trace: Trace, costs: Costs, task: Task, *, grid: int, trials: int, seed: int
) -> ThresholdStudy:
    """Search for vectors of one threshold per exit with high score and low mean FLOPs on a trace.

    Each exit at which examples can exit gets one of the policy's thresholds; the other exits, and the last, keep the
    strictest. At every cost the result is at least as good as each corner (all examples exit at one of the exits from
    `policy.earliest` on, as far as thresholds can express it) and each uniform threshold. It is
    deterministic for a given `seed`.

    Args:
        policy: The exit policy.
        trace: The trace of the selection split. FLOPs are those at its examples' lengths.
        costs: Costs of the model.
        task: The task.
        grid: Number of thresholds per exit (patience always has those from 1 to E).
        trials: Number of vectors that Optuna samples after the direct search, unless the space is searched completely.
        seed: Seed of the subset of examples and of Optuna's sampler.
    """
    space = _Space.of(policy, trace, costs, task, grid)
    if policy.name == "none" or len(space.free) < 2:
        return ThresholdStudy([], _table([], space))
    uniform = space.uniform[_front(*space.evaluate(space.uniform))]
    known = [("corner", space.corners()), ("uniform", uniform)]
    start = np.unique(np.concatenate([choices for _, choices in known]), axis=0)
    whole = space.size * len(trace.labels) <= _WHOLE
    proposed = space.everything() if whole else _search(space.some(seed), start)
    proposed = proposed[_front(*space.evaluate(proposed))]
    known.append(("search", proposed))
    if trials and not whole:
        known.append(("sampled", _sampled(space, proposed, trials, seed)))
    table = _table(known, space)
    best = table[table["on_frontier"]].drop_duplicates(["score", "flops"]).sort_values("flops", kind="stable")
    return ThresholdStudy(best.filter(like="threshold_").to_numpy().tolist(), table)


@dataclass(frozen=True)
class _Space:
    """The search space: a level at each of F free exits, 0 the loosest. A choice is a vector [F] of levels.

    A level stands for all thresholds with which the same examples exit. Its representative is the strictest of them. If
    all examples exit, it is the loosest of the range, so that all examples exit on every split.

    Attributes:
        task: The task.
        thresholds: Thresholds [G], loosest first.
        free: 0-based exits [F] at which examples can exit.
        levels: For each free exit, the indices in `thresholds` of its levels, loosest first.
        uniform: Choices [U, F] equivalent to one threshold for all exits, loosest first.
        ranks: Number [F, N] of levels of an exit at which an example exits; these are the levels below it.
        answers: Predictions [E, N].
        labels: Labels [N].
        flops: FLOPs [E, N].
    """

    task: Task
    thresholds: Floats
    free: Ints
    levels: list[Ints]
    uniform: Ints
    ranks: Ints
    answers: NDArray
    labels: NDArray
    flops: Floats

    @classmethod
    def of(cls, policy: Policy, trace: Trace, costs: Costs, task: Task, grid: int) -> Self:
        """Create the space of a policy on a trace."""
        exits, count, outputs = trace.logits.shape
        thresholds = policy.thresholds(grid, exits, outputs)
        free = np.arange(policy.earliest, exits - 1)
        statistic = policy.statistic(trace.logits, trace.signal)
        levels, ranks = [], np.zeros((len(free), count), dtype=np.int64)
        level_of = np.zeros((len(thresholds), len(free)), dtype=np.int64)
        for f, e in enumerate(free):
            passing = np.zeros(count, dtype=np.int64)  # number of thresholds with which an example exits here
            for threshold in thresholds:
                passing += policy.decide(statistic[e], threshold)
            ends = np.unique([*passing[passing > 0], len(thresholds)])
            strictest = ends - 1
            strictest[0] *= (passing < ends[0]).any()
            levels.append(strictest)
            ranks[f] = np.searchsorted(ends, passing, side="right")
            level_of[:, f] = np.searchsorted(ends, np.arange(len(thresholds)), side="right")
        flops = costs.flops(trace.lengths).astype(np.float64)
        uniform = np.unique(level_of, axis=0)
        return cls(task, thresholds, free, levels, uniform, ranks, predictions(trace, task), trace.labels, flops)

    def some(self, seed: int) -> Self:
        """Return the space on a random subset of at most `_EXAMPLES` examples."""
        count = len(self.labels)
        if count <= _EXAMPLES:
            return self
        drawn = np.sort(np.random.default_rng(seed).choice(count, _EXAMPLES, replace=False))
        answers, flops = self.answers[:, drawn], self.flops[:, drawn]
        return replace(self, ranks=self.ranks[:, drawn], answers=answers, labels=self.labels[drawn], flops=flops)

    @property
    def size(self) -> float:
        """Return the number of choices."""
        return float(np.prod([float(len(levels)) for levels in self.levels]))

    def everything(self) -> Ints:
        """Return all choices [K, F]."""
        return np.indices([len(levels) for levels in self.levels]).reshape(len(self.free), -1).T

    def corners(self) -> Ints:
        """Return the choices [F + 1, F] with which all examples exit at one free exit, and full depth."""
        strictest = np.array([len(levels) - 1 for levels in self.levels])
        return np.where(np.eye(len(self.free) + 1, len(self.free), dtype=bool), 0, strictest)

    def vectors(self, choices: Ints) -> Floats:
        """Return the thresholds [K, E] of choices [K, F]."""
        vectors = np.full((len(choices), len(self.answers)), self.thresholds[-1])
        for f, e in enumerate(self.free):
            vectors[:, e] = self.thresholds[self.levels[f][choices[:, f]]]
        return vectors

    def exits_taken(self, choices: Ints, without: int | None = None) -> Ints:
        """Return the 0-based exits [K, N] of choices [K, F]. No example exits at the free exit `without`."""
        exits = np.full((len(choices), len(self.labels)), len(self.answers) - 1)
        for f in reversed(range(len(self.free))):  # from the back, so that the earliest exit wins
            if f != without:
                exits[choices[:, f, None] < self.ranks[f]] = self.free[f]
        return exits

    def evaluate(self, choices: Ints) -> tuple[Floats, Floats]:
        """Compute score and mean FLOPs [K] of choices [K, F]; an undefined score counts as -1."""
        examples, parts = np.arange(len(self.labels)), []
        for block in _blocks(choices, len(examples)):
            exits = self.exits_taken(block)
            measured = METRICS[self.task.metrics[0]](self.answers[exits, examples], self.labels)
            parts.append((np.nan_to_num(measured, nan=-1.0), self.flops[exits, examples].mean(axis=1)))
        score, flops = zip(*parts, strict=True)
        return np.concatenate(score), np.concatenate(flops)


class _Neighbours:
    """Computes score and cost of all choices that differ from given ones at one exit, from sums over examples.

    Accuracy, F1, Matthews and Pearson are functions of such sums. For other metrics, accuracy (regression: Pearson)
    replaces the score in this comparison.
    """

    def __init__(self, space: _Space) -> None:
        self.space = space
        metric, answers, labels = space.task.metrics[0], space.answers, space.labels
        if space.task.regression:
            true = labels.astype(np.float64) - labels.mean(dtype=np.float64)
            values = answers.astype(np.float64) - answers.mean(dtype=np.float64)
            summed = [values, values**2, values * true]
            spread = float((true**2).sum())
            self.score = lambda sums: pearson_of_sums(sums[0], 0.0, sums[1], spread, sums[2], len(labels))
        elif metric in ("f1", "matthews"):
            summed = [(answers == 1) & (labels == 1), answers == 1]
            actual = float((labels == 1).sum())
            if metric == "f1":
                self.score = lambda sums: f1_of_sums(sums[0], sums[1], actual)
            else:
                self.score = lambda sums: matthews_of_sums(sums[0], sums[1], actual, len(labels))
        else:
            summed = [answers == labels]
            self.score = lambda sums: np.asarray(sums[0] / len(labels))
        self.values = np.stack([np.asarray(each, dtype=np.float64) for each in (*summed, space.flops)])
        """[V, E, N] quantities to sum over examples, with FLOPs last."""
        self.leaving = [
            (np.arange(len(levels)) < ranks[:, None]).astype(np.float64)
            for ranks, levels in zip(space.ranks, space.levels, strict=True)
        ]
        """For each free exit, [N, L] whether an example exits at a level."""

    def at(self, choices: Ints, f: int) -> tuple[Floats, Floats]:
        """Compute scores and mean FLOPs [K, L] of choices [K, F] with each of the L levels of free exit `f`."""
        space, examples = self.space, np.arange(len(self.space.labels))
        parts = []
        for block in _blocks(choices, len(examples) * len(self.values)):
            exits = space.exits_taken(block, without=f)
            without = self.values[:, exits, examples]
            change = np.where(exits > space.free[f], self.values[:, space.free[f], None] - without, 0.0)
            parts.append(without.sum(axis=2)[..., None] + change @ self.leaving[f])
        sums = np.concatenate(parts, axis=1)  # [V, K, L]
        return self.score(sums[:-1]), sums[-1] / len(examples)

    def best(self, choices: Ints, f: int) -> tuple[Found, Floats, Floats]:
        """Return the non-dominated choices of `at(choices, f)`, and all its scores and mean FLOPs."""
        score, cost = self.at(choices, f)
        kept = _front(score.ravel(), cost.ravel())
        row, level = np.divmod(kept, score.shape[1])
        changed = choices[row]
        changed[:, f] = level
        return (changed, score.ravel()[kept], cost.ravel()[kept]), score, cost


def _search(space: _Space, start: Ints) -> Ints:
    """Return the non-dominated choices of a coordinate ascent from `start`, followed by a local search."""
    neighbours = _Neighbours(space)
    found = _merged((start, *space.evaluate(start)))
    states = np.repeat(_spread(start, _STARTS), len(_WEIGHTS), axis=0)
    weights, full = np.tile(_WEIGHTS, len(states) // len(_WEIGHTS))[:, None], space.flops[-1].mean()
    for _ in range(_SWEEPS):
        before = states.copy()
        for f in range(len(space.free)):
            better, score, cost = neighbours.best(states, f)
            states[:, f] = np.argmax(score + weights * np.log2(full / cost), axis=1)  # of equal values the cheapest
            found = _merged(found, better)
        if (states == before).all():
            break
    seen: set[bytes] = set()
    for _ in range(_ROUNDS):
        new = _spread(np.array([c for c in found[0] if c.tobytes() not in seen], dtype=np.int64), _VECTORS)
        if not len(new):
            break
        seen.update(choice.tobytes() for choice in new)
        found = _merged(found, *(neighbours.best(new, f)[0] for f in range(len(space.free))))
    return found[0]


def _merged(*found: Found) -> Found:
    choices, score, cost = (np.concatenate(each) for each in zip(*found, strict=True))
    kept = _front(score, cost)
    return choices[kept], score[kept], cost[kept]


def _front(score: Floats, cost: Floats) -> Ints:
    """Return the indices of the non-dominated points, cheapest first; of equal points only the first."""
    order = np.lexsort([-score, cost])
    risen = np.maximum.accumulate(score[order])
    return np.asarray(order[np.concatenate([[True], risen[1:] > risen[:-1]])])


def _spread(rows: Ints, most: int) -> Ints:
    """Return at most `most` evenly spaced rows, including the first and the last."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _blocks(choices: Ints, numbers: int) -> list[Ints]:
    """Split `choices` into blocks of at most `_BLOCK` numbers, where each choice needs `numbers`."""
    step = max(1, _BLOCK // numbers)
    return [choices[i : i + step] for i in range(0, len(choices), step)]


def _sampled(space: _Space, start: Ints, trials: int, seed: int) -> Ints:
    """Return the choices [trials, F] that NSGA-II samples after the corners and `start` as first generations."""
    # Measured on 6 exits: NSGA-II with a population of 20 dominates as much as TPE, thirty times as fast.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    names = [f"exit_{e + 1}" for e in space.free]
    ranges = [IntDistribution(0, len(levels) - 1) for levels in space.levels]
    start = np.concatenate([space.corners(), _spread(start, _VECTORS)])
    for choice in start:
        study.enqueue_trial(dict(zip(names, map(int, choice), strict=True)))
    tried = []

    def objective(trial: Trial) -> tuple[float, float]:
        choice = [trial.suggest_int(name, 0, each.high) for name, each in zip(names, ranges, strict=True)]
        [score], [cost] = space.evaluate(np.array([choice]))
        tried.append(choice)
        return float(score), float(cost)

    study.optimize(objective, n_trials=len(start) + trials)
    return np.array(tried[len(start) :])


def _table(known: list[tuple[str, Ints]], space: _Space) -> pd.DataFrame:
    """Return one row per vector, in order, with score and FLOPs."""
    choices = np.concatenate([np.empty((0, len(space.free)), dtype=np.int64), *(each for _, each in known)])
    columns = [f"threshold_{e + 1}" for e in range(len(space.answers))]
    table = pd.DataFrame(space.vectors(choices), columns=columns)
    table.insert(0, "number", np.arange(len(table)))
    table.insert(1, "origin", [origin for origin, each in known for _ in each])
    score, cost = space.evaluate(choices) if len(choices) else (np.empty(0), np.empty(0))
    return table.assign(score=score, flops=cost, on_frontier=nondominated(score, cost))
