"""Losses shared by training recipes. Shapes: logits [B, C] or, for several exits, [E, B, C]; labels [B]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy with class ids, or for one output the mean squared error from the gold scores."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.float().squeeze(-1), labels.float())
    return F.cross_entropy(logits.float(), labels)


def soft_loss(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the cross-entropy of softmax(logits / T) with softmax(target / T), averaged over the batch.

    This is the distillation loss of Hinton et al. (2015, section 2) without its factor T^2. For one output (regression)
    it is the mean squared error from the target.

    Args:
        logits: [B, C] logits of the student.
        target: [B, C] logits of the teacher.
        temperature: The temperature T.
    """
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.float(), target.float())
    return F.cross_entropy(logits.float() / temperature, F.softmax(target.float() / temperature, dim=-1))


def over_exits(loss, exit_logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum of `loss` over exits.

    Args:
        loss: Function (logits [B, C], target) -> scalar.
        exit_logits: [E, B, C] logits of every exit.
        target: Target shared by all exits ([B] or [B, C]), or one for each exit ([E, B, C]).
    """
    shared = target.dim() < exit_logits.dim()
    return torch.stack([loss(logits, target if shared else target[e]) for e, logits in enumerate(exit_logits)]).sum()


def hidden_loss(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Return the hidden-state distillation loss of COST-EFF over the embedding output and every layer.

    At each level the squared difference is averaged over d, then over the tokens of each example without padding, then
    over the batch. The result is the sum over levels.

    Args:
        student: L + 1 hidden states [B, n, d].
        teacher: L + 1 hidden states [B, n, d].
        mask: [B, n] 1 for tokens, 0 for padding.
    """
    real = mask.float()
    per_token = sum((s.float() - t.float()).square().mean(-1) for s, t in zip(student, teacher, strict=True))
    return ((per_token * real).sum(1) / real.sum(1)).mean()
