"""Early-exit engine: examples are removed from the batch when they exit and need no further computation.

The engine makes the same decisions as a replay of the trace, which the tests verify. It is used to measure latency.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.encoder.cascade import Cascade
from bench.encoder.early.deployed import Batch, Deployed, deploy
from bench.encoder.model import Encoder
from bench.exit_policies.deciding import ExitDecision
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class EngineResult:
    """Decisions and outputs of the engine, one row per example, in the order of the examples."""

    exits: NDArray[np.int64]
    """[N] exit (0-based) of each example."""
    logits: NDArray[np.float32]
    """[N, C] logits at that exit."""


def run(model: Encoder | Cascade, examples: Examples, decide: ExitDecision, batch_size: int) -> EngineResult:
    """Run the deployed form of `model` on `examples`; each exits at the first exit that `decide` selects.

    Args:
        model: The trained model.
        examples: The examples.
        decide: Decision of the exit policy at each exit.
        batch_size: Largest number of examples in a batch.

    Returns:
        Exits and logits of all examples.
    """
    deployed = deploy(model)
    batches = length_batches(examples.lengths, batch_size, None)
    with torch.inference_mode():
        answers = [answer(deployed, Batch.of(examples, positions, model.device), decide) for positions in batches]
    order = np.argsort(np.concatenate(batches))
    exits, logits = (np.concatenate(parts)[order] for parts in zip(*answers, strict=True))
    return EngineResult(exits, logits)


def answer(model: Deployed, batch: Batch, decide: ExitDecision) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return exits [B] (0-based) and logits [B, C] of a batch. Must be called in inference mode.

    The logits have been copied to the host when this function returns, so that its latency can be measured on a GPU
    too.
    """
    last = model.exit_count - 1
    going = model.begin(batch)
    rows = np.arange(len(batch.lengths))  # remaining examples
    seen: list[NDArray[np.float32]] = []  # their logits [rows, C] at each previous exit
    signals: list[NDArray[np.float32]] = []
    exits = np.full(len(rows), last)
    order, answers = [], []  # examples in the order of their exits, and their logits
    for e in range(last):
        said = going.advance(e).cpu().numpy()
        logits = said[:, : model.outputs]
        seen.append(logits)
        if said.shape[1] > model.outputs:
            signals.append(said[:, -1])
        leaving = decide(seen, signals)
        if not leaving.any():
            continue
        exits[rows[leaving]] = e
        order.append(rows[leaving])
        answers.append(logits[leaving])
        staying = np.flatnonzero(~leaving)
        if not len(staying):
            break
        rows, seen, signals = rows[staying], [each[staying] for each in seen], [each[staying] for each in signals]
        going.keep(staying)
    else:
        order.append(rows)
        answers.append(going.advance(last).cpu().numpy()[:, : model.outputs])
    return exits, np.concatenate(answers)[np.argsort(np.concatenate(order))]
