"""Parts of the deployed form that both layouts share: set-up, rows of a batch, products, exit heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, addmm, nn
from transformers.activations import ACT2FN

from bench.encoder.exits import ExitHead
from bench.encoder.model import Encoder
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.encoder.early.deployed import Batch

Module = TypeVar("Module", bound=nn.Module)

_SMALL = 1 << 14
"""Largest number of values for which PyTorch's own GELU is faster than oneDNN's, whose call overhead is 12 us
(measured)."""
_FUNCTIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {nn.Tanh: torch.tanh, nn.ReLU: torch.relu}


class Product(NamedTuple):
    """Operands of addmm(bias, values, weight). The weight is transposed, [in, out]."""

    bias: Tensor
    weight: Tensor


class Head(NamedTuple):
    """Exit head with its dense layer and the signal that all exits share."""

    dense: Product | None
    activations: tuple[Callable[[Tensor], Tensor], ...]
    classifier: Product
    signal: Product | None

    def __call__(self, pooled: Tensor) -> Tensor:
        """Return the logits [B, C] of pooled hidden states [B, d], with the signal as last column if there is one."""
        values = pooled
        if self.dense is not None:
            values = addmm(self.dense.bias, values, self.dense.weight)
        for function in self.activations:
            values = function(values)
        logits = addmm(self.classifier.bias, values, self.classifier.weight)
        if self.signal is None:
            return logits
        return torch.cat([logits, addmm(self.signal.bias, pooled, self.signal.weight)], dim=1)


class DeployedLayout:
    """Base class of the deployed form of an `Encoder` in either layout."""

    def __init__(self, model: Encoder) -> None:
        config, embeddings = model.config, model.embeddings
        self.device, self.exit_count, self.outputs = model.device, model.exit_count, config.num_labels
        self.pooling = config.pooling
        self.head_size = config.head_size
        self.activation = activation(config.hidden_act)
        self.words = plain(embeddings.words, nn.Embedding).weight.detach()
        self.factor = None if embeddings.factor is None else transposed(embeddings.factor)
        self.norm_shape, self.eps = (config.hidden_size,), config.layer_norm_eps


class LayoutPass:
    """Base class of the forward pass of one batch through a `DeployedLayout`.

    Attributes:
        hidden: Hidden states [B n, d], which a subclass sets.
    """

    hidden: Tensor

    def __init__(self, model: DeployedLayout, batch: Batch) -> None:
        self._model = model
        self._settle(batch.lengths)

    def _settle(self, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Set the size of the batch and the weights of mean pooling for the current rows.

        Returns:
            Whether there is a token, [B, n].
        """
        self.lengths, self.rows, self.width = lengths, len(lengths), int(lengths.max())
        there = np.arange(self.width) < lengths[:, None]
        if self._model.pooling == "mean":
            self._mean = torch.from_numpy((there / lengths[:, None]).astype(np.float32)).to(self._model.device)
        return there

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Keep only the selected rows, cut to the longest of them."""
        hidden = self.hidden.view(self.rows, self.width, -1)
        self._settle(self.lengths[rows])
        index = torch.from_numpy(rows).to(hidden.device)
        self.hidden = hidden[:, : self.width][index].view(self.rows * self.width, -1)


def heads(model: Encoder) -> list[Head]:
    """Return the deployed form of the exit heads of a model."""
    shared = None if model.dense is None else product([model.dense])
    signal = None if model.signal is None else product([model.signal])
    return [
        Head(
            shared if head.dense is None else product([head.dense]),
            tuple(_FUNCTIONS[type(module)] for module in head.activation),
            product([head.classifier]),
            signal,
        )
        for head in cast(list[ExitHead], list(model.exit_heads))
    ]


def product(layers: list[nn.Linear], shift: Tensor | None = None) -> Product:
    """Return these layers as one product for inputs that contain `shift`."""
    weight = torch.cat([plain(layer, nn.Linear).weight.detach() for layer in layers])
    bias = torch.cat([layer.bias.detach() for layer in layers])
    if shift is not None:
        bias = (bias.double() - weight.double() @ shift.double()).to(bias.dtype)
    return Product(bias, weight.t().contiguous())


def transposed(*layers: nn.Linear) -> Tensor:
    """Return the weights of layers with the same input as one matrix [in, out]."""
    return torch.cat([plain(layer, nn.Linear).weight.detach() for layer in layers]).t().contiguous()


def plain(module: Module, kind: type[Module]) -> Module:
    """Return `module` if its output depends on its weights alone, as for PyTorch's module of this kind.

    Raises:
        UserError: The module is of another kind or has hooks.
    """
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if hooked or type(module).forward is not kind.forward:
        what = f"a hook on a {kind.__name__}" if hooked else f"a {type(module).__name__} in place of a {kind.__name__}"
        raise UserError(f"early exit needs plain weights, but the model has {what}; merge it into the weights")
    return module


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation of this name."""
    return _gelu if name == "gelu" else ACT2FN[name]


def _gelu(values: Tensor) -> Tensor:
    """Return F.gelu(values).

    Small tensors are passed transposed, so that PyTorch's own kernel is used instead of oneDNN's.
    """
    if values.numel() > _SMALL or values.device.type != "cpu":
        return F.gelu(values)
    return F.gelu(values.t()).t()
