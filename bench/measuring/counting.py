"""What a model costs: parameters, and exact multiply-adds up to each exit as a quadratic in the length.

Convention: one multiply-add of a matrix product counts once (projections, both products of attention, the
factor of a factorised embedding, exit heads); element-wise work, norms, softmax and look-ups count nothing.
FLOPs are 2 x that. fvcore counts the traced model at three lengths, which determines the quadratic; a fourth
checks it.
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

# Operators that multiply matrices, or hide what they do: one of these without a handle would pass as free.
_PRODUCTS = re.compile(
    r"mm(_|$)|matmul|linear|einsum|tensordot|(^|::)(v?dot|mv|addr|outer|ger|kron|cdist|lstm|gru)|rnn|conv"
    r"|attention|transformer|multi_dot|matrix_(power|exp)|inner|prim::(PythonOp|CallFunction)"
)


def measure(model: Encoder | Cascade) -> Costs:
    """Count `model`; UserError where an operator cannot be counted or the cost is not quadratic in length."""
    counts = {n: _count(model, n) for n in (*_LENGTHS, _CHECK)}
    coefficients = []
    for e in range(model.exit_count):
        quadratic = _quadratic(_LENGTHS, [counts[n][e] for n in _LENGTHS])
        c0, c1, c2 = quadratic
        counted, predicted = counts[_CHECK][e], c0 + c1 * _CHECK + c2 * _CHECK**2
        if counted != predicted:
            raise UserError(
                f"{type(model).__name__}: exit {e + 1} costs {counted} multiply-adds at length {_CHECK}, "
                f"and {predicted} by the quadratic through lengths {_LENGTHS}; make its cost quadratic"
            )
        coefficients.append(quadratic)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Costs(
        parameters=sum(sizes.values()),
        parameters_encoder=sum(size for name, size in sizes.items() if "embeddings" not in name.split(".")),
        layers=tuple(model.exit_layers),
        coefficients=tuple(coefficients),
    )


class _Stage(nn.Module):
    """The work between one exit and the next, as a module, so that fvcore attributes operators to it."""

    def __init__(self, advance: Callable[..., Any], exit_index: int) -> None:
        super().__init__()
        self.advance, self.exit_index = advance, exit_index

    def forward(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        return self.advance(state, self.exit_index)


class _Staged(nn.Module):
    """A model run one exit at a time; what comes before the first stage belongs to every exit."""

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
    """Cumulative multiply-adds up to each exit for one example of `length` tokens, in one trace."""
    ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
    was_training = model.training
    staged = _Staged(model).eval()
    # "caller" gives an operator to every module that is running, so a dense layer that all exits share
    # counts at each of them.
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
    """Sizes of a traced tensor."""
    return value.type().sizes()


def _product(left: int) -> Callable[[list[Any], list[Any]], Counter[str]]:
    """Handle of an operator whose `left`-th input is contracted over its last axis: output size x that axis.

    One rule for them all; fvcore's own handle for matmul is wrong where the left side broadcasts.
    """

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        return Counter(products=math.prod(_shape(outputs[0])) * _shape(inputs[left])[-1])

    return count


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Handle of scaled_dot_product_attention, which fvcore omits: queries x keys x (sizes of both)."""
    query, key, value = (_shape(each) for each in inputs[:3])
    return Counter(products=math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


_HANDLES = {
    **{f"aten::{name}": _product(0) for name in ("linear", "matmul", "mm", "bmm", "mv")},
    **{f"aten::{name}": _product(1) for name in ("addmm", "baddbmm", "addmv")},
    "aten::scaled_dot_product_attention": _attention,
}


def _quadratic(at: tuple[int, ...], values: list[int]) -> tuple[Fraction, Fraction, Fraction]:
    """The exact (c0, c1, c2) of the quadratic through three points."""
    (x0, x1, x2), (y0, y1, y2) = at, values
    slope = Fraction(y1 - y0, x1 - x0)
    c2 = (Fraction(y2 - y0, x2 - x0) - slope) / (x2 - x1)
    c1 = slope - c2 * (x0 + x1)
    return y0 - x0 * (c1 + c2 * x0), c1, c2
