"""The early-exit engine: rows leave the batch as they exit, so finished examples cost nothing more.

It makes the same decisions as a replay of the trace (the tests hold it to that) and shows what a speed-up promised in
FLOPs is worth on a clock.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bench.encoder import Cascade, Encoder
from bench.measuring.policies import Policy, leaves_now
from bench.measuring.trace import model_inputs
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class EngineResult:
    """Rows in the order of the examples."""

    exits: NDArray[np.int64]
    """[N] 0-based exit each example left at."""
    logits: NDArray[np.float32]
    """[N, C] the answer given there."""
    seconds: float
    """Wall-clock of all batches, padding them not included."""


def run(
    model: Encoder | Cascade, examples: Examples, policy: Policy, knob: ArrayLike, batch_size: int
) -> EngineResult:
    """Answer `examples`, each at the exit `policy` lets it leave at; `knob` is a number or one an exit."""
    batches = length_batches(examples.lengths, batch_size, None)
    inputs = [model_inputs(examples, positions, model.device) for positions in batches]
    exits = np.empty(len(examples), dtype=np.int64)
    logits = np.empty((len(examples), model.config.num_labels), dtype=np.float32)
    model.eval()
    start = time.perf_counter()
    for positions, batch in zip(batches, inputs, strict=True):
        exits[positions], logits[positions] = answer(model, batch, policy, knob)
    return EngineResult(exits, logits, time.perf_counter() - start)


@torch.inference_mode()
def answer(
    model: Encoder | Cascade, batch: dict[str, Tensor], policy: Policy, knob: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exits [B] (0-based) and logits [B, C] of one batch of `model_inputs`, the model being in evaluation mode."""
    last = model.exit_count - 1
    state = model.begin(**batch)
    size = len(batch["input_ids"])
    exits = np.full(size, last)
    answers = np.empty((size, model.config.num_labels), dtype=np.float32)
    rows = np.arange(size)  # who is still here
    seen: list[NDArray[np.float32]] = []  # their logits [B, C] at each exit so far
    for e in range(last + 1):
        state, tensor = model.advance(state, e)
        if e < min(policy.exit_start - 1, last):  # not read: a place holder keeps the count of exits
            seen.append(np.zeros((len(rows), answers.shape[1]), dtype=np.float32))
            continue
        seen.append(tensor.float().cpu().numpy())
        if e == last:
            break
        leaving = leaves_now(policy, np.stack(seen), knob)
        if leaving.any():
            answers[rows[leaving]], exits[rows[leaving]] = seen[-1][leaving], e
            rows, seen = rows[~leaving], [each[~leaving] for each in seen]
            if not len(rows):
                return exits, answers
            state = _keep(state, ~leaving)
    answers[rows] = seen[-1]
    return exits, answers


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
