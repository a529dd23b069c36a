"""Search for one threshold per exit on the trace of the selection split, without a forward pass.

At an exit, only thresholds that change which examples exit there matter, so the search space is finite. A small space
is searched completely. In a large one, a direct search comes first: from every corner ("all examples exit at k") and
from uniform thresholds, coordinate ascent of score + weight x halvings of the cost for a dozen weights, then a Pareto
local search that changes one threshold of each non-dominated vector until nothing new is found. Scores are sums over
examples, so one matrix product evaluates every threshold of an exit. Optuna's NSGA-II starts from the result.

A choice among so many vectors could overfit a small selection split. Measured by `benchmarks/thresholds.py` on 13 runs
of the sketch (128 examples to choose on, 256 to report on, three splits each), as the area under the chosen frontier on
selection / validation: one threshold 0.346 / 0.307, with fixed exits 0.414 / 0.380, with fixed exits and the direct
search 0.443 / 0.402; sampling with Optuna from there gives the same. Two regularised choices were tried on ten of those
runs and are not used: keeping a vector only if its gain exceeds one standard error (paired bootstrap; validation 0.497
against 0.507 without), and keeping all vectors only if they gain in four-fold cross-validation (0.506 against 0.507).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import IntDistribution
from optuna.trial import Trial

from bench.analysis.frontier import nondominated
from bench.analysis.points import predictions
from bench.exit_policies.policies import Policy
from bench.tasks.catalogue import Task
from bench.tasks.scores import METRICS
from bench.trace import Costs, Trace

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Found = tuple[Ints, Floats, Floats]
"""Choices [K, F], their scores and their mean FLOPs [K]."""

# Weights of the ascent: the score, as a fraction, that a halving of the cost may take; the first takes nothing.
_WEIGHTS = np.concatenate([[0.0], np.geomspace(0.004, 0.6, 11)])
_STARTS, _SWEEPS = 8, 4
# Vectors whose neighbours the local search looks at in one round, and its rounds.
_VECTORS, _ROUNDS = 32, 20
# Vectors x examples of a space that is tried whole: some tenth of a second.
_WHOLE = 2_000_000
# Examples that the direct search reads; what it proposes is judged on all.
_EXAMPLES = 4_000
# Vectors x examples held at once.
_BLOCK = 1_000_000


@dataclass(frozen=True)
class ThresholdStudy:
    """What a study found."""

    vectors: list[list[float]]
    """Non-dominated threshold vectors, one threshold an exit, cheapest first.

    Empty where fewer than two exits have a choice: the uniform thresholds are all there is then.
    """
    trials: pd.DataFrame
    """One row a vector tried: number, origin, threshold_1 .., score, flops, on_frontier.

    origin: corner, uniform (leaves as one threshold for all does), search (the direct one), sampled (Optuna's).
    """


def per_exit(
    policy: Policy, trace: Trace, costs: Costs, task: Task, *, grid: int, trials: int, seed: int
) -> ThresholdStudy:
    """Search one threshold an exit for (score up, mean FLOPs at true lengths down) on `trace`.

    Each exit that any threshold can use picks one of the `grid` thresholds of the policy's range (patience: a number of
    exits from 1 to E, its own at each exit); the others, and the last, keep the strictest. trials: what Optuna
    samples after the direct search, where the space is too large to be tried whole. At every cost the result is at
    least as good as each corner and each uniform threshold. Deterministic by `seed`.
    """
    space = _Space.of(policy, trace, costs, task, grid)
    if policy.name == "none" or len(space.free) < 2:
        return ThresholdStudy([], _table([], space))
    uniform = space.uniform[_front(*space.judged(space.uniform))]
    known = [("corner", space.corners()), ("uniform", uniform)]
    start = np.unique(np.concatenate([choices for _, choices in known]), axis=0)
    whole = space.size * len(trace.labels) <= _WHOLE
    proposed = space.everything() if whole else _search(space.some(seed), start)
    proposed = proposed[_front(*space.judged(proposed))]
    known.append(("search", proposed))
    if trials and not whole:
        known.append(("sampled", _sampled(space, proposed, trials, seed)))
    table = _table(known, space)
    best = table[table["on_frontier"]].drop_duplicates(["score", "flops"]).sort_values("flops", kind="stable")
    return ThresholdStudy(best.filter(like="threshold_").to_numpy().tolist(), table)


@dataclass(frozen=True)
class _Space:
    """What may be chosen: at each of the F free exits a level, 0 the loosest; choices are [K, F].

    A level stands for all thresholds that let the same examples go at its exit: for the loosest of the range where all
    go, so that all do on any split, else for the strictest of them.
    """

    task: Task
    thresholds: Floats
    """[G] loosest first."""
    free: Ints
    """[F] 0-based exits that have a choice."""
    levels: list[Ints]
    """Of each free exit: the positions of its levels' thresholds, loosest first."""
    uniform: Ints
    """[U, F] the choices that leave as one threshold for all exits does, loosest first."""
    ranks: Ints
    """[F, N] how many levels of an exit let an example go: it leaves at those below that."""
    answers: NDArray
    """[E, N]"""
    labels: NDArray
    flops: Floats
    """[E, N]"""

    @classmethod
    def of(cls, policy: Policy, trace: Trace, costs: Costs, task: Task, grid: int) -> Self:
        exits, count, outputs = trace.logits.shape
        thresholds = policy.thresholds(grid, exits, outputs)
        free = np.arange(policy.earliest, exits - 1)
        statistic = policy.statistic(trace.logits, trace.signal)
        levels, ranks = [], np.zeros((len(free), count), dtype=np.int64)
        level_of = np.zeros((len(thresholds), len(free)), dtype=np.int64)
        for f, e in enumerate(free):
            passing = np.zeros(count, dtype=np.int64)  # how many thresholds let an example go; the strictest never does
            for threshold in thresholds:
                passing += policy.leaves(statistic[e], threshold)
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
        """The same choices on a sample of the examples, where there are many."""
        count = len(self.labels)
        if count <= _EXAMPLES:
            return self
        drawn = np.sort(np.random.default_rng(seed).choice(count, _EXAMPLES, replace=False))
        answers, flops = self.answers[:, drawn], self.flops[:, drawn]
        return replace(self, ranks=self.ranks[:, drawn], answers=answers, labels=self.labels[drawn], flops=flops)

    @property
    def size(self) -> float:
        """How many choices there are."""
        return float(np.prod([float(len(levels)) for levels in self.levels]))

    def everything(self) -> Ints:
        return np.indices([len(levels) for levels in self.levels]).reshape(len(self.free), -1).T

    def corners(self) -> Ints:
        """[F + 1, F] strictest before exit k, loosest at k; and full depth for all."""
        strictest = np.array([len(levels) - 1 for levels in self.levels])
        return np.where(np.eye(len(self.free) + 1, len(self.free), dtype=bool), 0, strictest)

    def vectors(self, choices: Ints) -> Floats:
        """[K, E] thresholds."""
        vectors = np.full((len(choices), len(self.answers)), self.thresholds[-1])
        for f, e in enumerate(self.free):
            vectors[:, e] = self.thresholds[self.levels[f][choices[:, f]]]
        return vectors

    def left(self, choices: Ints, without: int | None = None) -> Ints:
        """[K, N] 0-based exits; `without`: as if nobody left at that free exit."""
        left = np.full((len(choices), len(self.labels)), len(self.answers) - 1)
        for f in reversed(range(len(self.free))):  # from the back, so that the earliest exit wins
            if f != without:
                left[choices[:, f, None] < self.ranks[f]] = self.free[f]
        return left

    def judged(self, choices: Ints) -> tuple[Floats, Floats]:
        """Score and mean FLOPs [K]; an undefined score is as bad as a score can be."""
        examples, parts = np.arange(len(self.labels)), []
        for block in _blocks(choices, len(examples)):
            left = self.left(block)
            measured = METRICS[self.task.metrics[0]](self.answers[left, examples], self.labels)
            parts.append((np.nan_to_num(measured, nan=-1.0), self.flops[left, examples].mean(axis=1)))
        score, flops = zip(*parts, strict=True)
        return np.concatenate(score), np.concatenate(flops)


class _Neighbours:
    """The score and cost of all choices that differ from given ones at one exit, from sums over examples.

    Accuracy, F1, Matthews and Pearson are functions of sums. Other metrics rank no neighbours: accuracy (regression:
    Pearson) does so in their place.
    """

    def __init__(self, space: _Space) -> None:
        self.space = space
        metric, answers, labels = space.task.metrics[0], space.answers, space.labels
        if space.task.regression:
            true = labels.astype(np.float64) - labels.mean(dtype=np.float64)
            values = answers.astype(np.float64) - answers.mean(dtype=np.float64)
            summed = [values, values**2, values * true]
            self.score = _correlation(len(labels), float((true**2).sum()))
        elif metric in ("f1", "matthews"):
            summed = [(answers == 1) & (labels == 1), answers == 1]
            self.score = (_f1 if metric == "f1" else _matthews)(len(labels), float((labels == 1).sum()))
        else:
            summed = [answers == labels]
            self.score = lambda sums: np.asarray(sums[0] / len(labels))
        self.values = np.stack([np.asarray(each, dtype=np.float64) for each in (*summed, space.flops)])
        """[V, E, N] what is summed over examples; FLOPs come last."""
        self.leaving = [
            (np.arange(len(levels)) < ranks[:, None]).astype(np.float64)
            for ranks, levels in zip(space.ranks, space.levels, strict=True)
        ]
        """[N, L] of each free exit: whether a level lets an example go."""

    def at(self, choices: Ints, f: int) -> tuple[Floats, Floats]:
        """Scores and mean FLOPs [K, L] of `choices` with each of the L levels of free exit `f` in turn."""
        space, examples = self.space, np.arange(len(self.space.labels))
        parts = []
        for block in _blocks(choices, len(examples) * len(self.values)):
            left = space.left(block, without=f)
            without = self.values[:, left, examples]
            change = np.where(left > space.free[f], self.values[:, space.free[f], None] - without, 0.0)
            parts.append(without.sum(axis=2)[..., None] + change @ self.leaving[f])
        sums = np.concatenate(parts, axis=1)  # [V, K, L]
        return self.score(sums[:-1]), sums[-1] / len(examples)

    def best(self, choices: Ints, f: int) -> tuple[Found, Floats, Floats]:
        """The non-dominated ones of `at(choices, f)`, and all of it."""
        score, cost = self.at(choices, f)
        kept = _front(score.ravel(), cost.ravel())
        row, level = np.divmod(kept, score.shape[1])
        changed = choices[row]
        changed[:, f] = level
        return (changed, score.ravel()[kept], cost.ravel()[kept]), score, cost


def _f1(count: int, actual: float) -> Callable[[Floats], Floats]:
    return lambda sums: _ratio(2 * sums[0], sums[1] + actual)


def _matthews(count: int, actual: float) -> Callable[[Floats], Floats]:
    def score(sums: Floats) -> Floats:
        hits, guessed = sums[0], sums[1]
        spread = np.sqrt(guessed * (count - guessed) * actual * (count - actual))
        return _ratio(hits * count - guessed * actual, spread)

    return score


def _correlation(count: int, spread: float) -> Callable[[Floats], Floats]:
    def score(sums: Floats) -> Floats:
        variance = sums[1] - sums[0] ** 2 / count
        constant = variance <= 1e-12 * sums[1]  # but for rounding
        return _ratio(sums[2], np.sqrt(np.where(constant, 0.0, variance) * spread))

    return score


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def _search(space: _Space, start: Ints) -> Ints:
    """The non-dominated choices of a coordinate ascent from `start` and a local search from where it ends."""
    neighbours = _Neighbours(space)
    found = _merged((start, *space.judged(start)))
    states = np.repeat(_spread(start, _STARTS), len(_WEIGHTS), axis=0)
    weights, full = np.tile(_WEIGHTS, len(states) // len(_WEIGHTS))[:, None], space.flops[-1].mean()
    for _ in range(_SWEEPS):
        before = states.copy()
        for f in range(len(space.free)):
            better, score, cost = neighbours.best(states, f)
            states[:, f] = np.argmax(score + weights * np.log2(full / cost), axis=1)  # of equals the cheapest
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
    """Positions of the non-dominated points, cheapest first, the first of those that are equal."""
    order = np.lexsort([-score, cost])
    risen = np.maximum.accumulate(score[order])
    return np.asarray(order[np.concatenate([[True], risen[1:] > risen[:-1]])])


def _spread(rows: Ints, most: int) -> Ints:
    """At most `most` rows, evenly spread, both ends among them."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _blocks(choices: Ints, numbers: int) -> list[Ints]:
    """`choices` in parts that need no more than `_BLOCK` numbers, `numbers` a choice."""
    step = max(1, _BLOCK // numbers)
    return [choices[i : i + step] for i in range(0, len(choices), step)]


def _sampled(space: _Space, start: Ints, trials: int, seed: int) -> Ints:
    """[trials, F] what NSGA-II samples when corners and `start` are its first generations."""
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
        [score], [cost] = space.judged(np.array([choice]))
        tried.append(choice)
        return float(score), float(cost)

    study.optimize(objective, n_trials=len(start) + trials)
    return np.array(tried[len(start) :])


def _table(known: list[tuple[str, Ints]], space: _Space) -> pd.DataFrame:
    """One row a vector, in order, judged."""
    choices = np.concatenate([np.empty((0, len(space.free)), dtype=np.int64), *(each for _, each in known)])
    columns = [f"threshold_{e + 1}" for e in range(len(space.answers))]
    table = pd.DataFrame(space.vectors(choices), columns=columns)
    table.insert(0, "number", np.arange(len(table)))
    table.insert(1, "origin", [origin for origin, each in known for _ in each])
    score, cost = space.judged(choices) if len(choices) else (np.empty(0), np.empty(0))
    return table.assign(score=score, flops=cost, on_frontier=nondominated(score, cost))
