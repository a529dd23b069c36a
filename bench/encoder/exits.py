"""Exit heads, pooling, and the gradient scaling between exits."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

ClassifierKind = Literal["tanh", "pooler", "tinybert", "distilbert"]
"""Kinds for a model with one exit."""
HeadKind = Literal[ClassifierKind, "own-pooler"]
Pooling = Literal["cls", "mean"]

# Kind -> its dense d x d layer (none, one shared by all exits, or one for each exit), and the activations after it.
_KINDS: dict[str, tuple[Literal["none", "shared", "own"], tuple[type[nn.Module], ...]]] = {
    "tanh": ("none", (nn.Tanh,)),  # COST-EFF: Linear(dropout(tanh(h)))
    "pooler": ("shared", (nn.Tanh,)),  # BERT and PABEE: Linear(dropout(tanh(dense(h))))
    "own-pooler": ("own", (nn.Tanh,)),  # DeeBERT and BERxiT: Linear(dropout(tanh(dense_e(h))))
    "tinybert": ("shared", (nn.Tanh, nn.ReLU)),  # TinyBERT: Linear(relu(tanh(dense(h))))
    "distilbert": ("shared", (nn.ReLU,)),  # DistilBERT: Linear(dropout(relu(dense(h))))
}


def has_dense(kind: HeadKind) -> bool:
    """Return whether exits of this kind have a dense d x d layer, BERT's pooler."""
    return _KINDS[kind][0] != "none"


def shares_dense(kind: HeadKind) -> bool:
    """Return whether all exits of this kind have the same dense layer, which belongs to the model."""
    return _KINDS[kind][0] == "shared"


class ExitHead(nn.Module):
    """Classifier of one exit, with a dense layer if its kind has one for each exit."""

    def __init__(self, kind: HeadKind, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden) if _KINDS[kind][0] == "own" else None
        self.activation = nn.Sequential(*(module() for module in _KINDS[kind][1]))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, pooled: Tensor, shared: nn.Linear | None) -> Tensor:
        """Return logits [B, C] of pooled hidden states [B, d]; `shared` is the dense layer of all exits, or None."""
        dense = shared if self.dense is None else self.dense
        if dense is not None:
            pooled = dense(pooled)
        return self.classifier(self.dropout(self.activation(pooled)))


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool hidden states [B, n, d] to [B, d]: the first position (`cls`), or the mean over tokens (`mask` 1)."""
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """Return `values` unchanged and multiply their gradient by `factor`, for gradient equilibrium.

    At layer i of L (0-based) the gradient from layer i + 1 is multiplied by L - i - 1, the gradient of the exit is
    added, and the sum is multiplied by 1 / (L - i). Layer i then receives the average of the gradients of all exits
    at or above it (COST-EFF, section 3.3).
    """
    return _ScaleGradient.apply(values, factor)
