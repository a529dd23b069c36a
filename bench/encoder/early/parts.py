"""Parts of the deployed form that both layouts share: plain weights, products, exit heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, addmm, nn
from transformers.activations import ACT2FN

from bench.encoder.exits import ExitHead
from bench.encoder.model import Encoder
from bench.errors import UserError

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
    """Exit head with the dense layer and the signal that all exits share."""

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


def heads(model: Encoder) -> list[Head]:
    """Return the deployed form of the exit heads of a model."""
    dense = None if model.dense is None else product([model.dense])
    signal = None if model.signal is None else product([model.signal])
    return [
        Head(dense, tuple(_FUNCTIONS[type(module)] for module in head.activation), product([head.classifier]), signal)
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
