"""The deployed form of a model: the same answers and the same matrix products, without what only training needs.

Queries, keys and values are one product; a residual is what its product is added to; no dropout, no modules that call
modules. A bias that follows a product into a residual is moved to where the residual comes from, the norm before it:
with x' = x + b, A x + W c + b = x' + W c for the sum and W x' + (a - W b) for whatever else reads x. The count of FLOPs
holds for this form as it does for the model that was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, addmm, layer_norm, nn
from transformers.activations import ACT2FN

from bench.encoder.cascade import Cascade
from bench.encoder.exits import ExitHead
from bench.encoder.model import Encoder, Layer
from bench.errors import UserError
from bench.tasks.examples import Examples

Module = TypeVar("Module", bound=nn.Module)

_SMALL = 1 << 14
"""Up to this many values PyTorch's own GELU is faster than the way to oneDNN's (12 us a call, measured)."""


@dataclass(frozen=True)
class Batch:
    """Examples on their way through a model, padded to the longest."""

    ids: Tensor
    """[B, n] int64, 0 at padding."""
    segments: Tensor | None
    """[B, n] int64; None where there is only a first text."""
    lengths: NDArray[np.int64]
    """[B] tokens of each."""

    @classmethod
    def of(cls, examples: Examples, positions: NDArray[np.int64], device: torch.device) -> Batch:
        """The examples at `positions`, on `device`."""
        lengths = np.array([len(examples.input_ids[i]) for i in positions])
        ids, segments = np.zeros((2, len(positions), lengths.max()), dtype=np.int64)
        for row, i in enumerate(positions):
            ids[row, : lengths[row]] = examples.input_ids[i]
            segments[row, : lengths[row]] = examples.segments[i]
        second = torch.from_numpy(segments).to(device) if segments.any() else None
        return cls(torch.from_numpy(ids).to(device), second, lengths)

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """These rows, cut to the longest of them."""
        lengths = self.lengths[rows]
        index, longest = torch.from_numpy(rows).to(self.ids.device), lengths.max()
        segments = None if self.segments is None else self.segments[index, :longest]
        return Batch(self.ids[index, :longest], segments, lengths)


def deploy(model: Encoder | Cascade) -> DeployedEncoder | DeployedCascade:
    """Return the deployed form of a trained model, on the model's device.

    Weights that need no change are shared with the model, the others copied. A layer with a parametrization
    (`torch.nn.utils.parametrize`) is read as the weight that it gives.

    Raises:
        UserError: A layer computes something else than its weights (an adapter in its place, a hook).
    """
    return DeployedCascade(model) if isinstance(model, Cascade) else DeployedEncoder(model)


class _Norm(NamedTuple):
    """A LayerNorm whose output is shifted by what the next residual needs."""

    weight: Tensor
    bias: Tensor


class _Product(NamedTuple):
    """The operands of addmm(bias, values, weight); the weight is transposed, [in, out]."""

    bias: Tensor
    weight: Tensor


class _Layer(NamedTuple):
    projections: _Product
    """[d, 3a]: queries, keys, values."""
    attention_output: Tensor
    """[a, d]"""
    attention_norm: _Norm
    ffn_in: _Product
    ffn_out: Tensor
    """[f, d]"""
    ffn_norm: _Norm


class _Exit(NamedTuple):
    layers: tuple[_Layer, ...]
    """Those between the exit before and this one."""
    shift: Tensor
    """[d] minus what the hidden state carries of the next layer's bias."""
    dense: _Product | None
    activations: tuple[Callable[[Tensor], Tensor], ...]
    classifier: _Product
    signal: _Product | None


class DeployedEncoder:
    """An `Encoder`, ready to answer."""

    def __init__(self, model: Encoder) -> None:
        config, embeddings = model.config, model.embeddings
        self.device, self.exit_count, self.outputs = model.device, model.exit_count, config.num_labels
        self.pooling = config.pooling
        self.head_size = config.head_size
        self.activation = _activation(config.hidden_act)
        self.words = _plain(embeddings.words, nn.Embedding).weight.detach()
        self.factor = None if embeddings.factor is None else _transposed(embeddings.factor)
        self.positions = embeddings.positions.weight.detach()
        self.segments = None if embeddings.segments is None else embeddings.segments.weight.detach()
        self.first = self.positions if self.segments is None else self.positions + self.segments[0]
        """[positions, d] what a token of the first text is given by its place."""
        layers = cast(list[Layer], list(model.layers))
        shifts = [layer.attention_output.bias.detach() for layer in layers]  # carried by the hidden state into a layer
        shifts.append(torch.zeros_like(shifts[0]))
        self.norm_shape, self.eps = (config.hidden_size,), config.layer_norm_eps
        self.norm = _norm(embeddings.norm, shifts[0])
        signal = None if model.signal is None else _product([model.signal])
        self.exits = []
        start = 0
        for head, layer in zip(cast(list[ExitHead], list(model.exit_heads)), config.exits, strict=True):
            between = tuple(_layer(layers[i], shifts[i + 1]) for i in range(start, layer))
            dense = None if model.dense is None else _product([model.dense])
            activations = tuple(_FUNCTIONS[type(module)] for module in head.activation)
            classifier = _product([head.classifier])
            self.exits.append(_Exit(between, -shifts[layer], dense, activations, classifier, signal))
            start = layer

    def begin(self, batch: Batch) -> Pass:
        return Pass(self, batch)


class Pass:
    """One batch on its way through a `DeployedEncoder`."""

    def __init__(self, model: DeployedEncoder, batch: Batch) -> None:
        self._model = model
        self._settle(batch.lengths)
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
        """[B n, d], plus the bias that the next layer's attention will add."""

    def _settle(self, lengths: NDArray[np.int64]) -> None:
        """What depends on who is here: padding and the weights of the mean."""
        self.lengths, self.rows, self.width = lengths, len(lengths), int(lengths.max())
        there = np.arange(self.width) < lengths[:, None]
        self._bias = None
        if not there.all():
            bias = np.where(there, np.float32(0), np.finfo(np.float32).min)
            self._bias = torch.from_numpy(bias)[:, None, None].to(self._model.device)
        if self._model.pooling == "mean":
            self._mean = torch.from_numpy((there / lengths[:, None]).astype(np.float32)).to(self._model.device)

    def advance(self, exit_index: int) -> Tensor:
        """Runs the layers up to this exit (0-based; exits come one after the other); its logits [B, C].

        The signal of a model that has one is one column more.
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
        values = pooled = self._pooled(step.shift)
        if step.dense is not None:
            values = addmm(step.dense.bias, values, step.dense.weight)
        for function in step.activations:
            values = function(values)
        logits = addmm(step.classifier.bias, values, step.classifier.weight)
        if step.signal is None:
            return logits
        return torch.cat([logits, addmm(step.signal.bias, pooled, step.signal.weight)], dim=1)

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Only these rows go on, cut to the longest of them."""
        hidden = self.hidden.view(self.rows, self.width, -1)
        self._settle(self.lengths[rows])
        index = torch.from_numpy(rows).to(hidden.device)
        self.hidden = hidden[:, : self.width][index].view(self.rows * self.width, -1)

    def _attend(self, projected: Tensor) -> Tensor:
        """[B n, 3a] -> [B n, a]."""
        split = projected.view(self.rows, self.width, 3, -1, self._model.head_size)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        context = F.scaled_dot_product_attention(query, key, value, self._bias)
        return context.transpose(1, 2).reshape(len(projected), -1)

    def _pooled(self, shift: Tensor) -> Tensor:
        """[B, d] plus `shift`: the CLS position, or the mean over real tokens."""
        if self._model.pooling == "cls":
            return self.hidden[:: self.width] + shift
        if self.rows == 1:
            return addmm(shift, self._mean, self.hidden)
        hidden = self.hidden.view(self.rows, self.width, -1)
        return torch.baddbmm(shift, self._mean[:, None], hidden).squeeze(1)


class DeployedCascade:
    """A `Cascade`, ready to answer: what one member does not answer, the next reads anew."""

    def __init__(self, model: Cascade) -> None:
        self.members = [DeployedEncoder(cast(Encoder, member)) for member in model.members]
        self.device, self.exit_count, self.outputs = model.device, model.exit_count, model.config.num_labels

    def begin(self, batch: Batch) -> CascadePass:
        return CascadePass(self, batch)


class CascadePass:
    """One batch on its way through the members of a `DeployedCascade`."""

    def __init__(self, model: DeployedCascade, batch: Batch) -> None:
        self._model, self._batch = model, batch

    def advance(self, exit_index: int) -> Tensor:
        """Logits [B, C] of the last exit of this member (0-based)."""
        member = self._model.members[exit_index]
        one = member.begin(self._batch)
        return [one.advance(e) for e in range(member.exit_count)][-1]

    def keep(self, rows: NDArray[np.int64]) -> None:
        self._batch = self._batch.take(rows)


_FUNCTIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {nn.Tanh: torch.tanh, nn.ReLU: torch.relu}


def _layer(layer: Layer, next_shift: Tensor) -> _Layer:
    """`next_shift` is the bias of the attention output of the layer above, 0 above the last."""
    shift, inner_shift = layer.attention_output.bias.detach(), layer.ffn_out.bias.detach()
    return _Layer(
        _product([layer.query, layer.key, layer.value], shift),
        _transposed(layer.attention_output),
        _norm(layer.attention_norm, inner_shift),
        _product([layer.ffn_in], inner_shift),
        _transposed(layer.ffn_out),
        _norm(layer.ffn_norm, next_shift),
    )


def _product(layers: list[nn.Linear], shift: Tensor | None = None) -> _Product:
    """Return these layers as one product whose input carries `shift`."""
    weight = torch.cat([_plain(layer, nn.Linear).weight.detach() for layer in layers])
    bias = torch.cat([layer.bias.detach() for layer in layers])
    if shift is not None:
        bias = (bias.double() - weight.double() @ shift.double()).to(bias.dtype)
    return _Product(bias, weight.t().contiguous())


def _norm(norm: nn.LayerNorm, shift: Tensor) -> _Norm:
    """Return the norm with an output that carries `shift`."""
    return _Norm(_plain(norm, nn.LayerNorm).weight.detach(), norm.bias.detach() + shift)


def _transposed(layer: nn.Linear) -> Tensor:
    """Return the weight of a layer as [in, out]."""
    return _plain(layer, nn.Linear).weight.detach().t().contiguous()


def _plain(module: Module, kind: type[Module]) -> Module:
    """Return `module` if it computes what PyTorch's module of this kind does with its weight; else raise UserError."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if hooked or type(module).forward is not kind.forward:
        what = f"a hook on a {kind.__name__}" if hooked else f"a {type(module).__name__} in place of a {kind.__name__}"
        raise UserError(f"early exit computes with plain weights, and the model has {what}; merge it into the weights")
    return module


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    return _gelu if name == "gelu" else ACT2FN[name]


def _gelu(values: Tensor) -> Tensor:
    """F.gelu; small tensors are shown transposed, which oneDNN does not take, so that PyTorch's own kernel does."""
    if values.numel() > _SMALL or values.device.type != "cpu":
        return F.gelu(values)
    return F.gelu(values.t()).t()
