"""Wall-clock of early exit on the machine at hand.

All contestants, the reference among them, go through the same engine in the same deployed form. They take turns in
every round, in an order drawn anew for each, so that a machine that slows down, or heats up, favours nobody.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.encoder.early.deployed import Batch, DeployedCascade, DeployedEncoder
from bench.encoder.early.engine import answer
from bench.errors import UserError
from bench.exit_policies.deciding import Leaves, never
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Operated:
    """A model, deployed, and the rule it is operated with.

    `left` is for one whose weights mean nothing (drawn for the shape of a model that is not here): the rule is asked as
    ever, which takes its time, but rows leave where `left` says.
    """

    model: DeployedEncoder | DeployedCascade
    leaves: Leaves = never
    left: NDArray[np.int64] | None = None
    """[N] the 0-based exit of each example."""

    def rule(self, positions: NDArray[np.int64]) -> Leaves:
        """The rule for one pass over the batch of the examples at `positions`."""
        return self.leaves if self.left is None else told(self.leaves, self.left[positions])


def told(leaves: Leaves, left: NDArray[np.int64]) -> Leaves:
    """A rule for one batch, whose rows leave at the exits [B] `left` whatever `leaves`, which is asked, says."""
    here = left  # of those who are still there

    def rule(seen: Sequence[NDArray[np.floating]], signals: Sequence[NDArray[np.floating]]) -> NDArray[np.bool_]:
        nonlocal here
        leaves(seen, signals)
        goes = here < len(seen)
        here = here[~goes]
        return goes

    return rule


@dataclass(frozen=True)
class Timing:
    """What one contestant took at one batch size."""

    seconds: NDArray[np.float64]
    """[R] for all examples, in each round."""
    slow: float
    """The 95th percentile of the seconds of one batch, over batches and rounds."""


def measure(
    contestants: Sequence[Operated], examples: Examples, *, batch_size: int, rounds: int, seed: int
) -> list[Timing]:
    """Time every contestant over all of `examples`, once a round.

    All get the same batches, of similar length and padded before the clock starts; each begins with one example that
    is not timed, which brings its weights into the cache. UserError where contestants are on different devices or
    there is nothing to time.
    """
    devices = {contestant.model.device for contestant in contestants}
    if len(devices) > 1:
        raise UserError(f"latency: models are on {' and '.join(sorted(map(str, devices)))}; move them to one")
    if rounds < 1 or not len(examples) or not contestants:
        raise UserError(f"latency: {rounds} rounds over {len(examples)} examples; ask for at least one of each")
    device, rng = devices.pop(), np.random.default_rng(seed)
    parts = length_batches(examples.lengths, batch_size, None)
    batches = [Batch.of(examples, each, device) for each in parts]
    middle, alone = len(batches) // 2, np.array([0])
    first = batches[middle].take(alone)
    times = np.empty((rounds, len(contestants), len(batches)))
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        answer(contestants[0].model, batches[0], never)  # memory for the largest tensors is there from now on
        for own in times:
            for position in rng.permutation(len(contestants)):
                one = contestants[position]
                answer(one.model, first, one.rule(parts[middle][alone]))
                own[position] = [
                    _seconds(one.model, batch, one.rule(part)) for batch, part in zip(batches, parts, strict=True)
                ]
    return [Timing(times[:, i].sum(axis=1), float(np.percentile(times[:, i], 95))) for i in range(len(contestants))]


def _seconds(model: DeployedEncoder | DeployedCascade, batch: Batch, leaves: Leaves) -> float:
    start = time.perf_counter()
    answer(model, batch, leaves)
    return time.perf_counter() - start
