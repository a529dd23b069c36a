"""Measure what the threshold search gains on its own examples and on other examples.

    python benchmarks/thresholds.py --config config/sketch-full.yaml --splits 4

Reads the traces of every run with an exit policy, divides their labelled examples at random into a selection and a
validation part (of the sizes they have), and operates each model with growing sets of points. Prints for each task and
on average: the area under the chosen frontier on both parts; the mean score on validation at all budgets up to the
first exit's cost (an area rewards many points, this does not; both above the constant baseline); how many fixed exits
are better than the chosen points; and CPU seconds of a search.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench.analysis.frontier import hypervolume
from bench.analysis.metrics import constant
from bench.analysis.points import RunName, build
from bench.analysis.thresholds import per_exit
from bench.exit_policies.policies import Policy
from bench.method import contestant
from bench.runs.plan import runs
from bench.settings import load
from bench.store import run_folder
from bench.tasks.catalogue import Task
from bench.trace import Costs, Trace

SETS = {
    "one threshold": (["static", "uniform"], None),
    "fixed exits too": (["static", "uniform", "fixed_exit"], None),
    "direct search": (["static", "uniform", "fixed_exit", "per_exit"], "direct"),
    "direct, Optuna": (["static", "uniform", "fixed_exit", "per_exit"], "both"),
}
"""The kinds of points a model is operated at, and the search that its vectors come from."""


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/sketch-full.yaml"))
    parser.add_argument("--splits", type=int, default=4)
    arguments = parser.parse_args()
    settings = load(arguments.config)
    lines = []
    for planned in runs(settings):
        key, folder = planned.key, run_folder(settings, planned.key)
        method = contestant(settings, key.method, key.task)
        policy = method.exit_policy()
        kept = [folder / f"trace-{split}.parquet" for split in ("calibration", "validation")]
        if policy.name == "none" or not all(file.is_file() for file in kept):
            continue
        selection, validation = (Trace.load(file) for file in kept)
        costs = Costs.load(folder / "costs.json")
        if policy.earliest >= len(costs.layers) - 1:
            continue
        both = _joined(selection, validation)
        for split in range(arguments.splits):
            dealt = np.random.default_rng(split).permutation(len(both.idx))
            size = len(selection.idx)
            traces = {"calibration": _part(both, dealt[:size]), "validation": _part(both, dealt[size:])}
            study = {"grid": settings.thresholds.grid, "trials": settings.thresholds.trials, "seed": split}
            for name, (kinds, search) in SETS.items():
                began = time.process_time()
                vectors = _vectors(search, policy, traces["calibration"], costs, method.task, study)
                seconds = time.process_time() - began
                run = RunName(key.task, key.method, key.variant, method.label(key.variant), key.seed)
                grid = settings.thresholds.grid
                points = build(run, traces, costs, policy, method.task, grid=grid, vectors=vectors)
                floor = constant(method.task, traces["calibration"].labels, traces["validation"].labels)
                found = _measured(points, kinds, floor[method.task.metrics[0]])
                lines.append({"task": key.task, "set": name, "seconds": seconds, **found})
    table = pd.DataFrame(lines)
    for task, rows in [*table.groupby("task", sort=False), ("all", table)]:
        print(f"\n{task}: {len(rows) // len(SETS)} splits of runs")
        print(rows.drop(columns="task").groupby("set", sort=False).mean().round(4).to_string())


def _vectors(
    search: str | None, policy: Policy, trace: Trace, costs: Costs, task: Task, study: dict
) -> list[list[float]]:
    if search is None:
        return []
    trials = study["trials"] if search == "both" else 0
    return per_exit(policy, trace, costs, task, **study | {"trials": trials}).vectors


def _joined(first: Trace, second: Trace) -> Trace:
    return Trace(
        idx=np.concatenate([first.idx, second.idx]),
        labels=np.concatenate([first.labels, second.labels]),
        lengths=np.concatenate([first.lengths, second.lengths]),
        difficulty=None,
        logits=np.concatenate([first.logits, second.logits], axis=1),
    )


def _part(trace: Trace, rows: np.ndarray) -> Trace:
    return Trace(trace.idx[rows], trace.labels[rows], trace.lengths[rows], None, trace.logits[:, rows])


def _measured(points: pd.DataFrame, kinds: list[str], floor: float) -> dict[str, float]:
    wide = points.pivot(index=["kind", "point"], columns="split", values=["score", "flops"]).dropna()
    score, flops = wide["score"], wide["flops"]
    full, cheapest = flops.loc["static"].iloc[0], flops["calibration"].min()
    used = wide.index.get_level_values("kind").isin(kinds)
    mine = score["calibration"].where(used)
    fixed = [
        not ((mine >= score["calibration"][point]) & (flops["calibration"] <= flops["calibration"][point])).any()
        for point in score.index[score.index.get_level_values("kind") == "fixed_exit"]
    ]
    order = np.lexsort([-mine.to_numpy(), flops["calibration"]])
    best = mine.to_numpy()[order]
    before = np.concatenate([[-np.inf], np.fmax.accumulate(np.nan_to_num(best, nan=-np.inf))[:-1]])
    chosen = order[np.nan_to_num(best, nan=-np.inf) > before]
    areas = {
        f"area, {split}": hypervolume(
            score[split].iloc[chosen], flops[split].iloc[chosen], teacher_flops=full[split], floor=floor
        )
        for split in ("calibration", "validation")
    }
    reach = flops["calibration"].iloc[chosen].to_numpy()
    budgets = np.geomspace(cheapest, full["calibration"], 50) * (1 + 1e-9)
    picked = np.searchsorted(reach, budgets, side="right") - 1
    read = np.where(picked >= 0, score["validation"].iloc[chosen].to_numpy()[picked] - floor, 0.0)
    return areas | {"at budgets": float(read.mean()), "fixed beat": float(sum(fixed)), "fixed exits": len(fixed)}


if __name__ == "__main__":
    main()
