"""Exit policies: when an example exits.

A policy compares a statistic of the outputs of the exits so far with a threshold. The same objects replay a trace
(thousands of operating points without a forward pass) and control the early-exit engine.

Conventions: logits are [E, N, C] (exits, examples, outputs), signals and statistics [E, N]; exit indices are 0-based,
`exit_start` and patience count exits from 1, as the papers do. A statistic is causal: its row e depends on
exits 0..e only. Regression has no class distribution, so entropy and confidence become `Agreement` there
(`policy_for`), and `Patience` compares predictions within a tolerance.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr, softmax

from bench.errors import UserError

# Grids are cubic in [0, 1]: trained exits are sure of most examples, so most of what a threshold decides
# happens close to the strict end (entropies of 1e-4), where an even grid of 200 would have one point.
_SPACING = 3

# No statistic lies this far outside its mathematical range, rounding included.
_ROUNDING = 1e-9


def _grid(count: int) -> NDArray[np.float64]:
    """`count` numbers from 1 down to exactly 0, denser towards 0."""
    if count < 2:
        raise UserError(f"a threshold grid of {count} cannot hold both ends of its range: set it to 2 or more")
    return np.linspace(1.0, 0.0, count) ** _SPACING


@dataclass(frozen=True)
class Policy(ABC):
    """A family of exit rules; `exit_start` is the first exit (1-based) at which an example may leave.

    Exits below `exit_start` are not read at all: they need not be trained. A contestant may bring a family of its own.
    """

    exit_start: int = 1
    name: ClassVar[str]
    """What tables call the family."""
    version: ClassVar[int] = 1
    """Raised when the rule changes, so that points of the old one are made anew."""

    @property
    def earliest(self) -> int:
        """0-based index of the first exit at which any threshold can let an example leave."""
        return self.exit_start - 1

    @abstractmethod
    def statistic(
        self, logits: NDArray[np.floating], signal: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        """[E, N] from logits [E, N, C] and, of a model that has one, the signal [E, N]."""

    @abstractmethod
    def leaves(self, statistic: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.bool_]:
        """Whether the rule is satisfied, elementwise; `threshold` broadcasts against `statistic`."""

    @abstractmethod
    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """The threshold's range for a model of `exits` exits and `outputs` logits, loosest first, strictest last.

        The strictest is full depth for everyone; the loosest lets everyone who may leave go at the first exit
        allowed (patience cannot promise that: its loosest threshold still asks two exits to agree).
        """


class Entropy(Policy):
    """Leave when the natural-log entropy of softmax(z_i) < threshold (COST-EFF, DeeBERT); 0 is full depth."""

    name = "entropy"

    def statistic(
        self, logits: NDArray[np.floating], signal: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        # H = log Z - sum p (z - max): no log of p, so a probability that underflows contributes 0, not NaN.
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        weights = np.exp(shifted)
        total = weights.sum(axis=-1)
        return np.maximum(np.log(total) - (weights * shifted).sum(axis=-1) / total, 0.0)

    def leaves(self, statistic: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.bool_]:
        return statistic < np.asarray(threshold)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        return _grid(count) * (np.log(outputs) + _ROUNDING)


class Confidence(Policy):
    """Leave when max softmax(z_i) > threshold (CascadeBERT, section 3.2); 1 is full depth."""

    name = "confidence"

    def statistic(
        self, logits: NDArray[np.floating], signal: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        return softmax(logits.astype(np.float64), axis=-1).max(axis=-1)

    def leaves(self, statistic: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.bool_]:
        return statistic > np.asarray(threshold)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        return 1.0 - _grid(count) * (1.0 - 1.0 / outputs + _ROUNDING)


@dataclass(frozen=True)
class Patience(Policy):
    """Leave when `threshold` successive exits repeated the prediction before them (PABEE, section 3.2).

    The statistic is the counter of the authors' code: +1 when two successive predictions agree, else 0; so patience t
    leaves at exit t + 1 at the earliest. t = 0 and t >= E mean full depth. Classes agree when they are equal; on one
    output (regression) predictions agree when they differ by less than `tolerance`, which is fixed while the patience
    is swept.
    """

    name = "patience"
    version = 2
    tolerance: float = 0.1
    """The authors' value for STS-B, on its scale of 0 to 5 (README of their release)."""

    @property
    def earliest(self) -> int:
        return self.exit_start

    def statistic(
        self, logits: NDArray[np.floating], signal: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        if logits.shape[-1] == 1:
            agreed = np.abs(np.diff(logits[..., 0].astype(np.float64), axis=0)) < self.tolerance
        else:
            predictions = logits.argmax(axis=-1)
            agreed = predictions[1:] == predictions[:-1]
        counter = np.zeros(logits.shape[:2])
        for e in range(self.exit_start, len(logits)):
            counter[e] = np.where(agreed[e - 1], counter[e - 1] + 1, 0)
        return counter

    def leaves(self, statistic: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.bool_]:
        patience = np.asarray(threshold)
        return (statistic >= patience) & (patience > 0)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """Return every patience from 1 to E; the counter takes no other values, so `count` plays no part."""
        return np.arange(1, exits + 1, dtype=np.float64)


@dataclass(frozen=True)
class Agreement(Policy):
    """Regression: leave when |y_i - y_{i-1}| < tolerance for `run` exits running; the tolerance is swept.

    The statistic is the largest of the last `run` differences, infinite where there are fewer; 0 is full
    depth. The range of tolerances is that of STS-B's scores, 0 to 5, and infinity (leave at the first exit
    that can compare).
    """

    run: int = 1
    name: ClassVar[str] = "agreement"

    @property
    def earliest(self) -> int:
        return self.exit_start - 1 + self.run

    def statistic(
        self, logits: NDArray[np.floating], signal: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        if logits.shape[-1] != 1:
            raise UserError(f"agreement is for one output (regression), not {logits.shape[-1]}: use patience")
        values = logits[..., 0].astype(np.float64)
        changes = np.abs(np.diff(values[self.exit_start - 1 :], axis=0))
        return _largest(changes, values.shape, self.exit_start, self.run)

    def leaves(self, statistic: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.bool_]:
        return statistic < np.asarray(threshold)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        return np.concatenate([[np.inf], _grid(count - 1) * 5.0]) if count > 2 else np.array([np.inf, 0.0])


@dataclass(frozen=True)
class Divergence(Policy):
    """Leave when successive exits' distributions diverge by less than a threshold for `run` exits running (F-PABEE).

    Gao et al., F-PABEE: Flexible-patience-based early exiting, 2023 (arXiv 2305.11916), section 3. The statistic is the
    largest Jensen-Shannon divergence (natural logarithm, at most log 2) of the last `run` pairs of exits, infinite
    where there are fewer; 0 is full depth, infinity leaves at the first exit that can compare.
    """

    run: int = 1
    name: ClassVar[str] = "divergence"

    @property
    def earliest(self) -> int:
        return self.exit_start - 1 + self.run

    def statistic(
        self, logits: NDArray[np.floating], signal: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        p = softmax(logits[self.exit_start - 1 :].astype(np.float64), axis=-1)
        middle = (p[1:] + p[:-1]) / 2
        divergence = (rel_entr(p[1:], middle) + rel_entr(p[:-1], middle)).sum(axis=-1) / 2
        return _largest(np.maximum(divergence, 0.0), logits.shape[:2], self.exit_start, self.run)

    def leaves(self, statistic: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.bool_]:
        return statistic < np.asarray(threshold)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        return np.concatenate([[np.inf], _grid(count - 1) * np.log(2)]) if count > 2 else np.array([np.inf, 0.0])


def _largest(changes: NDArray[np.float64], shape: tuple[int, ...], exit_start: int, run: int) -> NDArray[np.float64]:
    """Return the largest of the last `run` changes between exits, infinite where there are fewer.

    Args:
        changes: [E - exit_start, N], from exit `exit_start` (1-based) to the next, and so on; empty if E < exit_start.
        shape: (E, N), the shape of the result.
        exit_start: First exit, from 1, at which an example may exit.
        run: Number of changes.
    """
    largest = np.full(shape, np.inf)
    for e in range(exit_start - 1 + run, len(largest)):
        largest[e] = changes[e - exit_start - run + 1 : e - exit_start + 1].max(axis=0)
    return largest


class FullDepth(Policy):
    """No early exit: the last exit answers everything."""

    name = "none"

    def statistic(
        self, logits: NDArray[np.floating], signal: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        return np.zeros(logits.shape[:-1])

    def leaves(self, statistic: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.bool_]:
        return np.zeros(np.broadcast_shapes(statistic.shape, np.shape(threshold)), dtype=bool)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        return np.array([np.nan])


_FAMILIES: dict[str, type[Policy]] = {
    family.name: family for family in (Entropy, Confidence, Patience, Divergence, Agreement, FullDepth)
}


def policy_for(
    policy: str | type[Policy], regression: bool, exit_start: int = 1, tolerance: float | None = None
) -> Policy:
    """Return the exit policy of a name, or an instance of a class of one's own.

    Args:
        policy: "entropy", "confidence", "patience", "divergence", "agreement" or "none"; or a subclass of `Policy`,
            which is used on every task as it is.
        regression: Whether the task is one; entropy, confidence and divergence then become agreement of successive
            predictions.
        exit_start: First exit, from 1, at which an example may leave.
        tolerance: Of patience on regression, on the scale of the predictions; None: the authors' 0.1.

    Raises:
        UserError: For an unknown name, and for a class that is no exit policy.
    """
    if exit_start < 1:
        raise UserError(f"exit_start is {exit_start}: exits are counted from 1")
    if isinstance(policy, type) and issubclass(policy, Policy):
        name = getattr(policy, "name", "")
        if not isinstance(name, str) or not name or _FAMILIES.get(name, policy) is not policy:
            taken = ", ".join(_FAMILIES)
            raise UserError(f"exit policy {policy.__name__}: give it a `name` of its own; taken are {taken}")
        if policy.__abstractmethods__:
            missing = ", ".join(sorted(policy.__abstractmethods__))
            raise UserError(f"exit policy {policy.__name__} lacks {missing}; see bench.exit_policies.policies.Policy")
        return policy(exit_start=exit_start)
    if not isinstance(policy, str) or policy not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise UserError(f"unknown exit policy {policy!r}: choose one of {known}, or a subclass of Policy")
    if policy == Agreement.name and not regression:
        raise UserError("agreement is for regression, and this is classification: use patience")
    if policy == Patience.name:
        return Patience(exit_start) if tolerance is None else Patience(exit_start, tolerance)
    family = Agreement if regression and policy != FullDepth.name else _FAMILIES[policy]
    return family(exit_start=exit_start)


def ours(policy: Policy) -> bool:
    """Whether a rule is of the suite's families: a name in a table is then enough to replay it."""
    return type(policy) in _FAMILIES.values()


def replay_many(policy: Policy, trace: NDArray[np.floating], thresholds: ArrayLike) -> NDArray[np.int64]:
    """0-based exits [K, N] of K operating points; `thresholds` is [K] (uniform) or [K, E] (one an exit).

    `trace` is the logits [E, N, C], of a rule that reads nothing else, or the rule's statistic [E, N]. Whom no exit
    lets go, the last exit takes; its own threshold is never read.
    """
    statistic = policy.statistic(trace) if trace.ndim == 3 else trace
    table = np.asarray(thresholds, dtype=np.float64)
    exits, count = statistic.shape
    if table.ndim == 1:
        table = np.broadcast_to(table[:, None], (len(table), exits))
    if table.ndim != 2 or table.shape[1] != exits:
        raise ValueError(f"thresholds of shape {np.shape(thresholds)} do not fit {exits} exits")
    left = np.full((len(table), count), exits - 1)
    for e in range(exits - 2, policy.exit_start - 2, -1):  # from the back, so that the earliest exit wins
        left[policy.leaves(statistic[e], table[:, e, None])] = e
    return left


def replay(policy: Policy, trace: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.int64]:
    """0-based exit [N] of every example at one operating point: a scalar threshold, or a vector of one an exit."""
    return replay_many(policy, trace, np.asarray(threshold, dtype=np.float64)[None])[0]


def leaves_now(
    policy: Policy, logits: NDArray[np.floating], threshold: ArrayLike, signal: NDArray[np.floating] | None = None
) -> NDArray[np.bool_]:
    """Who leaves at the exit just computed, not the last: bool [B].

    From the logits so far [e + 1, B, C], and the signals so far [e + 1, B] of a model that has them.
    """
    e = len(logits) - 1
    if e < policy.earliest:
        return np.zeros(logits.shape[1], dtype=bool)
    thresholds = np.asarray(threshold, dtype=np.float64)
    return policy.leaves(policy.statistic(logits, signal)[e], thresholds if thresholds.ndim == 0 else thresholds[e])
