"""Replays of every model with several exits under every exit policy.

A method combines a trained model and an exit policy. This module combines each model with each policy, to separate the
effects of the training, the policy and the depth of the exits. One threshold for all exits is chosen on the selection
split. Only classification is covered: on regression all policies become `Agreement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.budgets import TOLERANCE, at_budget, full_depth_runs, run_folder, selection_split, succeeded
from bench.analysis.metrics import score
from bench.exit_policies.policies import Divergence, Policy, Similarity, policy_for, replay_many
from bench.settings import SCORE_METRICS
from bench.trace import Costs, Trace

BUDGETS = (1.5, 2.0, 3.0, 4.0)
FIXED, OWN = "fixed exit", "as in the main table"
POLICIES = ("entropy", "confidence", "patience", "similarity", "divergence")
GRID = 200
COLUMNS = ["task", "method", "variant", "seed", "policy", "budget", "score", "speedup"]


@dataclass(frozen=True)
class _Choice:
    """Operating points of one policy, on the selection split."""

    policy: Policy | None
    """None: all examples exit at a fixed exit, and the thresholds are 0-based exits."""
    thresholds: NDArray[np.float64]
    scores: NDArray[np.float64]
    flops: NDArray[np.float64]


def policy_grid(
    points: pd.DataFrame, runs: Path, *, budgets: Sequence[float] = BUDGETS, split: str = "validation"
) -> pd.DataFrame:
    """Evaluate every classification model with several exits under every policy, at each budget.

    Args:
        points: All operating points.
        runs: results/<profile>/runs, with the traces.
        budgets: Speed-ups over the reference, met on the selection split up to `TOLERANCE`.
        split: The split on which scores and speed-ups are reported.

    Returns:
        One row per run, policy and budget, with task, method, variant, seed, policy, budget, score and speedup (NaN
        where no threshold meets the budget). `policy` is one of `POLICIES`, "fixed exit" (one exit for all examples) or
        "as in the main table" (the best of all kinds of points with the model's own policy).

    Raises:
        UserError: The trace or the costs of a run are missing or broken.
    """
    chosen_on = selection_split(points)
    reference = reference_flops(points)
    lines = []
    for run in full_depth_runs(points):
        if run["metric"] in SCORE_METRICS or (run["task"], run["seed"], split) not in reference:
            continue
        folder = run_folder(run, runs)
        costs = Costs.load(folder / "costs.json")
        if len(costs.layers) < 2:
            continue
        traces = {name: Trace.load(folder / f"trace-{name}.parquet") for name in (chosen_on, split)}
        full = {name: reference[run["task"], run["seed"], name] for name in traces}
        for name, choices in _choices(traces[chosen_on], costs, run["metric"], int(run["exit_start"])).items():
            for budget in budgets:
                line = {key: run[key] for key in COLUMNS[:4]} | {"policy": name, "budget": float(budget)}
                picked = _picked(choices, full[chosen_on] / budget / (1 - TOLERANCE))
                if picked is None:
                    lines.append({**line, "score": np.nan, "speedup": np.nan})
                    continue
                exits = _exits(picked[0], picked[1], traces[split])[0]
                found = _scored(exits[None], traces[split], costs, run["metric"])
                lines.append({**line, "score": found[0][0], "speedup": full[split] / found[1][0]})
    replayed = pd.DataFrame(lines, columns=COLUMNS)
    kept = replayed[COLUMNS[:4]].drop_duplicates()
    by = ("task", "method", "variant", "seed")
    own = [at_budget(succeeded(points), budget, by=by, split=split) for budget in budgets]
    as_published = pd.concat(own)[["task", "method", "variant", "seed", "budget", "score", "speedup"]]
    as_published = kept.merge(as_published, on=COLUMNS[:4]).assign(policy=OWN)
    return pd.concat([replayed, as_published[COLUMNS]], ignore_index=True)


def reference_flops(points: pd.DataFrame) -> dict[tuple[str, int, str], float]:
    """Map task, seed and split to the mean FLOPs per example of the reference at full depth."""
    rows = points[points["speedup"].notna() & (points["kind"] == "static")]
    rows = rows.assign(full=rows["flops"] * rows["speedup"]).groupby(["task", "seed", "split"])["full"].first()
    return {(str(task), int(seed), str(split)): float(full) for (task, seed, split), full in rows.items()}


def _choices(trace: Trace, costs: Costs, metric: str, exit_start: int) -> dict[str, list[_Choice]]:
    """Map each policy to its operating points on a trace; some have one entry for each number of exits."""
    exits, _, outputs = trace.logits.shape
    fixed = np.arange(exit_start - 1, exits, dtype=np.float64)
    families: dict[str, list[tuple[Policy | None, NDArray[np.float64]]]] = {FIXED: [(None, fixed)]}
    for name in POLICIES:
        policy = policy_for(name, False, exit_start)
        several: list[Policy] = [policy]
        if isinstance(policy, Similarity | Divergence):
            several = [type(policy)(exit_start, run) for run in range(1, max(2, exits - exit_start))]
        families[name] = [(each, each.thresholds(GRID, exits, outputs)) for each in several]
    made: dict[str, list[_Choice]] = {}
    for name, members in families.items():
        for each, thresholds in members:
            scores, flops = _scored(_exits(each, thresholds, trace), trace, costs, metric)
            made.setdefault(name, []).append(_Choice(each, thresholds, scores, flops))
    return made


def _exits(policy: Policy | None, thresholds: NDArray[np.float64], trace: Trace) -> NDArray[np.int64]:
    """Return the 0-based exits [K, N] at K thresholds."""
    if policy is None:
        return np.repeat(np.atleast_1d(thresholds).astype(np.int64)[:, None], len(trace.idx), axis=1)
    statistic = policy.statistic(trace.logits, trace.signal)
    return replay_many(policy, statistic, np.atleast_1d(thresholds))


def _scored(
    exits: NDArray[np.int64], trace: Trace, costs: Costs, metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute scores and mean FLOPs [K] from 0-based exits [K, N]."""
    answers = trace.logits.argmax(axis=-1)[exits, np.arange(len(trace.idx))]
    return score(metric, answers, trace.labels), costs.mean_flops(exits, trace.lengths)


def _picked(choices: Sequence[_Choice], most: float) -> tuple[Policy | None, NDArray[np.float64]] | None:
    """Return the policy and threshold [1] with the best score within `most` FLOPs, or None; ties go to the cheapest."""
    found = [
        (choice.scores[at], -choice.flops[at], -place, -at, choice)
        for place, choice in enumerate(choices)
        for at in np.flatnonzero(choice.flops <= most)
    ]
    if not found:
        return None
    *_, at, choice = max(found, key=lambda each: each[:4])
    return choice.policy, choice.thresholds[[-at]]
