"""Operating points of a trained model: full depth, one exit for all examples, or its exit policy with thresholds.

A point is a mapping with the columns that identify it in a points table: `kind` (static, fixed_exit, uniform,
per_exit), `policy`, `exit_start`, `threshold` (uniform), `thresholds` (per_exit, one per exit), `exit` (1-based,
fixed_exit) and `tolerance` (patience on regression).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.exit_policies.deciding import ExitDecision, fixed, never, rule
from bench.exit_policies.policies import BUILTIN, Agreement, Policy, policy_for, replay
from bench.trace import Trace


def plain(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the operating point as plain values for a configuration file.

    Raises:
        UserError: For an exit policy of the contestant's own, which only its code can evaluate.
    """
    if has_own_policy(point):
        raise UserError(f"the exit policy {point['policy']} is the contestant's own and cannot be written to a file")
    return {
        "kind": str(point["kind"]),
        "policy": str(point["policy"]),
        "exit_start": int(point["exit_start"]),
        "threshold": float(point["threshold"]) if point["kind"] == "uniform" else None,
        "thresholds": [float(each) for each in point["thresholds"]],
        "exit": int(point["exit"]),
        "tolerance": _tolerance(point),
    }


def has_own_policy(point: Mapping[str, Any]) -> bool:
    """Return whether the point uses an exit policy that the contestant defines, with recorded exits."""
    return isinstance(point.get("exits_taken"), bytes) and point["policy"] not in BUILTIN


def decision(point: Mapping[str, Any], own: Policy | None = None) -> ExitDecision:
    """Return the exit decisions of an operating point, for the early-exit engine.

    Args:
        point: The operating point.
        own: The exit policy that the contestant defines, if it defines one.

    Raises:
        UserError: For an unknown exit policy.
    """
    if point["kind"] == "static":
        return never
    if point["kind"] == "fixed_exit":
        return fixed(int(point["exit"]) - 1)
    return rule(own if has_own_policy(point) and own is not None else policy_of(point), threshold_of(point))


def exits_taken(point: Mapping[str, Any], trace: Trace, own: Policy | None = None) -> NDArray[np.int64]:
    """Return the 0-based exit [N] of each example of a trace at an operating point.

    For an exit policy of the contestant's own, the exits recorded in the row are used unless `own` is given.

    Args:
        point: The operating point.
        trace: The trace of N examples.
        own: The exit policy that the contestant defines, if it defines one.

    Raises:
        UserError: If the point needs more exits than the trace has, or if the exits of the contestant's own policy
            were recorded on another split and `own` is not given.
    """
    exits_needed = max(int(point["exit"]), len(point["thresholds"]))
    if exits_needed > len(trace.logits):
        raise UserError(f"{point['method']}: its point needs {exits_needed} exits, its trace has {len(trace.logits)}")
    if point["kind"] in ("static", "fixed_exit"):
        return np.full(len(trace.idx), (int(point["exit"]) or len(trace.logits)) - 1)
    if has_own_policy(point) and own is not None:
        return replay(own, own.statistic(trace.logits, trace.signal), threshold_of(point))
    if has_own_policy(point):
        exits = np.frombuffer(point["exits_taken"], dtype=np.uint8).astype(np.int64)
        if len(exits) != len(trace.idx):
            raise UserError(
                f"{point['method']} has an exit policy of its own, and its exits are recorded for {point['split']} only"
            )
        return exits
    return replay(policy_of(point), trace.logits, threshold_of(point))


def policy_of(point: Mapping[str, Any]) -> Policy:
    """Return the built-in exit policy of an operating point."""
    regression = point["policy"] == Agreement.name
    return policy_for(point["policy"], regression, int(point["exit_start"]), _tolerance(point))


def _tolerance(point: Mapping[str, Any]) -> float | None:
    """Return the tolerance of a patience point; None for other policies and for tables without the column."""
    tolerance = point.get("tolerance")
    return None if tolerance is None or np.isnan(tolerance) else float(tolerance)


def threshold_of(point: Mapping[str, Any]) -> Any:
    """Return the threshold of an operating point with an exit policy: a number, or one for each exit."""
    return point["thresholds"] if len(point["thresholds"]) else point["threshold"]
