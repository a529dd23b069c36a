"""The losses that recipes are made of. Shapes: logits [B, C] or, for several exits, [E, B, C]; labels [B]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against class ids, or mean squared error against gold scores (one output)."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.float().squeeze(-1), labels.float())
    return F.cross_entropy(logits.float(), labels)


def soft_loss(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of softmax(logits / T) against softmax(target / T), mean over the batch.

    On one output (regression) there is no softmax: mean squared error against the target.
    """
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.float(), target.float())
    return F.cross_entropy(logits.float() / temperature, F.softmax(target.float() / temperature, dim=-1))


def over_exits(loss, exit_logits: Tensor, target: Tensor) -> Tensor:
    """The sum of `loss` over exits; `target` is shared by the exits ([B] or [B, C]) or one for each ([E, B, C])."""
    shared = target.dim() < exit_logits.dim()
    return torch.stack([loss(logits, target if shared else target[e]) for e, logits in enumerate(exit_logits)]).sum()


def hidden_loss(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """COST-EFF's hidden-state loss over the embedding output and every layer, L+1 levels of [B, n, d].

    For each level: squared difference, mean over d, sum over real tokens / n_x, mean over the batch; then summed.
    """
    real = mask.float()
    per_token = sum((s.float() - t.float()).square().mean(-1) for s, t in zip(student, teacher, strict=True))
    return ((per_token * real).sum(1) / real.sum(1)).mean()
