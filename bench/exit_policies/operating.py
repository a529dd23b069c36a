"""Operating points of a trained model: full depth, one exit for all examples, or its exit policy with thresholds.

A point is a mapping with the columns that name it in a points table: `kind` (static, fixed_exit, uniform, per_exit),
`policy`, `exit_start`, `threshold` (uniform), `thresholds` (per_exit, one an exit), `exit` (1-based, fixed_exit),
`tolerance` (of patience on regression).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.exit_policies.deciding import Leaves, fixed, never, rule
from bench.exit_policies.policies import Agreement, Policy, policy_for, replay
from bench.trace import Trace


def plain(point: Mapping[str, Any]) -> dict[str, Any]:
    """What operates a model, as plain values: what a configuration file holds.

    UserError for a rule that a contestant brought itself: only its own code can ask it.
    """
    if brings_its_rule(point):
        raise UserError(f"the exit rule {point['policy']} is the contestant's own, and no file can hold it")
    return {
        "kind": str(point["kind"]),
        "policy": str(point["policy"]),
        "exit_start": int(point["exit_start"]),
        "threshold": float(point["threshold"]) if point["kind"] == "uniform" else None,
        "thresholds": [float(each) for each in point["thresholds"]],
        "exit": int(point["exit"]),
        "tolerance": _tolerance(point),
    }


def brings_its_rule(point: Mapping[str, Any]) -> bool:
    """Whether the point is operated by a rule that its contestant brought itself."""
    return isinstance(point.get("left"), bytes)


def leaves(point: Mapping[str, Any], own: Policy | None = None) -> Leaves:
    """The point as the early-exit engine asks it. own: the rule of a contestant that brings it itself.

    UserError for a policy that is not known.
    """
    if point["kind"] == "static":
        return never
    if point["kind"] == "fixed_exit":
        return fixed(int(point["exit"]) - 1)
    return rule(own if brings_its_rule(point) and own is not None else _policy(point), _threshold(point))


def left(point: Mapping[str, Any], trace: Trace, own: Policy | None = None) -> NDArray[np.int64]:
    """[N] the 0-based exit at which the point lets each example of a trace go.

    A rule that a contestant brought itself is known by what it did on the row's split: the trace must be of that, or
    the rule be given as `own`. Raises UserError where neither is so.
    """
    exits_needed = max(int(point["exit"]), len(point["thresholds"]))
    if exits_needed > len(trace.logits):
        raise UserError(f"{point['method']}: a point with {exits_needed} exits of a model with {len(trace.logits)}")
    if point["kind"] in ("static", "fixed_exit"):
        return np.full(len(trace.idx), (int(point["exit"]) or len(trace.logits)) - 1)
    if brings_its_rule(point) and own is not None:
        return replay(own, own.statistic(trace.logits, trace.signal), _threshold(point))
    if brings_its_rule(point):
        exits = np.frombuffer(point["left"], dtype=np.uint8).astype(np.int64)
        if len(exits) != len(trace.idx):
            raise UserError(
                f"{point['method']}: where its own exit rule lets examples go is known of {point['split']} alone"
            )
        return exits
    return replay(_policy(point), trace.logits, _threshold(point))


def _policy(point: Mapping[str, Any]) -> Policy:
    regression = point["policy"] == Agreement.name
    return policy_for(point["policy"], regression, int(point["exit_start"]), _tolerance(point))


def _tolerance(point: Mapping[str, Any]) -> float | None:
    """Return the tolerance of a point's patience; None for other rules, and for tables that do not have the column."""
    tolerance = point.get("tolerance")
    return None if tolerance is None or np.isnan(tolerance) else float(tolerance)


def _threshold(point: Mapping[str, Any]) -> Any:
    return point["thresholds"] if len(point["thresholds"]) else point["threshold"]
