"""Exit heads, pooling, and the gradient scaling between exits."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

HeadKind = Literal["tanh", "pooler", "tinybert", "distilbert"]
Pooling = Literal["cls", "mean"]

# Kind -> whether it has a dense d x d layer, which all exits share, and the activations after it.
_KINDS: dict[str, tuple[bool, tuple[type[nn.Module], ...]]] = {
    "tanh": (False, (nn.Tanh,)),  # COST-EFF: Linear(dropout(tanh(h)))
    "pooler": (True, (nn.Tanh,)),  # BERT and PABEE: Linear(dropout(tanh(dense(h))))
    "tinybert": (True, (nn.Tanh, nn.ReLU)),  # TinyBERT: Linear(relu(tanh(dense(h))))
    "distilbert": (True, (nn.ReLU,)),  # DistilBERT: Linear(dropout(relu(dense(h))))
}


def has_dense(kind: HeadKind) -> bool:
    """Return whether exits of this kind share a dense d x d layer, BERT's pooler."""
    return _KINDS[kind][0]


class ExitHead(nn.Module):
    """Classifier of one exit; the dense layer that its kind may have belongs to the model."""

    def __init__(self, kind: HeadKind, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.activation = nn.Sequential(*(module() for module in _KINDS[kind][1]))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, pooled: Tensor, dense: nn.Linear | None) -> Tensor:
        """Return logits [B, C] of pooled hidden states [B, d]."""
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
