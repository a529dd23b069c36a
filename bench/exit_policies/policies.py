"""Exit policies: when an example exits.

A policy compares a statistic of the outputs of the exits so far with a threshold. The same objects replay a trace
(thousands of operating points without a forward pass) and control the early-exit engine.

Conventions: logits are [E, N, C] (exits, examples, outputs), signals and statistics [E, N]; exit indices are 0-based,
`exit_start` and patience count exits from 1, as the papers do. A statistic is causal: its row e depends on
exits 0..e only. Regression has no class distribution: the policies that use one become `Agreement` there
(`policy_for`), and `Patience` compares predictions within a tolerance.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, rel_entr, softmax

from bench.errors import UserError

Array = NDArray[np.floating]

# Grids are cubic in [0, 1]: trained exits are confident on most examples, so most decisions change close to the strict
# end (entropies of 1e-4), where an even grid of 200 thresholds has one point.
_SPACING = 3

# Rounding takes a statistic at most this far outside its mathematical range.
_ROUNDING = 1e-9


def _grid(count: int) -> NDArray[np.float64]:
    """Return `count` decreasing numbers from 1 to exactly 0, denser towards 0."""
    if count < 2:
        raise UserError(f"thresholds.grid is {count}; it must be at least 2 (the earliest exit and full depth)")
    return np.linspace(1.0, 0.0, count) ** _SPACING


@dataclass(frozen=True)
class Policy(ABC):
    """Base class of exit policies. A contestant may define a subclass of its own.

    Attributes:
        exit_start: First exit (1-based) at which an example may exit. Earlier exits are not read and need not be
            trained.
        name: Name of the policy in tables.
        version: Number to raise when the policy changes, so that its operating points are computed again.
    """

    exit_start: int = 1
    name: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def earliest(self) -> int:
        """Return the 0-based index of the first exit at which an example can exit with any threshold."""
        return self.exit_start - 1

    @abstractmethod
    def statistic(self, logits: Array, signal: Array | None = None) -> Array:
        """Return the statistic [E, N].

        Args:
            logits: Logits [E, N, C] of exits, examples and outputs.
            signal: Signal [E, N] of models that have one, else None.
        """

    @abstractmethod
    def decide(self, statistic: Array, threshold: ArrayLike) -> NDArray[np.bool_]:
        """Return whether examples exit, elementwise; `threshold` broadcasts against `statistic`."""

    @abstractmethod
    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """Return the thresholds to try, loosest first.

        With the strictest threshold all examples run to full depth. With the loosest, all examples exit at the first
        exit allowed, except for patience, whose loosest threshold still requires two exits to agree.

        Args:
            count: Number of thresholds, where the policy has a choice.
            exits: Number E of exits of the model.
            outputs: Number C of logits.
        """


class Entropy(Policy):
    """Exit when the entropy (in nats) of softmax(z_i) < threshold (COST-EFF, DeeBERT); 0 is full depth."""

    name = "entropy"

    def statistic(self, logits: Array, signal: Array | None = None) -> Array:
        """Return the entropies [E, N] in nats."""
        # H = log Z - sum p (z - max): no log of p, so a probability that underflows contributes 0, not NaN.
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        weights = np.exp(shifted)
        total = weights.sum(axis=-1)
        return np.maximum(np.log(total) - (weights * shifted).sum(axis=-1) / total, 0.0)

    def decide(self, statistic: Array, threshold: ArrayLike) -> NDArray[np.bool_]:
        """Return whether the entropy is below the threshold."""
        return statistic < np.asarray(threshold)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """Return thresholds from the largest possible entropy to 0."""
        return _grid(count) * (np.log(outputs) + _ROUNDING)


class Confidence(Policy):
    """Exit when max softmax(z_i) > threshold (CascadeBERT, section 3.2); 1 is full depth."""

    name = "confidence"

    def statistic(self, logits: Array, signal: Array | None = None) -> Array:
        """Return the largest probabilities [E, N]."""
        return softmax(logits.astype(np.float64), axis=-1).max(axis=-1)

    def decide(self, statistic: Array, threshold: ArrayLike) -> NDArray[np.bool_]:
        """Return whether the largest probability is above the threshold."""
        return statistic > np.asarray(threshold)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """Return thresholds from the smallest possible confidence to 1."""
        return 1.0 - _grid(count) * (1.0 - 1.0 / outputs + _ROUNDING)


@dataclass(frozen=True)
class Patience(Policy):
    """Exit when `threshold` successive exits repeat the prediction of the exit before them (PABEE, section 3.2).

    The statistic is the counter of the authors' code: +1 when two successive predictions agree, else reset to 0. With
    patience t, examples therefore exit at exit t + 1 at the earliest. t = 0 and t >= E mean full depth. Classes agree
    when they are equal. On one output (regression), predictions agree when they differ by less than `tolerance`, which
    is fixed while the patience varies.
    """

    name = "patience"
    version = 2
    tolerance: float = 0.1
    """The authors' value for STS-B, on its scale of 0 to 5 (README of their release)."""

    @property
    def earliest(self) -> int:
        """Return the index of the second allowed exit, the first that can repeat a prediction."""
        return self.exit_start

    def statistic(self, logits: Array, signal: Array | None = None) -> Array:
        """Return how many times in a row the prediction was repeated, [E, N]."""
        if logits.shape[-1] == 1:
            agreed = np.abs(np.diff(logits[..., 0].astype(np.float64), axis=0)) < self.tolerance
        else:
            predictions = logits.argmax(axis=-1)
            agreed = predictions[1:] == predictions[:-1]
        counter = np.zeros(logits.shape[:2])
        for e in range(self.exit_start, len(logits)):
            counter[e] = np.where(agreed[e - 1], counter[e - 1] + 1, 0)
        return counter

    def decide(self, statistic: Array, threshold: ArrayLike) -> NDArray[np.bool_]:
        """Return whether the count reaches the patience, which must be above 0."""
        patience = np.asarray(threshold)
        return (statistic >= patience) & (patience > 0)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """Return every patience from 1 to E; `count` is ignored."""
        return np.arange(1, exits + 1, dtype=np.float64)


@dataclass(frozen=True)
class _Change(Policy):
    """Exit when the change from exit to exit is below the threshold at `run` successive exits.

    The statistic is the largest of the last `run` changes, and infinite where there are fewer. Threshold 0 is full
    depth; with infinity, examples exit at the first exit that has `run` changes.
    """

    run: int = 1

    @property
    def earliest(self) -> int:
        """Return the index of the first exit with `run` changes."""
        return self.exit_start - 1 + self.run

    @abstractmethod
    def _largest(self, outputs: int) -> float:
        """Return the largest finite threshold to try."""

    @abstractmethod
    def _changes(self, logits: Array) -> NDArray[np.float64]:
        """Return the changes [E - 1, N] of logits [E, N, C] from each exit to the next."""

    def statistic(self, logits: Array, signal: Array | None = None) -> Array:
        """Return the largest of the last `run` changes, [E, N]."""
        changes = self._changes(logits[self.exit_start - 1 :])
        largest = np.full(logits.shape[:2], np.inf)
        for e in range(self.earliest, len(largest)):
            last = e - self.exit_start + 1
            largest[e] = changes[last - self.run : last].max(axis=0)
        return largest

    def decide(self, statistic: Array, threshold: ArrayLike) -> NDArray[np.bool_]:
        """Return whether the change is below the threshold."""
        return statistic < np.asarray(threshold)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """Return infinity, then thresholds from the largest to 0."""
        return (
            np.concatenate([[np.inf], _grid(count - 1) * self._largest(outputs)])
            if count > 2
            else np.array([np.inf, 0.0])
        )


class Agreement(_Change):
    """Exit, on regression, when |y_i - y_{i-1}| < threshold at `run` successive exits.

    Thresholds range over the scores of STS-B, 0 to 5.
    """

    name = "agreement"

    def _largest(self, outputs: int) -> float:
        return 5.0

    def _changes(self, logits: Array) -> NDArray[np.float64]:
        if logits.shape[-1] != 1:
            raise UserError(
                f"the exit policy agreement needs one output (regression), not {logits.shape[-1]}; use patience"
            )
        return np.abs(np.diff(logits[..., 0].astype(np.float64), axis=0))


class Similarity(_Change):
    """Exit when the similarity score of successive exits is below the threshold at `run` successive exits (F-PABEE).

    The score is the entropy of the mean of both distributions (natural logarithm, at most log C): it is low where both
    are certain of the same class. Gao et al. (F-PABEE: Flexible-patience-based early exiting, 2023, arXiv 2305.11916,
    section 3) call it a Jensen-Shannon divergence, but their definition of KL and their code leave out the entropies of
    the two distributions, which `Divergence` subtracts.
    """

    name = "similarity"

    def _largest(self, outputs: int) -> float:
        return float(np.log(outputs))

    def _changes(self, logits: Array) -> NDArray[np.float64]:
        return entr(_means(softmax(logits.astype(np.float64), axis=-1))).sum(axis=-1)


class Divergence(_Change):
    """Exit when the Jensen-Shannon divergence of successive exits is below the threshold at `run` successive exits.

    The divergence (natural logarithm, at most log 2) is low where both exits give similar probabilities, however
    uncertain they are.
    """

    name = "divergence"

    def _largest(self, outputs: int) -> float:
        return float(np.log(2))

    def _changes(self, logits: Array) -> NDArray[np.float64]:
        p = softmax(logits.astype(np.float64), axis=-1)
        middle = _means(p)
        divergence = (rel_entr(p[1:], middle) + rel_entr(p[:-1], middle)).sum(axis=-1) / 2
        return np.maximum(divergence, 0.0)


def _means(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means [E - 1, N, C] of the distributions [E, N, C] of successive exits."""
    return (p[1:] + p[:-1]) / 2


class FullDepth(Policy):
    """Never exit early: all examples run to full depth."""

    name = "none"

    def statistic(self, logits: Array, signal: Array | None = None) -> Array:
        """Return zeros [E, N]."""
        return np.zeros(logits.shape[:-1])

    def decide(self, statistic: Array, threshold: ArrayLike) -> NDArray[np.bool_]:
        """Return False for all examples."""
        return np.zeros(np.broadcast_shapes(statistic.shape, np.shape(threshold)), dtype=bool)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """Return one threshold, NaN."""
        return np.array([np.nan])


BUILTIN: dict[str, type[Policy]] = {
    family.name: family for family in (Entropy, Confidence, Patience, Similarity, Divergence, Agreement, FullDepth)
}
"""Name -> policy that can be computed from the traces and the name alone; exits of other policies are recorded."""


def policy_for(
    policy: str | type[Policy], regression: bool, exit_start: int = 1, tolerance: float | None = None
) -> Policy:
    """Return the exit policy with a given name, or an instance of a given class.

    Args:
        policy: "entropy", "confidence", "patience", "similarity", "divergence", "agreement" or "none"; or a subclass of
            `Policy`, which is used unchanged on every task.
        regression: Whether the task is a regression; entropy, confidence, similarity and divergence are then replaced
            by `Agreement`.
        exit_start: First exit (1-based) at which an example may exit.
        tolerance: Tolerance of patience on regression, on the scale of the predictions; None for the authors' 0.1.

    Raises:
        UserError: For an unknown name, an incomplete class, agreement on a classification task, or an `exit_start`
            below 1.
    """
    if exit_start < 1:
        raise UserError(f"exit_start is {exit_start}; exits are counted from 1")
    if isinstance(policy, type) and issubclass(policy, Policy):
        name = getattr(policy, "name", "")
        if not isinstance(name, str) or not name or BUILTIN.get(name, policy) is not policy:
            taken = ", ".join(BUILTIN)
            raise UserError(f"exit policy {policy.__name__}: give it a `name` of its own; in use are {taken}")
        if policy.__abstractmethods__:
            missing = ", ".join(sorted(policy.__abstractmethods__))
            raise UserError(f"exit policy {policy.__name__} lacks {missing}; see bench.exit_policies.policies.Policy")
        return policy(exit_start=exit_start)
    if not isinstance(policy, str) or policy not in BUILTIN:
        known = ", ".join(BUILTIN)
        raise UserError(f"unknown exit policy {policy!r}; choose one of {known}, or a subclass of Policy")
    if policy == Agreement.name and not regression:
        raise UserError("the exit policy agreement is only for regression tasks; use patience for classification")
    if policy == Patience.name:
        return Patience(exit_start) if tolerance is None else Patience(exit_start, tolerance)
    family = Agreement if regression and policy != FullDepth.name else BUILTIN[policy]
    return family(exit_start=exit_start)


def is_builtin_policy(policy: Policy) -> bool:
    """Return whether a policy is one of the built-in classes, which can be replayed from their name in a table."""
    return type(policy) in BUILTIN.values()


def replay_many(policy: Policy, trace: Array, thresholds: ArrayLike) -> NDArray[np.int64]:
    """Return the 0-based exits [K, N] of N examples at K operating points.

    Examples that do not exit earlier exit at the last exit, whose threshold is not read.

    Args:
        policy: The exit policy.
        trace: The statistic [E, N] of the policy, or the logits [E, N, C] if the policy needs no signal.
        thresholds: Thresholds [K] (uniform) or [K, E] (one per exit).
    """
    statistic = policy.statistic(trace) if trace.ndim == 3 else trace
    table = np.asarray(thresholds, dtype=np.float64)
    exits, count = statistic.shape
    if table.ndim == 1:
        table = np.broadcast_to(table[:, None], (len(table), exits))
    if table.ndim != 2 or table.shape[1] != exits:
        raise ValueError(f"thresholds of shape {np.shape(thresholds)} do not fit {exits} exits")
    exits_taken = np.full((len(table), count), exits - 1)
    for e in range(exits - 2, policy.exit_start - 2, -1):  # from the back, so that the earliest exit wins
        exits_taken[policy.decide(statistic[e], table[:, e, None])] = e
    return exits_taken


def replay(policy: Policy, trace: Array, threshold: ArrayLike) -> NDArray[np.int64]:
    """Return the 0-based exit [N] of each example at one operating point.

    Args:
        policy: The exit policy.
        trace: As in `replay_many`.
        threshold: A scalar, or a vector [E] with one threshold per exit.
    """
    return replay_many(policy, trace, np.asarray(threshold, dtype=np.float64)[None])[0]


def decide_now(policy: Policy, logits: Array, threshold: ArrayLike, signal: Array | None = None) -> NDArray[np.bool_]:
    """Return which examples exit at the exit computed last, e, which is not the model's last one: bool [B].

    Args:
        policy: The exit policy.
        logits: Logits [e + 1, B, C] of the exits so far.
        threshold: A scalar, or a vector [E] with one threshold per exit.
        signal: Signals [e + 1, B] of the exits so far, of models that have them.
    """
    e = len(logits) - 1
    if e < policy.earliest:
        return np.zeros(logits.shape[1], dtype=bool)
    thresholds = np.asarray(threshold, dtype=np.float64)
    return policy.decide(policy.statistic(logits, signal)[e], thresholds if thresholds.ndim == 0 else thresholds[e])
