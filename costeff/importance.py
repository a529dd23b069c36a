"""Importance of heads and neurons: first-order Taylor estimate of the loss without them (section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.encoder import Encoder
from bench.tasks.batches import collate, length_batches
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Importance:
    """Scores of heads and FFN neurons; those with higher scores are kept.

    Attributes:
        heads: L tensors, one score for each head of a layer.
        neurons: L tensors, one score for each neuron of a layer.
    """

    heads: list[Tensor]
    neurons: list[Tensor]

    def best(self, heads: int, neurons: int) -> tuple[list[list[int]], list[list[int]]]:
        """Return for each layer the ascending indices of its `heads` best heads and its `neurons` best neurons."""
        return [_top(scores, heads) for scores in self.heads], [_top(scores, neurons) for scores in self.neurons]


def taylor(
    model: Encoder,
    loss: Callable[[Encoder, dict[str, Tensor]], Tensor],
    examples: Examples,
    chosen: NDArray[np.int64],
    batch_size: int,
    bfloat16: bool = False,
) -> Importance:
    """Return the sum of |weight| x |gradient| for each head and neuron.

    |gradient| is summed over batches, without dropout. A head has its columns of the attention output projection; a
    neuron has its row of the first FFN matrix, of the gate in ModernBERT's layout, and its column of the last FFN
    matrix. Biases are left out.

    Args:
        model: The encoder; it is in eval mode afterwards.
        loss: Loss of (model, batch).
        examples: The training examples.
        chosen: Positions of the examples that are read.
        batch_size: Examples in a batch.
        bfloat16: Whether products are computed in bfloat16, as in training; weights and sums are float32.
    """
    model.eval()
    parts = ("attention_output", *model.neuron_rows, "ffn_out")
    weights: list[Tensor] = [getattr(layer, part).weight for layer in model.layers for part in parts]
    gradients = [torch.zeros_like(weight) for weight in weights]
    for rows in length_batches(examples.lengths[chosen], batch_size, None):
        batch = collate([examples[i] for i in chosen[rows]])
        batch = {key: value.to(model.device) for key, value in batch.items()}
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
            value = loss(model, batch)
        for total, gradient in zip(gradients, torch.autograd.grad(value, weights), strict=True):
            total += gradient.abs()
    scores = [weight.detach().abs() * total for weight, total in zip(weights, gradients, strict=True)]
    size, count = model.config.head_size, len(parts)
    layers = [scores[start : start + count] for start in range(0, len(scores), count)]
    return Importance(
        heads=[output.unflatten(1, (-1, size)).sum((0, 2)).cpu() for output, *_ in layers],
        neurons=[
            (sum((rows.sum(1) for rows in inputs[1:]), inputs[0].sum(1)) + last.sum(0)).cpu()
            for _, *inputs, last in layers
        ],
    )


def random(model: Encoder, seed: int) -> Importance:
    """Return random scores, a control for the importance."""
    generator = np.random.default_rng([seed, 11])
    return Importance(
        heads=[torch.from_numpy(generator.random(count)) for count in model.config.heads],
        neurons=[torch.from_numpy(generator.random(count)) for count in model.config.ffn],
    )


def _top(scores: Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
