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

from bench.errors import UserError
from bench.measuring.deployed import Batch, DeployedCascade, DeployedEncoder
from bench.measuring.engine import Leaves, answer, never
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Operated:
    """A model, deployed, and the rule it is operated with."""

    model: DeployedEncoder | DeployedCascade
    leaves: Leaves = never


@dataclass(frozen=True)
class Timing:
    """What one contestant took at one batch size."""

    seconds: NDArray[np.float64]
    """[R] for all examples, in each round."""
    slowest: NDArray[np.float64]
    """[R] the 95th percentile of the seconds of one batch."""


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
    batches = [Batch.of(examples, each, device) for each in length_batches(examples.lengths, batch_size, None)]
    first = batches[len(batches) // 2].take(np.array([0]))
    times = np.empty((rounds, len(contestants), len(batches)))
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        answer(contestants[0].model, batches[0], never)  # memory for the largest tensors is there from now on
        for own in times:
            for position in rng.permutation(len(contestants)):
                one = contestants[position]
                answer(one.model, first, one.leaves)
                own[position] = [_seconds(one, batch) for batch in batches]
    slowest = np.percentile(times, 95, axis=2)
    return [Timing(times[:, i].sum(axis=1), slowest[:, i]) for i in range(len(contestants))]


def _seconds(one: Operated, batch: Batch) -> float:
    start = time.perf_counter()
    answer(one.model, batch, one.leaves)
    return time.perf_counter() - start
