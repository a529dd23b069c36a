"""Wall-clock of the early-exit engine against a reference model's plain pass, on the machine at hand.

The two take turns in every round, so that a machine that slows down slows both; the speed-up is the median
over rounds of reference seconds / engine seconds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bench.encoder import Cascade, Encoder
from bench.errors import UserError
from bench.measuring.engine import answer, plain_pass, synchronize
from bench.measuring.policies import Policy
from bench.measuring.trace import model_inputs
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Latency:
    """One batch size's measurement."""

    batch_size: int
    speedup: float
    """Median over rounds of reference seconds / engine seconds."""
    seconds: float
    """Median over rounds of the engine's time for all examples."""
    reference_seconds: float
    """The same for the reference's plain pass."""


def measure(
    model: Encoder | Cascade,
    policy: Policy,
    knob: ArrayLike,
    reference: Encoder | Cascade,
    examples: Examples,
    *,
    batch_sizes: Sequence[int],
    rounds: int,
) -> list[Latency]:
    """Time `model` operated at `knob` and the `reference` over all of `examples`, once a round after a warm-
    up.

    Both get the same batches, of similar length and padded before the clock starts. UserError where the two
    models are on different devices or there is nothing to time.
    """
    if model.device != reference.device:
        raise UserError(f"latency: the model is on {model.device}, its reference on {reference.device}; move one")
    if rounds < 1 or not len(examples):
        raise UserError(f"latency: {rounds} rounds over {len(examples)} examples; ask for at least one of each")
    model.eval()
    reference.eval()
    results = []
    for batch_size in batch_sizes:
        groups = length_batches(examples.lengths, batch_size, None)
        batches = [model_inputs(examples, positions, model.device) for positions in groups]

        def operated(batches: list = batches) -> None:
            for batch in batches:
                answer(model, batch, policy, knob)

        def plain(batches: list = batches) -> None:
            plain_pass(reference, batches)

        for warm_up in (plain, operated):
            warm_up(batches[:: max(1, len(batches) // 4)])  # a few of all lengths
        times = np.array([[_seconds(plain), _seconds(operated)] for _ in range(rounds)])
        reference_seconds, seconds = np.median(times, axis=0)
        speedup = np.median(times[:, 0] / times[:, 1])
        results.append(Latency(batch_size, float(speedup), float(seconds), float(reference_seconds)))
        synchronize(model.device)
    return results


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
