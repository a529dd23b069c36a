"""The operating points of one run: every threshold, exit and static prediction, scored and costed.

Everything is read off the traces: no forward pass happens here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bench.analysis.frontier import nondominated
from bench.errors import UserError
from bench.exit_policies.policies import Patience, Policy, ours, replay_many
from bench.tasks.catalogue import Task
from bench.tasks.scores import METRICS, constant, hidden, scores
from bench.trace import Costs, Trace

# Predictions scored at once: 200 thresholds on QQP's 40,000 examples come in two blocks of 32 MB an array.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class RunName:
    """Who was measured; `label` is what tables print."""

    task: str
    method: str
    variant: str
    label: str
    seed: int


@dataclass(frozen=True)
class _Kind:
    """K operating points of one kind, before they meet a split: their columns and who leaves where."""

    columns: dict[str, list]
    exits: Callable[[Trace], NDArray[np.int64]]
    """Trace -> [K, N] 0-based exits."""
    own: bool = False
    """Whether the rule is the contestant's own: the table then keeps where it let each example go."""


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
    """The points table of one run, one row an operating point and split.

    traces: by split; splits whose labels are hidden are left out. grid: how many thresholds are tried for kind
    "uniform" (of thresholds that send everyone of the selection split to the same exits, the strictest stays).
    vectors: thresholds one an exit, kind "per_exit". selection: the split on which `on_frontier` is judged.
    control: adds the best constant answer (for the reference's run). Column `exit_start`: the first exit that
    the model's rule may use, 1-based; no point uses one below it. Column `tolerance`: that of patience on regression,
    NaN elsewhere. UserError where `selection` is not among the labelled traces.

    A rule of the suite can be replayed from its name; of a contestant's own, column `left` holds the 0-based exits, a
    byte an example.
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
    """All operating points of a model with this policy; `trace` is the selection split's."""
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
    own = not ours(policy)
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
    """What identifies `count` operating points in the table."""
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
    """The rows of one kind on one split, scored in blocks that fit in memory."""
    left = kind.exits(trace)
    block = max(1, _BLOCK // len(trace.idx))
    parts = [evaluate(left[i : i + block], trace, costs, task) for i in range(0, len(left), block)]
    table = pd.concat([pd.DataFrame(kind.columns), pd.concat(parts, ignore_index=True)], axis=1).assign(split=split)
    return table.assign(left=[row.tobytes() for row in left.astype(np.uint8)]) if kind.own else table


def predictions(trace: Trace, task: Task) -> NDArray:
    """[E, N] class ids, or real values for regression."""
    return trace.logits[..., 0] if task.regression else trace.logits.argmax(axis=-1)


def evaluate(exits: NDArray[np.int64], trace: Trace, costs: Costs, task: Task) -> pd.DataFrame:
    """Scores and costs of who-left-where: 0-based exits [K, N] -> K rows.

    `constant`: every example of the trace gets one and the same answer.
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
    """Whether a trace can be scored: a test split hides its labels."""
    return bool(len(trace.labels)) and not hidden(trace.labels)


def full_depth(trace: Trace, costs: Costs, task: Task) -> pd.Series:
    """Scores and costs of the last exit on all examples, as `evaluate`."""
    return evaluate(np.full((1, len(trace.labels)), len(trace.logits) - 1), trace, costs, task).iloc[0]


def _control(split: str, trace: Trace, costs: Costs, task: Task, chosen_on: ArrayLike) -> dict:
    """The control that always gives the best constant answer: it costs nothing, and is on no frontier."""
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
