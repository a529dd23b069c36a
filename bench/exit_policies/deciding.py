"""Exit decisions during inference, one exit at a time, for the examples that have not exited yet.

The decisions are equal to those of a replay. For a single example, calls of NumPy cost as much as a narrow layer, so
its statistic is computed with Python floats. If the result is too close to the threshold for rounding to be ruled out,
the decision is made with the arithmetic of the replay.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.exit_policies.policies import Agreement, Confidence, Entropy, Patience, Policy, decide_now

ExitDecision = Callable[[Sequence[NDArray[np.floating]], Sequence[NDArray[np.floating]]], NDArray[np.bool_]]
"""Decides which examples exit at the exit computed last: bool [B].

The arguments are the logits [B, C] and the signals [B] (empty if the model has none) of all exits so far. It is called
at every exit but the last, with the examples that have not exited yet."""

_NEAR = 1e-9
"""Bound of the difference between two correct computations of a statistic in float64."""
_STAYS, _EXITS = np.array([False]), np.array([True])


def rule(policy: Policy, threshold: ArrayLike) -> ExitDecision:
    """Return the exit decisions of a policy at one operating point.

    Args:
        policy: The exit policy.
        threshold: A scalar, or a vector [E] with one threshold per exit.
    """
    single = _SINGLE.get(type(policy))
    thresholds = np.asarray(threshold, dtype=np.float64)
    threshold_of = thresholds.tolist().__getitem__ if thresholds.ndim else lambda _, same=float(thresholds): same

    def decide(seen: Sequence[NDArray[np.floating]], signals: Sequence[NDArray[np.floating]] = ()) -> NDArray[np.bool_]:
        e = len(seen) - 1
        if e < policy.earliest:
            return np.zeros(len(seen[0]), dtype=bool)
        if single is not None and len(seen[0]) == 1:
            exits = single(policy, seen, threshold_of(e))
            if exits is not None:
                return _EXITS if exits else _STAYS
        return decide_now(policy, np.stack(seen), thresholds, np.stack(signals) if len(signals) else None)

    return decide


def never(seen: Sequence[NDArray[np.floating]], signals: Sequence[NDArray[np.floating]] = ()) -> NDArray[np.bool_]:
    """Return False [B]: no example exits before the last exit."""
    return np.zeros(len(seen[-1]), dtype=bool)


def fixed(exit_index: int) -> ExitDecision:
    """Return decisions with which all examples exit at `exit_index` (0-based)."""

    def decide(seen: Sequence[NDArray[np.floating]], signals: Sequence[NDArray[np.floating]] = ()) -> NDArray[np.bool_]:
        return np.full(len(seen[0]), len(seen) > exit_index)

    return decide


def _entropy(policy: Policy, seen: Sequence[NDArray[np.floating]], threshold: float) -> bool | None:
    values = seen[-1][0].tolist()
    largest = max(values)
    shifted = [value - largest for value in values]
    weights = [math.exp(value) for value in shifted]
    total = sum(weights)
    statistic = math.log(total) - sum(map(float.__mul__, weights, shifted)) / total
    # Rounding may give an entropy below 0; the replay clips it at 0.
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


_SINGLE: dict[type[Policy], Callable[[Any, Sequence[NDArray[np.floating]], float], bool | None]] = {
    Entropy: _entropy,
    Confidence: _confidence,
    Patience: _patience,
    Agreement: _agreement,
}
"""Whether a single example exits; None where the arithmetic of the replay has to decide."""
