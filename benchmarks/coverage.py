"""Simulate how often intervals miss and verdicts are wrong, with few seeds.

    python benchmarks/coverage.py [--repeats 400]

Every simulated example has a difficulty that all models share; a model's answers to it are noisy, and each training
shifts the model's skill. So the true difference of two models is known. Estimates, intervals and verdicts are those of
`bench.analysis.comparing`, from the bootstrap on. Spreads over seeds are alike on all tasks, or one task has most of
the variance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from bench.analysis.comparing.equivalence import classify_differences
from bench.analysis.comparing.estimates import Estimate, average, bounds, estimate_mean
from bench.analysis.comparing.resampling import resampled
from bench.settings import Comparison

Floats = NDArray[np.float64]
EXAMPLES, RESAMPLES = 300, 200
NOISE = 0.7
"""Deviation of a model's answer to an example; that of the examples' difficulties is 1."""
SKILL = 1.0


@dataclass(frozen=True)
class World:
    """Simulated runs: `models` models, on tasks with given deviations of the skill over seeds."""

    seeds: int
    deviations: tuple[float, ...]
    """Of each task."""
    skills: tuple[float, ...]
    """Shift of each model's skill from `SKILL`, in the units of difficulty, when the seeds' deviation is 0."""

    def accuracy(self, model: int, task: int) -> float:
        """The true accuracy of a model on a task, over examples and seeds."""
        return float(ndtr((SKILL + self.skills[model]) / np.sqrt(1 + NOISE**2 + self.deviations[task] ** 2)))

    def truth(self, a: int, b: int) -> float:
        """The true difference of two models on the average over tasks."""
        tasks = range(len(self.deviations))
        return float(np.mean([self.accuracy(a, task) - self.accuracy(b, task) for task in tasks]))

    def draw(self, rng: np.random.Generator) -> list[tuple[Floats, Floats]]:
        """Of each task: observed accuracies [models, K], and the same on resamples [R, models, K]."""
        drawn, models = [], len(self.skills)
        for deviation in self.deviations:
            difficulty = rng.normal(size=EXAMPLES)
            skill = SKILL + np.array(self.skills)[:, None] + rng.normal(scale=deviation, size=(models, self.seeds))
            noisy = difficulty + rng.normal(scale=NOISE, size=(models, self.seeds, EXAMPLES))
            answers = (noisy < skill[:, :, None]).reshape(-1, EXAMPLES)
            boot = resampled(
                "accuracy", list(answers), np.ones(EXAMPLES), resamples=RESAMPLES, seed=int(rng.integers(1 << 30))
            )
            shape = (models, self.seeds)
            drawn.append((answers.mean(axis=1).reshape(shape), boot.reshape(-1, *shape)))
        return drawn


def alike(tasks: int, deviation: float) -> tuple[float, ...]:
    """Tasks with the same deviation over seeds."""
    return (deviation,) * tasks


def one(tasks: int, deviation: float) -> tuple[float, ...]:
    """Tasks of which one has most of the variance over seeds."""
    return (deviation * tasks**0.5, *(deviation / 5,) * (tasks - 1))


def estimates(drawn: list[tuple[Floats, Floats]]) -> dict[tuple[int, int], Estimate]:
    """Every pair of models -> the estimate of its difference on the average over tasks."""
    parts: dict[tuple[int, int], list[Estimate]] = {}
    for scores, boot in drawn:
        noise = float(np.var(scores, axis=1, ddof=1).mean())
        for a, b in combinations(range(len(scores)), 2):
            gap, gaps = scores[a] - scores[b], boot[:, a] - boot[:, b]
            limits = bounds("accuracy", difference=True)
            parts.setdefault((a, b), []).append(estimate_mean(gap, gaps, EXAMPLES, bounds=limits, noise=noise))
    return {pair: average(of_tasks) for pair, of_tasks in parts.items()}


def coverage(
    world: World, repeats: int, rng: np.random.Generator, levels: Sequence[float] = (0.95,)
) -> dict[float, dict[str, float]]:
    """Level -> kind of interval -> the share of intervals of the difference of models 0 and 1 that hold the truth."""
    truth = world.truth(0, 1)
    hits = {level: dict.fromkeys(("chosen", "Satterthwaite", "percentile"), 0.0) for level in levels}
    for _ in range(repeats):
        drawn = world.draw(rng)
        found, resampled_means = estimates(drawn)[0, 1], _means(drawn, rng)
        for level, counts in hits.items():
            low, high = found.interval(level)
            counts["chosen"] += (low <= truth <= high) / repeats
            counts["Satterthwaite"] += (abs(found.value - truth) <= _satterthwaite(drawn, level)) / repeats
            low, high = np.quantile(resampled_means, [(1 - level) / 2, (1 + level) / 2])
            counts["percentile"] += (low <= truth <= high) / repeats
    return hits


def _satterthwaite(drawn: list[tuple[Floats, Floats]], level: float) -> float:
    """Half-width with one Student quantile, whose degrees of freedom are estimated from the variances at hand."""
    parts = []
    for scores, boot in drawn:
        each = estimate_mean(scores[0] - scores[1], boot[:, 0] - boot[:, 1], EXAMPLES)
        parts += [(each.seeds_variance, each.seeds_freedom), (each.examples_variance, each.examples_freedom)]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / free for part, free in parts if part > 0)
    return float(stdtrit(max(freedom, 1), (1 + level) / 2) * variance**0.5 / len(drawn))


def _means(drawn: list[tuple[Floats, Floats]], rng: np.random.Generator) -> Floats:
    """[R] the difference of models 0 and 1 on resamples of seeds and examples, mean over tasks."""
    means = np.zeros(RESAMPLES)
    for _, boot in drawn:
        gaps = boot[:, 0] - boot[:, 1]
        seeds = gaps.shape[1]
        counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(gaps))
        means += (gaps * counts).sum(axis=1) / seeds / len(drawn)
    return means


def wrong(world: World, repeats: int, rng: np.random.Generator, comparison: Comparison) -> dict[str, float]:
    """How often some verdict of all pairs is wrong: "equal" at the margin or beyond, "better" or "worse" of equals.

    Both rates are at most 1 - level where the procedure keeps its word.
    """
    pairs = list(combinations(range(len(world.skills)), 2))
    truths = np.array([world.truth(*pair) for pair in pairs])
    errors = {"equal": 0, "better or worse": 0}
    for _ in range(repeats):
        words = classify_differences(list(estimates(world.draw(rng)).values()), comparison)["verdict"].to_numpy()
        errors["equal"] += bool((words[np.abs(truths) >= comparison.margin / 100 - 1e-9] == "equal").any())
        sign = np.sign(np.where(np.abs(truths) < 1e-9, 0, truths))
        said = np.select([words == "better", words == "worse"], [1, -1], 0)
        errors["better or worse"] += bool(((said != 0) & (said != sign)).any())
    return {name: count / repeats for name, count in errors.items()}


def apart(difference: float, deviation: float) -> float:
    """The shift of skill that changes the true accuracy by `difference`, on a task with this deviation over seeds."""
    scale = np.sqrt(1 + NOISE**2 + deviation**2)
    return float(ndtri(ndtr(SKILL / scale) + difference) * scale - SKILL)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400, help="simulated benchmarks of each line")
    repeats, rng = parser.parse_args().repeats, np.random.default_rng(0)
    print(f"coverage of 95 % and 99.8 % intervals, {repeats} repeats, {EXAMPLES} examples a task")
    print("| seeds | tasks | spread over seeds | level | chosen | Satterthwaite | percentile |\n|" + "---|" * 7)
    for seeds in (3, 5):
        for tasks, shape in ((1, alike), (9, alike), (9, one)):
            for deviation in (0.02, 0.1, 0.3):
                # Four more models tell the typical spread of each task, as in a profile.
                world = World(seeds, shape(tasks, deviation), (0.0,) * 6)
                for level, shares in coverage(world, repeats, rng, (0.95, 0.998)).items():
                    cells = " | ".join(f"{100 * share:.1f} %" for share in shares.values())
                    name = f"{deviation} {shape.__name__}"
                    print(f"| {seeds} | {tasks} | {name} | {100 * level:g} % | {cells} |", flush=True)
    margin = 2.0
    print(f"\nsome wrong verdict among all pairs (nominal 5 %), margin {margin:g} points, {repeats} repeats")
    print("| seeds | tasks | spread over seeds | models apart by | pairs | equal | better or worse |\n|" + "---|" * 7)
    for seeds in (3, 5):
        for tasks, shape in ((1, alike), (9, alike), (9, one)):
            for deviation in (0.02, 0.1):
                for difference in (0.0, margin):
                    # Half of the models are alike, the others `difference` below them.
                    lower = apart(-difference / 100, deviation)
                    world = World(seeds, shape(tasks, deviation), (0.0,) * 4 + (lower,) * 4)
                    # With unlike tasks the average differs by a little less: the margin is put on it.
                    truth = 100 * abs(world.truth(0, 7))
                    rates = wrong(world, repeats, rng, Comparison(margin=truth or margin))
                    cells = " | ".join(f"{100 * rate:.1f} %" for rate in rates.values())
                    name = f"{deviation} {shape.__name__}"
                    print(f"| {seeds} | {tasks} | {name} | {truth:.2f} points | 28 | {cells} |", flush=True)


if __name__ == "__main__":
    main()
