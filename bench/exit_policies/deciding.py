"""An exit rule as the early-exit engine asks it: exit after exit, for those who are still there.

The decisions are the replay's. For a single example NumPy's calls would cost as much as a slender layer, so its
statistic is computed in Python's floats, and where that lies too near the threshold to be sure of the last bits, in
the replay's own arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.exit_policies.policies import Agreement, Confidence, Entropy, Patience, Policy, leaves_now

Leaves = Callable[[Sequence[NDArray[np.floating]], Sequence[NDArray[np.floating]]], NDArray[np.bool_]]
"""An exit rule at its threshold: who leaves at the exit just computed, bool [B].

From the logits [B, C] and, of a model that has them, the signals [B] of all exits so far. It is asked at every exit
but the last, with the rows that are still there."""

_NEAR = 1e-9
"""Two correct ways to a statistic in float64 do not differ by this much."""
_STAYS, _GOES = np.array([False]), np.array([True])


def rule(policy: Policy, threshold: ArrayLike) -> Leaves:
    """The rule at one operating point: a scalar threshold, or a vector of one an exit."""
    alone = _ALONE.get(type(policy))
    thresholds = np.asarray(threshold, dtype=np.float64)
    threshold_of = thresholds.tolist().__getitem__ if thresholds.ndim else lambda _, same=float(thresholds): same

    def leaves(seen: Sequence[NDArray[np.floating]], signals: Sequence[NDArray[np.floating]] = ()) -> NDArray[np.bool_]:
        e = len(seen) - 1
        if e < policy.earliest:
            return np.zeros(len(seen[0]), dtype=bool)
        if alone is not None and len(seen[0]) == 1:
            goes = alone(policy, seen, threshold_of(e))
            if goes is not None:
                return _GOES if goes else _STAYS
        return leaves_now(policy, np.stack(seen), thresholds, np.stack(signals) if len(signals) else None)

    return leaves


def never(seen: Sequence[NDArray[np.floating]], signals: Sequence[NDArray[np.floating]] = ()) -> NDArray[np.bool_]:
    """The rule of a model that answers at full depth."""
    return np.zeros(len(seen[-1]), dtype=bool)


def fixed(exit_index: int) -> Leaves:
    """Everyone leaves at this exit (0-based)."""

    def leaves(seen: Sequence[NDArray[np.floating]], signals: Sequence[NDArray[np.floating]] = ()) -> NDArray[np.bool_]:
        return np.full(len(seen[0]), len(seen) > exit_index)

    return leaves


def _entropy(policy: Policy, seen: Sequence[NDArray[np.floating]], threshold: float) -> bool | None:
    values = seen[-1][0].tolist()
    largest = max(values)
    shifted = [value - largest for value in values]
    weights = [math.exp(value) for value in shifted]
    total = sum(weights)
    statistic = math.log(total) - sum(map(float.__mul__, weights, shifted)) / total
    # Rounding may take a certain answer's entropy below 0, where the replay's stays at 0.
    return None if abs(statistic - threshold) < _NEAR or statistic < _NEAR else statistic < threshold


def _confidence(policy: Policy, seen: Sequence[NDArray[np.floating]], threshold: float) -> bool | None:
    values = seen[-1][0].tolist()
    largest = max(values)
    statistic = 1 / sum([math.exp(value - largest) for value in values])
    return None if abs(statistic - threshold) < _NEAR else statistic > threshold


def _patience(policy: Any, seen: Sequence[NDArray[np.floating]], threshold: float) -> bool:
    repeated = 0
    for later, earlier in pairwise(reversed(seen[policy.exit_start - 1 :])):
        if len(later[0]) == 1:
            agreed = abs(float(later[0, 0]) - float(earlier[0, 0])) < policy.tolerance
        else:
            agreed = later.argmax() == earlier.argmax()
        if not agreed:
            break
        repeated += 1
    return 0 < threshold <= repeated


def _agreement(policy: Any, seen: Sequence[NDArray[np.floating]], threshold: float) -> bool:
    values = [float(logits[0, 0]) for logits in seen[-1 - policy.run :]]
    return all(abs(later - earlier) < threshold for earlier, later in pairwise(values))


_ALONE: dict[type[Policy], Callable[[Any, Sequence[NDArray[np.floating]], float], bool | None]] = {
    Entropy: _entropy,
    Confidence: _confidence,
    Patience: _patience,
    Agreement: _agreement,
}
"""Whether a single example leaves; None where only the replay's arithmetic can tell."""
