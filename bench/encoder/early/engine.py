"""The early-exit engine: rows leave the batch as they exit, so finished examples cost nothing more.

It makes the same decisions as a replay of the trace (the tests hold it to that) and shows what a speed-up
promised in FLOPs is worth on a clock.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.encoder.cascade import Cascade
from bench.encoder.early.deployed import Batch, DeployedCascade, DeployedEncoder, deploy
from bench.encoder.model import Encoder
from bench.exit_policies.deciding import Leaves
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class EngineResult:
    """Rows in the order of the examples."""

    exits: NDArray[np.int64]
    """[N] 0-based exit each example left at."""
    logits: NDArray[np.float32]
    """[N, C] the answer given there."""


def run(model: Encoder | Cascade, examples: Examples, leaves: Leaves, batch_size: int) -> EngineResult:
    """Answer `examples` with the deployed form of `model`, each at the first exit at which the rule lets it go."""
    deployed = deploy(model)
    batches = length_batches(examples.lengths, batch_size, None)
    with torch.inference_mode():
        answers = [answer(deployed, Batch.of(examples, positions, model.device), leaves) for positions in batches]
    order = np.argsort(np.concatenate(batches))
    exits, logits = (np.concatenate(parts)[order] for parts in zip(*answers, strict=True))
    return EngineResult(exits, logits)


def answer(
    model: DeployedEncoder | DeployedCascade, batch: Batch, leaves: Leaves
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exits [B] (0-based) and logits [B, C] of a batch; to be called in inference mode.

    The last answer is on the host when this returns: a clock around it reads what was done, on a GPU too.
    """
    last = model.exit_count - 1
    going = model.begin(batch)
    rows = np.arange(len(batch.lengths))  # who is still here
    seen: list[NDArray[np.float32]] = []  # their logits [rows, C] at each exit so far
    signals: list[NDArray[np.float32]] = []
    exits = np.full(len(rows), last)
    order, answers = [], []  # who left, and with what
    for e in range(last):
        said = going.advance(e).cpu().numpy()
        logits = said[:, : model.outputs]
        seen.append(logits)
        if said.shape[1] > model.outputs:
            signals.append(said[:, -1])
        leaving = leaves(seen, signals)
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
