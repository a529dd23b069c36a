"""Deployed form of an encoder in ModernBERT's layout.

Queries, keys and values are computed by one matrix product, neurons and gates by another, and residuals are added by
`addmm`. Cosines and sines of the rotary positions are computed once. The number of FLOPs is that of the trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, addmm, layer_norm, nn

from bench.encoder.early.parts import DeployedLayout, Head, LayoutPass, heads, plain, transposed
from bench.encoder.layers.attention import attention_bias
from bench.encoder.layers.modernbert import Layer, rotated, rotations
from bench.encoder.model import Encoder

if TYPE_CHECKING:
    from bench.encoder.early.deployed import Batch


class _Layer(NamedTuple):
    window: int | None
    theta: float
    attention_norm: Tensor | None
    """[d]; None: no norm."""
    projections: Tensor
    """[d, 3a] queries, keys and values."""
    attention_output: Tensor
    """[a, d]"""
    ffn_norm: Tensor
    ffn_in: Tensor
    """[d, 2f] neurons and their gates."""
    ffn_out: Tensor
    """[f, d]"""


class _Exit(NamedTuple):
    layers: tuple[_Layer, ...]
    """Layers between the previous exit and this one."""
    head: Head


class DeployedModernBert(DeployedLayout):
    """Deployed form of an `Encoder` in ModernBERT's layout."""

    def __init__(self, model: Encoder) -> None:
        config, embeddings = model.config, model.embeddings
        super().__init__(model)
        self.norm, self.final_norm = _norm(embeddings.norm), _norm(cast(nn.LayerNorm, model.final_norm))
        self.rotations = {
            theta: rotations(config.max_positions, config.head_size, theta, model.device)
            for theta in sorted(set(config.thetas))
        }
        """Base of the rotary positions -> cosines and sines [positions, head size]."""
        self.windows = sorted(set(config.windows), key=str)
        layers = [
            _layer(layer, window, theta)
            for layer, window, theta in zip(
                cast(list[Layer], list(model.layers)), config.windows, config.thetas, strict=True
            )
        ]
        starts = [0, *config.exits]
        self.exits = [
            _Exit(tuple(layers[start:end]), head)
            for start, end, head in zip(starts, config.exits, heads(model), strict=False)
        ]

    def begin(self, batch: Batch) -> ModernBertPass:
        """Return the forward pass of a batch, before its first layer."""
        return ModernBertPass(self, batch)


class ModernBertPass(LayoutPass):
    """Forward pass of one batch through a `DeployedModernBert`."""

    _model: DeployedModernBert

    def __init__(self, model: DeployedModernBert, batch: Batch) -> None:
        super().__init__(model, batch)
        hidden = model.words.index_select(0, batch.ids.view(-1))
        if model.factor is not None:
            hidden = hidden @ model.factor
        self.hidden = layer_norm(hidden, model.norm_shape, model.norm, None, model.eps)
        """[B n, d] hidden states."""

    def _settle(self, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Compute attention masks and rotary positions as well."""
        model, there = self._model, super()._settle(lengths)
        mask = torch.from_numpy(there).to(model.device)
        self._bias = {window: attention_bias(mask, torch.float32, window) for window in model.windows}
        self._rotations = {
            theta: (cosine[: self.width], sine[: self.width]) for theta, (cosine, sine) in model.rotations.items()
        }
        return there

    def advance(self, exit_index: int) -> Tensor:
        """Run the layers up to an exit.

        Args:
            exit_index: The exit, 0-based. Exits must be visited in order.

        Returns:
            Logits [B, C], with one more column for the signal if the model has one.
        """
        model, step, hidden = self._model, self._model.exits[exit_index], self.hidden
        shape, eps = model.norm_shape, model.eps
        for layer in step.layers:
            normed = hidden
            if layer.attention_norm is not None:
                normed = layer_norm(hidden, shape, layer.attention_norm, None, eps)
            hidden = addmm(hidden, self._attend(normed @ layer.projections, layer), layer.attention_output)
            normed = layer_norm(hidden, shape, layer.ffn_norm, None, eps)
            neurons, gates = (normed @ layer.ffn_in).chunk(2, dim=-1)
            hidden = addmm(hidden, model.activation(neurons) * gates, layer.ffn_out)
        self.hidden = hidden
        return step.head(self._pooled())

    def _attend(self, projected: Tensor, layer: _Layer) -> Tensor:
        """Return the attention output [B n, a] of projections [B n, 3a]."""
        split = projected.view(self.rows, self.width, 3, -1, self._model.head_size).permute(2, 0, 3, 1, 4)
        query, key = rotated(split[:2], *self._rotations[layer.theta]).unbind(0)
        context = F.scaled_dot_product_attention(query, key, split[2], self._bias[layer.window])
        return context.transpose(1, 2).reshape(len(projected), -1)

    def _pooled(self) -> Tensor:
        """Return the pooled hidden states [B, d] after the final norm: the CLS position, or the mean over tokens."""
        model = self._model
        hidden = self.hidden[:: self.width] if model.pooling == "cls" else self.hidden
        hidden = layer_norm(hidden, model.norm_shape, model.final_norm, None, model.eps)
        if model.pooling == "cls":
            return hidden
        return (self._mean[:, None] @ hidden.view(self.rows, self.width, -1)).squeeze(1)


def _layer(layer: Layer, window: int | None, theta: float) -> _Layer:
    norm = layer.attention_norm
    return _Layer(
        window,
        theta,
        _norm(norm) if isinstance(norm, nn.LayerNorm) else None,
        transposed(layer.query, layer.key, layer.value),
        transposed(layer.attention_output),
        _norm(layer.ffn_norm),
        transposed(layer.ffn_in, layer.ffn_gate),
        transposed(layer.ffn_out),
    )


def _norm(norm: nn.LayerNorm) -> Tensor:
    return plain(norm, nn.LayerNorm).weight.detach()
