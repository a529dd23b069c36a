"""How a trained model is operated: at full depth, at one exit for everybody, or by its rule with one knob or several.

A point is a mapping with the columns that name it in a points table: `kind` (static, fixed_exit, uniform, per_exit),
`policy`, `exit_start`, `knob` (uniform), `thresholds` (per_exit, one an exit), `exit` (1-based, fixed_exit).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.rules.deciding import Leaves, fixed, never, rule
from bench.rules.policies import Agreement, Policy, policy_for, replay

PARTS = ("kind", "policy", "exit_start", "knob", "thresholds", "exit")


def plain(point: Mapping[str, Any]) -> dict[str, Any]:
    """What operates a model, as plain values: what a configuration file holds."""
    return {
        "kind": str(point["kind"]),
        "policy": str(point["policy"]),
        "exit_start": int(point["exit_start"]),
        "knob": float(point["knob"]) if point["kind"] == "uniform" else None,
        "thresholds": [float(each) for each in point["thresholds"]],
        "exit": int(point["exit"]),
    }


def leaves(point: Mapping[str, Any]) -> Leaves:
    """The point as the early-exit engine asks it. UserError for a policy that is not known."""
    if point["kind"] == "static":
        return never
    if point["kind"] == "fixed_exit":
        return fixed(int(point["exit"]) - 1)
    return rule(_policy(point), _knob(point))


def left(point: Mapping[str, Any], logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """[N] the 0-based exit at which the point lets each example of a trace's logits [E, N, C] go."""
    if point["kind"] in ("static", "fixed_exit"):
        return np.full(logits.shape[1], (int(point["exit"]) or len(logits)) - 1)
    return replay(_policy(point), logits, _knob(point))


def _policy(point: Mapping[str, Any]) -> Policy:
    return policy_for(point["policy"], point["policy"] == Agreement.name, int(point["exit_start"]))


def _knob(point: Mapping[str, Any]) -> Any:
    return point["thresholds"] if len(point["thresholds"]) else point["knob"]
