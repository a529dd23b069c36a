"""How much the loss would feel the removal of a head or a neuron (section 3.1: first-order Taylor)."""

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
    """Scores of every layer's heads [L][H_i] and FFN neurons [L][f_i]; higher means keep."""

    heads: list[Tensor]
    neurons: list[Tensor]

    def best(self, heads: int, neurons: int) -> tuple[list[list[int]], list[list[int]]]:
        """The indices each layer keeps, in their old order: its own best ones, the same number in every layer."""
        return [_top(scores, heads) for scores in self.heads], [_top(scores, neurons) for scores in self.neurons]


def taylor(
    model: Encoder,
    loss: Callable[[Encoder, dict[str, Tensor]], Tensor],
    examples: Examples,
    chosen: NDArray[np.int64],
    batch_size: int,
    bfloat16: bool = False,
) -> Importance:
    """|weight| x |gradient|, the gradient's absolute value summed over batches of the chosen examples, dropout off.

    A head's score sums over its columns of the attention output projection; a neuron's is the row sum of the first
    FFN matrix plus the column sum of the second. Biases do not count. `bfloat16`: with bfloat16 products, as training
    feels the same gradients; weights and sums stay float32.
    """
    model.eval()
    parts = ("attention_output", "ffn_in", "ffn_out")
    weights: list[Tensor] = [getattr(layer, part).weight for layer in model.layers for part in parts]
    felt = [torch.zeros_like(weight) for weight in weights]
    for rows in length_batches(examples.lengths[chosen], batch_size, None):
        batch = collate([examples[i] for i in chosen[rows]])
        batch = {key: value.to(model.device) for key, value in batch.items()}
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
            value = loss(model, batch)
        for total, gradient in zip(felt, torch.autograd.grad(value, weights), strict=True):
            total += gradient.abs()
    scores = [weight.detach().abs() * total for weight, total in zip(weights, felt, strict=True)]
    size = model.config.head_size
    return Importance(
        heads=[output.unflatten(1, (-1, size)).sum((0, 2)).cpu() for output in scores[0::3]],
        neurons=[
            (first.sum(1) + second.sum(0)).cpu() for first, second in zip(scores[1::3], scores[2::3], strict=True)
        ],
    )


def random(model: Encoder, seed: int) -> Importance:
    """Scores drawn at random: the control of the ablation."""
    generator = np.random.default_rng([seed, 11])
    return Importance(
        heads=[torch.from_numpy(generator.random(count)) for count in model.config.heads],
        neurons=[torch.from_numpy(generator.random(count)) for count in model.config.ffn],
    )


def _top(scores: Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
