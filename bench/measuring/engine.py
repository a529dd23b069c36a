"""The early-exit engine: rows leave the batch as they exit, so finished examples cost nothing more.

It makes the same decisions as a replay of the trace (the tests hold it to that) and shows what a speed-up
promised in FLOPs is worth on a clock.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.encoder import Cascade, Encoder
from bench.measuring.recording import model_inputs
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples

Leaves = Callable[[NDArray[np.floating]], NDArray[np.bool_]]
"""An exit rule at its knob: who leaves at the exit just computed, bool [B], from the logits so far [e + 1, B, C]."""


@dataclass(frozen=True)
class EngineResult:
    """Rows in the order of the examples."""

    exits: NDArray[np.int64]
    """[N] 0-based exit each example left at."""
    logits: NDArray[np.float32]
    """[N, C] the answer given there."""
    seconds: float
    """Wall-clock of all batches, padding them not included."""


def run(model: Encoder | Cascade, examples: Examples, leaves: Leaves, batch_size: int) -> EngineResult:
    """Answer `examples`, each at the first exit at which the rule lets it go."""
    batches = length_batches(examples.lengths, batch_size, None)
    inputs = [model_inputs(examples, positions, model.device) for positions in batches]
    model.eval()
    start = time.perf_counter()
    answers = [answer(model, batch, leaves) for batch in inputs]
    seconds = time.perf_counter() - start
    order = np.argsort(np.concatenate(batches))
    exits, logits = (np.concatenate(parts)[order] for parts in zip(*answers, strict=True))
    return EngineResult(exits, logits, seconds)


@torch.inference_mode()
def answer(
    model: Encoder | Cascade, batch: dict[str, Tensor], leaves: Leaves
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exits [B] (0-based) and logits [B, C] of a batch of `model_inputs`; the model is in evaluation mode."""
    last = model.exit_count - 1
    state = model.begin(**batch)
    rows = np.arange(len(batch["input_ids"]))  # who is still here
    seen: list[NDArray[np.float32]] = []  # their logits [rows, C] at each exit so far
    exits = np.full(len(rows), last)
    order, answers = [], []  # who left, and with what
    for e in range(last + 1):
        state, tensor = model.advance(state, e)
        logits = tensor.float().cpu().numpy()
        seen.append(logits)
        leaving = leaves(np.stack(seen)) if e < last else np.ones(len(rows), dtype=bool)
        if not leaving.any():
            continue
        exits[rows[leaving]] = e
        order.append(rows[leaving])
        answers.append(logits[leaving])
        rows, seen = rows[~leaving], [each[~leaving] for each in seen]
        if not len(rows):
            break
        state = _keep(state, ~leaving)
    return exits, np.concatenate(answers)[np.argsort(np.concatenate(order))]


def _keep(state: dict[str, Tensor], staying: NDArray[np.bool_]) -> dict[str, Tensor]:
    """The state of the rows that stay, cut to the longest of them; all tensors of a state are [B, n, ...]."""
    mask = state["mask"]
    index = torch.as_tensor(np.flatnonzero(staying), device=mask.device)
    longest = int(mask[index].sum(1).max())
    return {name: tensor[:, :longest][index] for name, tensor in state.items()}


def synchronize(device: torch.device) -> None:
    """Wait for queued GPU work, so that a clock reads what was done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain_pass(model: Encoder | Cascade, batches: Sequence[dict[str, Tensor]]) -> None:
    """Every batch through the whole model, no early exit, the model being in evaluation mode."""
    with torch.inference_mode():
        for batch in batches:
            model(**batch)
    synchronize(model.device)
