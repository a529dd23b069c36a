"""Parameters of a model, and its exact multiply-adds up to each exit as a quadratic in the length.

Counted are the multiply-adds of matrix products: projections, both products of attention, the factor of a factorised
embedding, exit heads. Element-wise operations, norms, softmax and look-ups count as 0. FLOPs are 2 x multiply-adds.
fvcore counts at three lengths, which determine the quadratic, and at a fourth, which checks it.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from fvcore.nn.jit_analysis import JitModelAnalysis
from torch import Tensor, nn

from bench.encoder import Cascade, Encoder
from bench.errors import UserError
from bench.trace import Costs

_LENGTHS, _CHECK = (4, 8, 12), 16

# Operators that multiply matrices or may contain such products: without a handle they would count as 0.
_PRODUCTS = re.compile(
    r"mm(_|$)|matmul|linear|einsum|tensordot|(^|::)(v?dot|mv|addr|outer|ger|kron|cdist|lstm|gru)|rnn|conv"
    r"|attention|transformer|multi_dot|matrix_(power|exp)|inner|prim::(PythonOp|CallFunction)"
)


def measure(model: Encoder | Cascade) -> Costs:
    """Count the parameters and multiply-adds of a model.

    Raises:
        UserError: An operator cannot be counted, or the cost is not quadratic in the length.
    """
    counts = {n: _count(model, n) for n in (*_LENGTHS, _CHECK)}
    coefficients = []
    for e in range(model.exit_count):
        c0, c1, c2 = _quadratic(_LENGTHS, [counts[n][e] for n in _LENGTHS])
        counted, predicted = counts[_CHECK][e], c0 + c1 * _CHECK + c2 * _CHECK**2
        if counted != predicted:
            raise UserError(
                f"{type(model).__name__}: exit {e + 1} has {counted} multiply-adds at length {_CHECK}, but the "
                f"quadratic through lengths {_LENGTHS} gives {predicted}; its cost must be quadratic in the length"
            )
        coefficients.append((c0, c1, c2))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Costs(
        parameters=sum(sizes.values()),
        parameters_encoder=sum(size for name, size in sizes.items() if "embeddings" not in name.split(".")),
        layers=tuple(model.exit_layers),
        coefficients=tuple(coefficients),
    )


class _Stage(nn.Module):
    """The layers between two exits as a module, so that fvcore attributes operators to it."""

    def __init__(self, advance: Callable[..., Any], exit_index: int) -> None:
        super().__init__()
        self.advance, self.exit_index = advance, exit_index

    def forward(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        return self.advance(state, self.exit_index)


class _Staged(nn.Module):
    """A model that computes one exit after another; work before the first stage counts for every exit."""

    def __init__(self, model: Encoder | Cascade) -> None:
        super().__init__()
        self.model = model
        self.stages = nn.ModuleList(_Stage(model.advance, e) for e in range(model.exit_count))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        state, answers = self.model.begin(input_ids, attention_mask), []
        for stage in self.stages:
            state, logits = stage(state)
            answers.append(logits)
        return tuple(answers)


def _count(model: Encoder | Cascade, length: int) -> list[int]:
    """Return the multiply-adds up to each exit for one example of `length` tokens."""
    ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
    was_training = model.training
    staged = _Staged(model).eval()
    # "caller" attributes an operator to the modules that are running: a dense layer that exits share counts at each.
    analysis = JitModelAnalysis(staged, (ids, torch.ones_like(ids))).ancestor_mode("caller")
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).set_op_handle(**_HANDLES)
    try:
        with torch.inference_mode():
            counts, unsupported = analysis.by_module(), analysis.unsupported_ops()
    finally:
        model.train(was_training)
    hidden = sorted(name for name in unsupported if _PRODUCTS.search(name))
    if hidden:
        raise UserError(
            f"{type(model).__name__}: no count for {', '.join(hidden)}; write the product as matmul, linear "
            "or scaled_dot_product_attention"
        )
    stages = [counts[f"stages.{e}"] for e in range(model.exit_count)]
    before = counts[""] - sum(stages)
    return [int(before + total) for total in np.cumsum(stages)]


def _shape(value: Any) -> list[int]:
    """Return the sizes of a traced tensor."""
    return value.type().sizes()


def _product(left: int) -> Callable[[list[Any], list[Any]], Counter[str]]:
    """Return the handle of an operator that contracts its input number `left` over the last axis.

    The count is the size of the output x that axis. fvcore's own handle of matmul is wrong if the left input
    broadcasts.
    """

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        return Counter(products=math.prod(_shape(outputs[0])) * _shape(inputs[left])[-1])

    return count


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count scaled_dot_product_attention, which fvcore omits: queries x keys x (size of a query + size of a value)."""
    query, key, value = (_shape(each) for each in inputs[:3])
    return Counter(products=math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


_HANDLES = {
    **{f"aten::{name}": _product(0) for name in ("linear", "matmul", "mm", "_int_mm", "bmm", "mv")},
    **{f"aten::{name}": _product(1) for name in ("addmm", "baddbmm", "addmv")},
    "aten::scaled_dot_product_attention": _attention,
}


def _quadratic(at: tuple[int, ...], values: list[int]) -> tuple[Fraction, Fraction, Fraction]:
    """Return the exact coefficients c0, c1, c2 of the quadratic through three points."""
    (x0, x1, x2), (y0, y1, y2) = at, values
    slope = Fraction(y1 - y0, x1 - x0)
    c2 = (Fraction(y2 - y0, x2 - x0) - slope) / (x2 - x1)
    c1 = slope - c2 * (x0 + x1)
    return y0 - x0 * (c1 + c2 * x0), c1, c2
