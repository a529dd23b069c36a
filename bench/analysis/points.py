"""The operating points of one run, with scores and costs, computed from its traces without a forward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bench.analysis.frontier import nondominated
from bench.analysis.metrics import METRICS, constant, hidden, scores
from bench.errors import UserError
from bench.exit_policies.policies import Patience, Policy, is_builtin_policy, replay_many
from bench.tasks.catalogue import Task
from bench.trace import Costs, Trace

# Predictions scored at once: 200 thresholds on QQP's 40,000 examples take two blocks with arrays of 32 MB.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class RunName:
    """Identifies a run in the points table; `label` is the name in tables."""

    task: str
    method: str
    variant: str
    label: str
    seed: int


@dataclass(frozen=True)
class _Kind:
    """K operating points of one kind, not yet evaluated on a split.

    Attributes:
        columns: Columns of the points table that identify the points.
        exits: Computes the 0-based exits [K, N] of a trace.
        own: Whether the exit policy is the contestant's own; the table then records the exits.
    """

    columns: dict[str, list]
    exits: Callable[[Trace], NDArray[np.int64]]
    own: bool = False


def build(
    run: RunName,
    traces: Mapping[str, Trace],
    costs: Costs,
    policy: Policy,
    task: Task,
    *,
    grid: int,
    vectors: Sequence[Sequence[float]] = (),
    selection: str = "calibration",
    control: bool = False,
) -> pd.DataFrame:
    """Compute the points table of one run, one row per operating point and split.

    Args:
        run: The identification of the run.
        traces: Map from split to trace. Splits without labels are left out.
        costs: Costs of the model.
        policy: The exit policy.
        task: The task.
        grid: Number of thresholds to try for kind "uniform". Of thresholds with the same exits on the selection split,
            only the strictest is kept.
        vectors: Threshold vectors for kind "per_exit", each with one threshold per exit.
        selection: The split on which `on_frontier` is determined.
        control: Whether to add the constant baseline (for the run of the reference).

    Returns:
        The table. `exit_start` is the first exit (1-based) that points may use; `tolerance` is that of patience on
        regression, else NaN. For an exit policy of the contestant's own, column `exits_taken` holds the 0-based exits,
        one byte per example; the other policies can be replayed from their name.

    Raises:
        UserError: If there is no trace with labels of the split `selection`.
    """
    known = {split: trace for split, trace in traces.items() if labelled(trace)}
    if selection not in known:
        raise UserError(f"{run.task} {run.method} {run.variant}: no labelled trace of the split '{selection}'")
    kinds = _kinds(policy, known[selection], grid, vectors)
    frames = [_points(kind, split, trace, costs, task) for kind in kinds for split, trace in known.items()]
    table = pd.concat(frames, ignore_index=True)
    selected = table[table["split"] == selection]
    best = nondominated(selected["score"], selected["flops"])
    frontier = set(zip(selected["kind"][best], selected["point"][best], strict=True))
    table["on_frontier"] = [key in frontier for key in zip(table["kind"], table["point"], strict=True)]
    if control:
        chosen_on = known[selection].labels
        controls = [_control(split, trace, costs, task, chosen_on) for split, trace in known.items()]
        table = pd.concat([table, pd.DataFrame(controls)], ignore_index=True)
    identity = {
        "task": run.task,
        "method": run.method,
        "variant": run.variant,
        "label": run.label,
        "seed": run.seed,
        "exit_start": min(policy.exit_start, len(costs.layers)),
        "tolerance": policy.tolerance if isinstance(policy, Patience) and task.regression else np.nan,
    }
    return pd.concat([pd.DataFrame(identity, index=table.index), table], axis=1)


def _kinds(policy: Policy, trace: Trace, grid: int, vectors: Sequence[Sequence[float]]) -> list[_Kind]:
    """Return all operating points of a model with a policy. `trace` is that of the selection split."""
    depth, _, outputs = trace.logits.shape

    def everyone_at(exits: ArrayLike) -> Callable[[Trace], NDArray[np.int64]]:
        return lambda trace: np.repeat(np.atleast_1d(exits)[:, None], len(trace.idx), axis=1)

    def operated(thresholds: NDArray[np.float64]) -> Callable[[Trace], NDArray[np.int64]]:
        return lambda trace: replay_many(policy, policy.statistic(trace.logits, trace.signal), thresholds)

    kinds = [_Kind(_columns("static", 1), everyone_at(depth - 1))]
    if depth > 1:
        # Exits below `exit_start` may be untrained and are never used.
        exits = np.arange(min(policy.exit_start, depth), depth + 1)
        kinds.append(_Kind(_columns("fixed_exit", len(exits), exit=exits.tolist()), everyone_at(exits - 1)))
    if policy.name == "none" or policy.earliest >= depth - 1:
        return kinds
    thresholds = policy.thresholds(grid, depth, outputs)
    strictest = {row.tobytes(): k for k, row in enumerate(operated(thresholds)(trace))}
    thresholds = thresholds[sorted(strictest.values())]
    own = not is_builtin_policy(policy)
    kinds.append(
        _Kind(
            _columns("uniform", len(thresholds), policy.name, threshold=thresholds.tolist()), operated(thresholds), own
        )
    )
    if len(vectors):
        each = [list(vector) for vector in vectors]
        columns = _columns("per_exit", len(each), policy.name, thresholds=each)
        kinds.append(_Kind(columns, operated(np.asarray(each, dtype=np.float64)), own))
    return kinds


def _columns(kind: str, count: int, policy: str = "none", **given: list) -> dict[str, list]:
    """Return the columns that identify `count` operating points in the table."""
    columns: dict[str, list] = {
        "kind": [kind] * count,
        "point": list(range(count)),
        "policy": [policy] * count,
        "threshold": [float("nan")] * count,
        "thresholds": [[] for _ in range(count)],
        "exit": [0] * count,
    }
    return columns | given


def _points(kind: _Kind, split: str, trace: Trace, costs: Costs, task: Task) -> pd.DataFrame:
    """Return the rows of one kind on one split, computed in blocks that fit in memory."""
    exits = kind.exits(trace)
    block = max(1, _BLOCK // len(trace.idx))
    parts = [evaluate(exits[i : i + block], trace, costs, task) for i in range(0, len(exits), block)]
    table = pd.concat([pd.DataFrame(kind.columns), pd.concat(parts, ignore_index=True)], axis=1).assign(split=split)
    return table.assign(exits_taken=[row.tobytes() for row in exits.astype(np.uint8)]) if kind.own else table


def predictions(trace: Trace, task: Task) -> NDArray:
    """Return the predictions [E, N] of every exit: class ids, or values for regression."""
    return trace.logits[..., 0] if task.regression else trace.logits.argmax(axis=-1)


def evaluate(exits: NDArray[np.int64], trace: Trace, costs: Costs, task: Task) -> pd.DataFrame:
    """Compute scores and costs of K operating points from their 0-based exits [K, N], one row each.

    Column `constant` states whether all examples get the same answer.
    """
    count = len(trace.lengths)
    predicted = predictions(trace, task)[exits, np.arange(count)]
    measured = scores(task, predicted, trace.labels)
    depth = len(trace.logits)
    shares = np.stack([(exits == e).mean(axis=1) for e in range(depth)], axis=1)
    columns = {
        "score": measured[task.metrics[0]],
        "metric": task.metrics[0],
        **{metric: measured.get(metric, np.nan) for metric in METRICS},
        "constant": (predicted == predicted[:, :1]).all(axis=1),
        "examples": count,
        "flops": costs.mean_flops(exits, trace.lengths),
        "flops_128": shares @ costs.flops(128).astype(np.float64),
        "mean_exit": shares @ np.arange(1.0, depth + 1),
        "mean_layers": shares @ np.array(costs.layers, dtype=np.float64),
        "exits": shares.tolist(),
        "parameters": costs.parameters,
        "parameters_encoder": costs.parameters_encoder,
    }
    return pd.DataFrame(columns, index=range(len(exits)))


def labelled(trace: Trace) -> bool:
    """Return whether a trace has labels; test splits hide them."""
    return bool(len(trace.labels)) and not hidden(trace.labels)


def full_depth(trace: Trace, costs: Costs, task: Task) -> pd.Series:
    """Compute scores and costs of the last exit on all examples; see `evaluate`."""
    return evaluate(np.full((1, len(trace.labels)), len(trace.logits) - 1), trace, costs, task).iloc[0]


def _control(split: str, trace: Trace, costs: Costs, task: Task, chosen_on: ArrayLike) -> dict:
    """Return the row of the constant baseline, which has no cost and is on no frontier."""
    measured = constant(task, chosen_on, trace.labels)
    return {
        **{name: values[0] for name, values in _columns("control", 1).items()},
        "score": measured[task.metrics[0]],
        "metric": task.metrics[0],
        **{metric: measured.get(metric, float("nan")) for metric in METRICS},
        "constant": True,
        "examples": len(trace.labels),
        **dict.fromkeys(("flops", "flops_128", "mean_exit", "mean_layers"), 0.0),
        "exits": [0.0] * len(costs.layers),
        "parameters": 0,
        "parameters_encoder": 0,
        "split": split,
        "on_frontier": False,
    }
