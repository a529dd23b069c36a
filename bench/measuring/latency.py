"""Wall-clock of the early-exit engine against a reference model's plain pass, on the machine at hand.

All take turns in every round, so that a machine that slows down slows them alike; the speed-up is the median
over rounds of reference seconds / engine seconds.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bench.encoder import Cascade, Encoder
from bench.errors import UserError
from bench.measuring.engine import Leaves, answer, plain_pass, synchronize
from bench.measuring.recording import model_inputs
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Latency:
    """What one operating point took at one batch size."""

    batch_size: int
    speedup: float
    """Median over rounds of reference seconds / engine seconds."""
    seconds: float
    """Median over rounds of the engine's time for all examples."""
    reference_seconds: float
    """The same for the reference's plain pass."""


def measure(
    model: Encoder | Cascade,
    operated: Sequence[Leaves],
    reference: Encoder | Cascade,
    examples: Examples,
    *,
    batch_size: int,
    rounds: int,
) -> list[Latency]:
    """Time `model` under each exit rule of `operated`, and the `reference`, over all of `examples`.

    A round is one pass of the reference and one of each operating point, after a warm-up. All get the same
    batches, of similar length and padded before the clock starts. UserError where the two models are on
    different devices or there is nothing to time.
    """
    if model.device != reference.device:
        raise UserError(f"latency: the model is on {model.device}, its reference on {reference.device}; move one")
    if rounds < 1 or not len(examples):
        raise UserError(f"latency: {rounds} rounds over {len(examples)} examples; ask for at least one of each")
    model.eval()
    reference.eval()
    batches = [
        model_inputs(examples, positions, model.device)
        for positions in length_batches(examples.lengths, batch_size, None)
    ]

    def passes(batches: list) -> Iterator[float]:
        yield _seconds(plain_pass, reference, batches)
        for leaves in operated:
            yield _seconds(_engine_pass, model, batches, leaves)

    list(passes(batches[:: max(1, len(batches) // 4)]))  # warm-up: a few of all lengths
    times = np.array([list(passes(batches)) for _ in range(rounds)])
    speedups = np.median(times[:, :1] / times[:, 1:], axis=0)
    reference_seconds, *seconds = np.median(times, axis=0)
    return [
        Latency(batch_size, float(speedup), float(own), float(reference_seconds))
        for speedup, own in zip(speedups, seconds, strict=True)
    ]


def _engine_pass(model: Encoder | Cascade, batches: Sequence[dict[str, Tensor]], leaves: Leaves) -> None:
    for batch in batches:
        answer(model, batch, leaves)
    synchronize(model.device)


def _seconds(work: Callable[..., None], *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start
