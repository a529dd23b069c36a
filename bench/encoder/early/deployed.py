"""Deployed form of a model: the same outputs and matrix products, without the parts that only training needs.

This file has that of BERT's layout and of cascades, `modernbert.py` that of ModernBERT's.

Queries, keys and values are computed by one matrix product, residuals are added by `addmm`, and there is no dropout. A
bias that is added to a residual after a product moves to the LayerNorm that produces the residual: with x' = x + b the
sum A x + W c + b becomes x' + W c, and another layer that reads x computes W x' + (a - W b). The number of FLOPs is
that of the trained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, addmm, layer_norm, nn

from bench.encoder.cascade import Cascade
from bench.encoder.early.modernbert import DeployedModernBert
from bench.encoder.early.parts import (
    DeployedLayout,
    Head,
    LayoutPass,
    Product,
    heads,
    plain,
    product,
    transposed,
)
from bench.encoder.layers.bert import Layer
from bench.encoder.model import Encoder
from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Batch:
    """Batch of examples, padded to the longest."""

    ids: Tensor
    """[B, n] int64 token ids, 0 at padding."""
    segments: Tensor | None
    """[B, n] int64 segment ids; None if all examples have a single text."""
    lengths: NDArray[np.int64]
    """[B] number of tokens of each example."""

    @classmethod
    def of(cls, examples: Examples, positions: NDArray[np.int64], device: torch.device) -> Batch:
        """Return a batch of the examples at `positions`, on `device`."""
        lengths = np.array([len(examples.input_ids[i]) for i in positions])
        ids, segments = np.zeros((2, len(positions), lengths.max()), dtype=np.int64)
        for row, i in enumerate(positions):
            ids[row, : lengths[row]] = examples.input_ids[i]
            segments[row, : lengths[row]] = examples.segments[i]
        second = torch.from_numpy(segments).to(device) if segments.any() else None
        return cls(torch.from_numpy(ids).to(device), second, lengths)

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Return the selected rows, cut to the longest of them."""
        lengths = self.lengths[rows]
        index, longest = torch.from_numpy(rows).to(self.ids.device), lengths.max()
        segments = None if self.segments is None else self.segments[index, :longest]
        return Batch(self.ids[index, :longest], segments, lengths)


def deploy(model: Encoder | Cascade) -> Deployed:
    """Return the deployed form of a trained model, on the model's device.

    A model of a class with `fused = False`, whose layers compute something else than products with their weights, runs
    as it is.

    Unchanged weights are shared with the model, others are copied. The weights of layers with a parametrization
    (`torch.nn.utils.parametrize`) are evaluated.

    Raises:
        UserError: The output of a layer does not depend on its weights alone (an adapter in its place, a hook).
    """
    if not model.fused:
        return Unfused(model)
    if isinstance(model, Cascade):
        return DeployedCascade(model)
    return DeployedEncoder(model) if model.config.layout == "bert" else DeployedModernBert(model)


class _Norm(NamedTuple):
    """LayerNorm whose output is shifted by the bias that the next residual needs."""

    weight: Tensor
    bias: Tensor


class _Layer(NamedTuple):
    projections: Product
    """[d, 3a] queries, keys and values."""
    attention_output: Tensor
    """[a, d]"""
    attention_norm: _Norm
    ffn_in: Product
    ffn_out: Tensor
    """[f, d]"""
    ffn_norm: _Norm


class _Exit(NamedTuple):
    layers: tuple[_Layer, ...]
    """Layers between the previous exit and this one."""
    shift: Tensor
    """[d] the negative of the bias of the next layer that the hidden state contains."""
    head: Head


class DeployedEncoder(DeployedLayout):
    """Deployed form of an `Encoder` in BERT's layout."""

    def __init__(self, model: Encoder) -> None:
        config, embeddings = model.config, model.embeddings
        super().__init__(model)
        self.positions = embeddings.positions.weight.detach()
        self.segments = None if embeddings.segments is None else embeddings.segments.weight.detach()
        self.first = self.positions if self.segments is None else self.positions + self.segments[0]
        """[positions, d] sum of position and segment embedding for tokens of the first text."""
        layers = cast("list[Layer]", model.stack)
        shifts = [layer.attention_output.bias.detach() for layer in layers]  # contained in the input of each layer
        shifts.append(torch.zeros_like(shifts[0]))
        self.norm = _norm(embeddings.norm, shifts[0])
        self.exits = []
        start = 0
        for head, layer in zip(heads(model), config.exits, strict=True):
            between = tuple(_layer(layers[i], shifts[i + 1]) for i in range(start, layer))
            self.exits.append(_Exit(between, -shifts[layer], head))
            start = layer

    def begin(self, batch: Batch) -> Pass:
        """Return the forward pass of a batch, before its first layer."""
        return Pass(self, batch)


class Pass(LayoutPass):
    """Forward pass of one batch through a `DeployedEncoder`."""

    _model: DeployedEncoder

    def __init__(self, model: DeployedEncoder, batch: Batch) -> None:
        super().__init__(model, batch)
        width = batch.ids.shape[1]
        hidden = model.words.index_select(0, batch.ids.view(-1))
        if batch.segments is None or model.segments is None:
            place = model.first[:width]
            if self.rows > 1:
                place = place.repeat(self.rows, 1)
        else:
            place = model.segments.index_select(0, batch.segments.view(-1))
            place.view(self.rows, width, -1).add_(model.positions[:width])
        hidden = hidden.add_(place) if model.factor is None else addmm(place, hidden, model.factor)
        self.hidden = layer_norm(hidden, model.norm_shape, *model.norm, model.eps)
        """[B n, d] hidden states, plus the bias that the attention of the next layer adds."""

    def _settle(self, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Compute the attention mask as well."""
        there = super()._settle(lengths)
        self._bias = None
        if not there.all():
            bias = np.where(there, np.float32(0), np.finfo(np.float32).min)
            self._bias = torch.from_numpy(bias)[:, None, None].to(self._model.device)
        return there

    def advance(self, exit_index: int) -> Tensor:
        """Run the layers up to an exit.

        Args:
            exit_index: The exit, 0-based. Exits must be visited in order.

        Returns:
            Logits [B, C], with one more column for the signal if the model has one.
        """
        model, step, hidden = self._model, self._model.exits[exit_index], self.hidden
        activation, shape, eps = model.activation, model.norm_shape, model.eps
        for projections, attention_output, attention_norm, ffn_in, ffn_out, ffn_norm in step.layers:
            context = self._attend(addmm(projections.bias, hidden, projections.weight))
            hidden = addmm(hidden, context, attention_output)
            hidden = layer_norm(hidden, shape, attention_norm.weight, attention_norm.bias, eps)
            inner = activation(addmm(ffn_in.bias, hidden, ffn_in.weight))
            hidden = addmm(hidden, inner, ffn_out)
            hidden = layer_norm(hidden, shape, ffn_norm.weight, ffn_norm.bias, eps)
        self.hidden = hidden
        return step.head(self._pooled(step.shift))

    def _attend(self, projected: Tensor) -> Tensor:
        """Return the attention output [B n, a] of projections [B n, 3a]."""
        split = projected.view(self.rows, self.width, 3, -1, self._model.head_size)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        context = F.scaled_dot_product_attention(query, key, value, self._bias)
        return context.transpose(1, 2).reshape(len(projected), -1)

    def _pooled(self, shift: Tensor) -> Tensor:
        """Return the pooled hidden states [B, d] plus `shift`: the CLS position, or the mean over tokens."""
        if self._model.pooling == "cls":
            return self.hidden[:: self.width] + shift
        if self.rows == 1:
            return addmm(shift, self._mean, self.hidden)
        hidden = self.hidden.view(self.rows, self.width, -1)
        return torch.baddbmm(shift, self._mean[:, None], hidden).squeeze(1)


class DeployedCascade:
    """Deployed form of a `Cascade`: each member reads the examples that did not exit at earlier members."""

    def __init__(self, model: Cascade) -> None:
        self.members = [cast(DeployedEncoder | DeployedModernBert, deploy(cast(Encoder, m))) for m in model.members]
        self.device, self.exit_count, self.outputs = model.device, model.exit_count, model.config.num_labels

    def begin(self, batch: Batch) -> CascadePass:
        """Return the forward pass of a batch, before its first member."""
        return CascadePass(self, batch)


class CascadePass:
    """Forward pass of one batch through the members of a `DeployedCascade`."""

    def __init__(self, model: DeployedCascade, batch: Batch) -> None:
        self._model, self._batch = model, batch

    def advance(self, exit_index: int) -> Tensor:
        """Return the logits [B, C] of the last exit of a member (0-based)."""
        member = self._model.members[exit_index]
        one = member.begin(self._batch)
        return [one.advance(e) for e in range(member.exit_count)][-1]

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Keep only the selected rows."""
        self._batch = self._batch.take(rows)


class Unfused:
    """A model that runs as it is, with the interface of a deployed one."""

    def __init__(self, model: Encoder | Cascade) -> None:
        self.model = model
        self.device, self.exit_count, self.outputs = model.device, model.exit_count, model.config.num_labels

    def begin(self, batch: Batch) -> UnfusedPass:
        """Return the forward pass of a batch, before its first layer."""
        return UnfusedPass(self.model, batch)


class UnfusedPass:
    """Forward pass of one batch through a model that runs as it is."""

    def __init__(self, model: Encoder | Cascade, batch: Batch) -> None:
        mask = np.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        there = torch.from_numpy(mask.astype(np.int64)).to(batch.ids.device)
        self._model, self._state = model, model.begin(batch.ids, there, batch.segments)

    def advance(self, exit_index: int) -> Tensor:
        """Return the logits [B, C] of an exit (0-based), with one more column for the signal if there is one."""
        self._state, logits = self._model.advance(self._state, exit_index)
        return logits

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Keep only the selected rows, cut to the longest of them."""
        index = torch.from_numpy(rows).to(self._model.device)
        longest = int(self._state["mask"][index].sum(1).max())
        self._state = {name: values[index, :longest] for name, values in self._state.items()}


Deployed = DeployedEncoder | DeployedModernBert | DeployedCascade | Unfused
"""A deployed model: `begin` starts the forward pass of a batch, which goes from exit to exit."""


def _layer(layer: Layer, next_shift: Tensor) -> _Layer:
    """Return the deployed form of a layer.

    Args:
        layer: The layer.
        next_shift: [d] bias of the attention output of the layer above; 0 for the last layer.
    """
    shift, inner_shift = layer.attention_output.bias.detach(), layer.ffn_out.bias.detach()
    return _Layer(
        product([layer.query, layer.key, layer.value], shift),
        transposed(layer.attention_output),
        _norm(layer.attention_norm, inner_shift),
        product([layer.ffn_in], inner_shift),
        transposed(layer.ffn_out),
        _norm(layer.ffn_norm, next_shift),
    )


def _norm(norm: nn.LayerNorm, shift: Tensor) -> _Norm:
    """Return the norm with `shift` added to its output."""
    return _Norm(plain(norm, nn.LayerNorm).weight.detach(), norm.bias.detach() + shift)
