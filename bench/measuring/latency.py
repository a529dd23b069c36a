"""Latency of models with early exit on this machine.

All contestants and the reference use the same engine and the same deployed form. In every round each is timed once, in
a random order, so that changes in the speed of the machine affect all alike.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.encoder.early.deployed import Batch, Deployed
from bench.encoder.early.engine import answer
from bench.errors import UserError
from bench.exit_policies.deciding import ExitDecision, never
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Operated:
    """A deployed model with its exit policy.

    `exits` gives the exits of a model with random weights (`saved.of_shape`): the policy is computed, because it takes
    time, but its decisions are replaced by these exits.
    """

    model: Deployed
    decide: ExitDecision = never
    exits: NDArray[np.int64] | None = None
    """[N] exit of each example, 0-based."""

    def policy(self, positions: NDArray[np.int64]) -> ExitDecision:
        """Return the exit policy for one pass over the batch of the examples at `positions`."""
        return self.decide if self.exits is None else _at_exits(self.decide, self.exits[positions])


@dataclass(frozen=True)
class Timing:
    """Latency of one contestant at one batch size."""

    seconds: NDArray[np.float64]
    """[R] seconds for all examples in each round."""
    slow: float
    """95th percentile of the seconds of one batch, over batches and rounds."""


def measure(
    contestants: Sequence[Operated], examples: Examples, *, batch_size: int, rounds: int, seed: int
) -> list[Timing]:
    """Time every contestant on all examples, once in each round.

    All contestants get the same batches, of examples of similar length, padded before the measurement. Before each
    measurement one example is computed that is not timed, to load the weights into the cache.

    Args:
        contestants: The models with their exit policies, on one device.
        examples: The examples.
        batch_size: Examples in a batch.
        rounds: Number of rounds.
        seed: Seed of the order of the contestants.

    Returns:
        The timing of each contestant.

    Raises:
        UserError: Contestants are on different devices, or there is nothing to time.
    """
    devices = {contestant.model.device for contestant in contestants}
    if len(devices) > 1:
        raise UserError(f"latency: models are on {' and '.join(sorted(map(str, devices)))}; move them to one")
    if rounds < 1 or not len(examples) or not contestants:
        raise UserError(f"latency: {rounds} rounds over {len(examples)} examples; at least one of each is needed")
    device, rng = devices.pop(), np.random.default_rng(seed)
    parts = length_batches(examples.lengths, batch_size, None)
    batches = [Batch.of(examples, each, device) for each in parts]
    middle, alone = len(batches) // 2, np.array([0])
    first = batches[middle].take(alone)
    times = np.empty((rounds, len(contestants), len(batches)))
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        answer(contestants[0].model, batches[0], never)  # allocates memory for the largest tensors
        for own in times:
            for position in rng.permutation(len(contestants)):
                one = contestants[position]
                answer(one.model, first, one.policy(parts[middle][alone]))
                own[position] = [
                    _seconds(one.model, batch, one.policy(part)) for batch, part in zip(batches, parts, strict=True)
                ]
    return [Timing(times[:, i].sum(axis=1), float(np.percentile(times[:, i], 95))) for i in range(len(contestants))]


def _at_exits(decide: ExitDecision, exits: NDArray[np.int64]) -> ExitDecision:
    """Return a policy for one batch that computes `decide` and then lets each row exit at `exits` [B], 0-based."""
    staying = exits  # of the rows in the batch

    def policy(seen: Sequence[NDArray[np.floating]], signals: Sequence[NDArray[np.floating]]) -> NDArray[np.bool_]:
        nonlocal staying
        decide(seen, signals)
        leaving = staying < len(seen)
        staying = staying[~leaving]
        return leaving

    return policy


def _seconds(model: Deployed, batch: Batch, decide: ExitDecision) -> float:
    start = time.perf_counter()
    answer(model, batch, decide)
    return time.perf_counter() - start
