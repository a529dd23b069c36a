"""Cascades of two contestants, a small model before a large one, replayed from traces.

The small model answers where its confidence is above a threshold. The large model answers the other examples, at the
cost of both. At each budget, the best portfolio (a cascade or a single contestant) and the best single contestant are
chosen on the selection split. Nothing is trained. Only classification is covered: regression has no confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.budgets import (
    GROUP,
    TOLERANCE,
    at_budget,
    full_depth_runs,
    predicted,
    run_folder,
    selection_split,
)
from bench.analysis.combinations.policy_grid import BUDGETS, reference_flops
from bench.analysis.comparing.estimates import Estimate, bounds, estimate_mean
from bench.analysis.comparing.resampling import Resamples, resampled
from bench.analysis.metrics import score
from bench.exit_policies.policies import Confidence
from bench.settings import SCORE_METRICS
from bench.trace import Costs, Trace

THRESHOLDS = 50
"""Number of thresholds for each pair, which are quantiles of the small model's confidence."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Model:
    """A contestant's run at full depth on one split.

    Attributes:
        name: Method and variant.
        answers: Predictions [N].
        confidence: Largest probability [N].
        flops: FLOPs [N] of each example.
    """

    name: tuple[str, str]
    answers: NDArray[np.int64]
    confidence: Floats
    flops: Floats


@dataclass(frozen=True)
class Portfolio:
    """The best portfolio and the best single contestant of one task and seed at one budget.

    Attributes:
        small: Method and variant of the small model; equal to `large` if the portfolio is a single contestant.
        large: Method and variant of the large model.
        score: Score of the portfolio, as a fraction.
        speedup: Speed-up of the portfolio over the reference.
        single: Method and variant of the best single contestant.
        single_score: Its score.
        single_speedup: Its speed-up.
        labels: Labels [N].
        answers: Predictions [N] of the portfolio.
        single_answers: Predictions [N] of the best single contestant.
    """

    task: str
    seed: int
    budget: float
    metric: str
    small: tuple[str, str]
    large: tuple[str, str]
    score: float
    speedup: float
    single: tuple[str, str]
    single_score: float
    single_speedup: float
    labels: NDArray[np.int64]
    answers: Floats
    single_answers: Floats

    @property
    def cascade(self) -> bool:
        """Return whether the portfolio consists of two models."""
        return self.small != self.large


def portfolios(
    points: pd.DataFrame, runs: Path, *, budgets: Sequence[float] = BUDGETS, split: str = "validation"
) -> list[Portfolio]:
    """Choose the best portfolio and the best single contestant of each classification task and seed, at each budget.

    Tasks and seeds without a point within the budget are left out.

    Args:
        points: Operating points of the contestants.
        runs: results/<profile>/runs, with the traces.
        budgets: Speed-ups over the reference.
        split: The split on which scores and speed-ups are reported.

    Raises:
        UserError: The trace or the costs of a run are missing or broken.
    """
    chosen_on, reference = selection_split(points), reference_flops(points)
    singles = pd.concat([at_budget(points, budget, by=(*GROUP, "variant"), split=split) for budget in budgets])
    singles = singles[singles["score"].notna() & ~singles["metric"].isin(SCORE_METRICS)]
    singles = singles.sort_values(["selected_score", "selected_speedup"], ascending=False, kind="stable")
    best = singles.drop_duplicates(["task", "seed", "budget"])
    of_runs = pd.DataFrame(full_depth_runs(points))
    made: list[Portfolio] = []
    for (task, seed), rows in best.groupby(["task", "seed"], sort=False):
        own = of_runs[(of_runs["task"] == task) & (of_runs["seed"] == seed)]
        models = {name: _models(own, runs, name) for name in (chosen_on, split)}
        traces = {at: Trace.load(run_folder(row, runs) / f"trace-{split}.parquet") for at, row in rows.iterrows()}
        metric = str(rows["metric"].iloc[0])
        pairs = _cascades(*models[chosen_on], metric)
        full = {name: reference[str(task), int(seed), name] for name in models}
        for at, row in rows.sort_values("budget").iterrows():
            labels, single = traces[at].labels, predicted(row, traces[at])
            one = (str(row["method"]), str(row["variant"]))
            reached, speedup = float(row["score"]), float(row["speedup"])
            first, last, answers = one, one, single
            cheap = pairs[pairs["flops"] <= full[chosen_on] / row["budget"] / (1 - TOLERANCE)]
            top = cheap.sort_values(["score", "flops"], ascending=[False, True], kind="stable").head(1)
            if len(top) and top["score"].item() > row["selected_score"]:
                small, large = (models[split][0][int(top[name].item())] for name in ("small", "large"))
                stays = small.confidence > top["threshold"].item()
                answers = np.where(stays, small.answers, large.answers).astype(np.float64)
                cost = float((small.flops + np.where(stays, 0.0, large.flops)).mean())
                first, last = small.name, large.name
                reached, speedup = float(score(metric, answers.astype(int), labels)), full[split] / cost
            made.append(
                Portfolio(
                    str(task), int(seed), float(row["budget"]), metric, small=first, large=last, score=reached,
                    speedup=speedup, single=one, single_score=float(row["score"]), single_speedup=float(row["speedup"]),
                    labels=labels, answers=answers, single_answers=single,
                )
            )  # fmt: skip
    return made


def _models(rows: pd.DataFrame, runs: Path, split: str) -> tuple[list[_Model], NDArray[np.int64]]:
    """Return every run of a task and seed at full depth, and the labels; UserError if a trace is missing."""
    models, labels = [], np.array([], dtype=np.int64)
    for row in rows.to_dict("records"):
        folder = run_folder({str(name): value for name, value in row.items()}, runs)
        trace, costs = Trace.load(folder / f"trace-{split}.parquet"), Costs.load(folder / "costs.json")
        last = trace.logits[-1:]
        flops = costs.flops(trace.lengths)[-1].astype(np.float64)
        name = (str(row["method"]), str(row["variant"]))
        models.append(_Model(name, last[0].argmax(axis=-1), Confidence().statistic(last)[0], flops))
        labels = trace.labels
    return models, labels


def _cascades(models: Sequence[_Model], labels: NDArray[np.int64], metric: str) -> pd.DataFrame:
    """Return every pair and threshold on one split: small and large (indices of `models`), threshold, score, flops."""
    frames = []
    for small, large in permutations(range(len(models)), 2):
        first, second = models[small], models[large]
        if first.flops.mean() >= second.flops.mean():
            continue
        thresholds = np.unique(np.quantile(first.confidence, np.linspace(0, 1, THRESHOLDS)))
        stays = first.confidence > thresholds[:, None]
        scores = score(metric, np.where(stays, first.answers, second.answers), labels)
        flops = first.flops.mean() + np.where(stays, 0.0, second.flops).mean(axis=1)
        frames.append(
            pd.DataFrame({"small": small, "large": large, "threshold": thresholds, "score": scores, "flops": flops})
        )
    return pd.concat(frames) if frames else pd.DataFrame(columns=["small", "large", "threshold", "score", "flops"])


def gains(chosen: Sequence[Portfolio], resamples: Resamples) -> dict[str, Estimate]:
    """Map each task to the gain of the best portfolio over the best single contestant, at one budget."""
    found: dict[str, Estimate] = {}
    for task in dict.fromkeys(each.task for each in chosen):
        own = [each for each in chosen if each.task == task]
        answers = [given for each in own for given in (each.answers, each.single_answers)]
        drawn = resampled(own[0].metric, answers, own[0].labels, resamples=resamples.resamples)
        observed = np.array([each.score - each.single_score for each in own])
        limits = bounds(own[0].metric, difference=True)
        noise = resamples.noise.get(task, 0.0)
        found[task] = estimate_mean(
            observed, drawn[:, ::2] - drawn[:, 1::2], len(own[0].labels), bounds=limits, noise=noise
        )
    return found
