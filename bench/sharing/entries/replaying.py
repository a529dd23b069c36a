"""Compute the points of a published run again from its traces and costs, and compare them with the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.frontier import nondominated
from bench.analysis.metrics import METRICS, constant
from bench.analysis.points import evaluate
from bench.errors import UserError
from bench.exit_policies.operating import has_own_policy, policy_of
from bench.exit_policies.policies import replay_many
from bench.tasks.catalogue import Task
from bench.trace import Costs, Trace

TOLERANCE = 1e-9
"""Largest difference of a number from the recomputed one, relative to numbers above 1 and absolute below."""
_EXACT = ("metric", "examples", "constant", "parameters", "parameters_encoder")
_NUMBERS = ("score", *METRICS, "flops", "flops_128", "mean_exit", "mean_layers")
_BLOCK = 4_000_000
"""Largest number of predictions that are scored at once."""


@dataclass
class Replayed:
    """The result of a comparison.

    Attributes:
        points: Number of points that were computed again.
        largest: Largest difference found, as `TOLERANCE` measures it.
        problems: One line for each column of a run and split that differs.
    """

    points: int = 0
    largest: float = 0.0
    problems: list[str] = field(default_factory=list)

    def compare(self, where: str, column: str, given: NDArray[Any], computed: NDArray[Any]) -> None:
        """Compare a column of numbers, of any shape [K, ...], in which K rows are points."""
        gaps = difference(given, computed).reshape(len(given), -1).max(axis=1, initial=0.0)
        self.largest = max(self.largest, float(gaps.max(initial=0.0)))
        if (wrong := gaps > TOLERANCE).any():
            worst = int(gaps.argmax())
            shown = f"{np.ravel(given[worst])[:8].tolist()}, and {np.ravel(computed[worst])[:8].tolist()} is computed"
            self.problems.append(f"{where}: {column} of {int(wrong.sum())} of {len(given)} points differs ({shown})")


def difference(given: NDArray[Any], computed: NDArray[Any]) -> NDArray[np.float64]:
    """Return the differences of numbers, relative above 1; 0 where both are NaN, infinite where one is."""
    a, b = np.asarray(given, dtype=np.float64), np.asarray(computed, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        gaps = np.abs(a - b) / np.maximum(1.0, np.abs(b))
    return np.where(np.isnan(a) & np.isnan(b), 0.0, np.where(np.isnan(gaps), np.inf, gaps))


def replay_run(
    found: Replayed, place: str, rows: pd.DataFrame, traces: Mapping[str, Trace], costs: Costs, task: Task
) -> None:
    """Compute all points of one run again, and record how they differ.

    Args:
        found: The result, which is extended.
        place: Path of the run, for messages.
        rows: Its points, with the columns that `bench.analysis.points.build` writes.
        traces: Split -> trace. Points of other splits are not computed.
        costs: Its costs.
        task: The task.
    """
    selection = str(rows["selection"].iloc[0])
    for split, of_split in rows.groupby("split", sort=False):
        if split not in traces:
            continue
        where, trace = f"{place}, {split}", traces[str(split)]
        policies = of_split["policy"].astype(str) + of_split["kind"] + of_split["exit_start"].astype(str)
        for _, alike in of_split.groupby(policies, sort=False):
            if alike["kind"].iloc[0] == "control":
                if selection in traces:
                    _control(found, where, alike, constant(task, traces[selection].labels, trace.labels))
                continue
            try:
                exits = _exits(alike, trace)
            except (UserError, ValueError) as error:
                found.problems.append(f"{where}: {alike['kind'].iloc[0]} points cannot be replayed ({error})")
                continue
            _compare(found, where, alike, exits, trace, costs, task)
    chosen_on = rows[(rows["split"] == selection) & (rows["kind"] != "control")]
    best = nondominated(chosen_on["score"], chosen_on["flops"])
    if "on_frontier" in rows and selection in traces:
        given = chosen_on["on_frontier"].astype(float).to_numpy()
        found.compare(f"{place}, {selection}", "on_frontier", given, best.astype(float))


def _exits(rows: pd.DataFrame, trace: Trace) -> NDArray[np.int64]:
    """Return the 0-based exits [K, N] of points of one kind and policy.

    Raises:
        UserError: The policy is unknown, or recorded exits do not fit the trace.
        ValueError: Thresholds do not fit the trace.
    """
    first, depth, count = rows.iloc[0], len(trace.logits), len(trace.idx)
    if first["kind"] in ("static", "fixed_exit"):
        exits = np.where(rows["exit"] > 0, rows["exit"], depth).astype(np.int64) - 1
        return np.repeat(exits[:, None], count, axis=1)
    if has_own_policy(first):
        if any(not isinstance(each, bytes) or len(each) != count for each in rows["exits_taken"]):
            raise UserError("column exits_taken has not one exit for each example")
        exits = np.stack([np.frombuffer(each, dtype=np.uint8) for each in rows["exits_taken"]]).astype(np.int64)
        if exits.max(initial=0) >= depth:
            raise UserError("column exits_taken names an exit that the model does not have")
        return exits
    thresholds = rows["threshold"] if first["kind"] == "uniform" else np.stack(rows["thresholds"].tolist())
    policy = policy_of(first.to_dict())
    return replay_many(policy, policy.statistic(trace.logits), np.asarray(thresholds, dtype=np.float64))


def _compare(
    found: Replayed, where: str, rows: pd.DataFrame, exits: NDArray[np.int64], trace: Trace, costs: Costs, task: Task
) -> None:
    block = max(1, _BLOCK // len(trace.idx))
    parts = [evaluate(exits[at : at + block], trace, costs, task) for at in range(0, len(exits), block)]
    computed = pd.concat(parts, ignore_index=True)
    kind = f"{where}, {rows['kind'].iloc[0]}"
    found.points += len(rows)
    for name in _NUMBERS:
        if name in rows:
            found.compare(kind, name, rows[name].to_numpy(dtype=np.float64), computed[name].to_numpy(dtype=np.float64))
    found.compare(kind, "exits", np.stack(rows["exits"].tolist()), np.stack(computed["exits"].tolist()))
    for name in _EXACT:
        if name in rows and (wrong := rows[name].to_numpy() != computed[name].to_numpy()).any():
            given, known = rows[name].to_numpy()[wrong][0], computed[name].to_numpy()[wrong][0]
            found.problems.append(f"{kind}: {name} is {given}, and {known} is computed")


def _control(found: Replayed, where: str, rows: pd.DataFrame, computed: Mapping[str, float]) -> None:
    found.points += len(rows)
    known = {"score": computed[str(rows["metric"].iloc[0])]} if rows["metric"].iloc[0] in computed else {}
    for name, value in (dict(computed) | known).items():
        if name in rows:
            found.compare(f"{where}, control", name, rows[name].to_numpy(dtype=np.float64), np.full(len(rows), value))


def speedups(found: Replayed, points: pd.DataFrame, reference: str) -> list[str]:
    """Compare speed-ups with the quotients of FLOPs.

    Args:
        found: The result, which is extended.
        points: The points of finished runs.
        reference: Name of the reference contestant.

    Returns:
        Tasks whose reference is not in the folder. There the speed-ups of a task, seed and split are checked to have
        one reference.
    """
    lacking = []
    for (task, seed, split), rows in points[points["kind"] != "control"].groupby(["task", "seed", "split"]):
        own = rows[(rows["method"] == reference) & (rows["kind"] == "static")]
        for flops, speedup in (("flops", "speedup"), ("flops_128", "speedup_128")):
            if flops not in rows or speedup not in rows:
                continue
            costs, given = rows[flops].to_numpy(dtype=np.float64), rows[speedup].to_numpy(dtype=np.float64)
            implied = given * costs
            of_reference = float(own[flops].iloc[0]) if len(own) else float(np.nanmedian(implied))
            found.compare(f"{task}, seed {seed}, {split}", speedup, given, of_reference / costs)
        if own.empty and task not in lacking:
            lacking.append(str(task))
    return lacking
