"""Optimizers of training stages: AdamW, BertAdam, and gradient clipping over all tensors or per tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_NO_CORRECTION = 1e6
"""Step count at which the bias correction of Adam, 1 - beta^step, is exactly 1 in double precision."""


def adam(
    groups: list[dict[str, Any]],
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    bias_correction: bool = True,
) -> torch.optim.AdamW:
    """Return AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), with or without bias correction.

    Without bias correction the update is that of BertAdam, the optimizer of the original BERT and TinyBERT code: p -
    rate * (m / (sqrt(v) + epsilon) + decay * p). The moments start at 0, and the step counters start at a value for
    which both corrections are 1. No other part of the update uses the counters.

    Args:
        groups: Parameter groups, each with its own `weight_decay`.
        learning_rate: Learning rate of the first step.
        betas: Decay rates of the first and second moment; below 0.9999 without bias correction.
        epsilon: Added to the root of the second moment.
        bias_correction: Whether the moments are divided by 1 - beta^step.
    """
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=True)
    if not bias_correction:
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            optimizer.state[parameter] = {
                "step": torch.full((), _NO_CORRECTION, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
    return optimizer


@torch.no_grad()
def clip(parameters: Sequence[Tensor], most: float, each: bool = False) -> None:
    """Scale gradients in place to a Euclidean norm of at most `most`.

    Args:
        parameters: Tensors. Those without a gradient are skipped.
        most: Largest norm allowed.
        each: Whether the norm is computed for each tensor separately (BertAdam) or for all of them together.
    """
    if not each:
        torch.nn.utils.clip_grad_norm_(parameters, most)
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        norms = torch.stack(torch._foreach_norm(gradients))
        factors = (most / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(factors.unbind()))
