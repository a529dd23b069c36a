"""Iterative slenderising: each step removes one head, and FFN and rank decrease linearly (section 3.1)."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bench.context import Context
from bench.encoder import Encoder, Shape, Width
from bench.encoder.cut import cut, take_layers
from bench.training.loop import Plan, steps_per_epoch
from bench.training.saving import saved
from costeff.distillation import Distillation
from costeff.importance import Importance

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """Schedule of slenderising: each step is followed by a period of training with a new optimizer.

    A period has a warm-up of max(10, 10 %) steps, but at most half of the period, and a linear decay.

    Attributes:
        rate: Epochs of a period.
        learning_rate: Peak learning rate before growth.
        growth: Period k (from 1) has the peak learning rate `learning_rate` x (1 + growth)^k.
        first: Fraction of a period in which hidden states alone are distilled.
        batch_size: Examples in a batch.
    """

    rate: float
    learning_rate: float
    growth: float
    first: float
    batch_size: int


def widths(start: Width, target: Width, iterative: bool = True) -> list[Width]:
    """Return the width after each step: one head less each, FFN and rank linear and rounded down.

    There is a single step if no head is removed or `iterative` is false.
    """
    steps = max(1, start.heads - target.heads) if iterative else 1

    def at(k: int, first: int, last: int) -> int:
        return first - math.ceil((first - last) * k / steps)

    return [
        Width(at(k, start.heads, target.heads), at(k, start.ffn, target.ffn), at(k, start.rank, target.rank))
        for k in range(1, steps + 1)
    ]


def slenderise(
    context: Context,
    model: Encoder,
    target: Width,
    distillation: Distillation,
    schedule: Schedule,
    importance: Callable[[Encoder, np.ndarray], Importance],
    *,
    examples: int | None = None,
    iterative: bool = True,
) -> Encoder:
    """Cut `model` to `target` in steps, with a period of training after each.

    A resumed run continues in the last period that has a file, because its weights result from all earlier ones.

    Args:
        context: Context of the run.
        model: The encoder.
        target: Final width.
        distillation: Losses.
        schedule: Schedule of the periods.
        importance: Function of the model and positions of training examples.
        examples: Number of training examples, drawn at random, on which importance is computed; None: all.
        iterative: False: a single step, followed by as many optimizer steps as all periods have.

    Returns:
        The slender encoder.
    """
    plan = widths(model.config.shape.slender, target, iterative)
    periods = periods_of(schedule, model.config.shape.slender, target, len(context.train), iterative)
    last = max((k for k in range(1, len(plan) + 1) if saved(context.state / f"period-{k}")), default=0)
    for k, (width, period) in enumerate(zip(plan, periods, strict=True), start=1):
        if k < last:
            continue
        log.info("slenderise %d of %d: %s", k, len(plan), width)
        if k == last:  # any heads and neurons: the weights are read from the period's file
            heads, neurons = ([list(range(count))] * len(model.layers) for count in (width.heads, width.ffn))
        else:
            scores = importance(model, _sample(len(context.train), examples, context.seed + k))
            heads, neurons = scores.best(width.heads, width.ffn)
        model = cut(model, heads, neurons, rank=width.rank)
        context.fit(model, distillation.while_slenderising(schedule.first), period, f"period-{k}")
        if saved(context.state / f"period-{k}"):
            shutil.rmtree(context.state / f"period-{k - 1}", ignore_errors=True)
    return model


def periods_of(schedule: Schedule, start: Width, target: Width, examples: int, iterative: bool = True) -> list[Plan]:
    """Return the plan of each period; if `iterative` is false, one with the optimizer steps of all periods."""
    each = max(1, round(schedule.rate * steps_per_epoch(examples, schedule.batch_size)))
    full = len(widths(start, target))
    return [
        Plan(
            epochs=schedule.rate,
            steps=each if iterative else full * each,
            learning_rate=schedule.learning_rate * (1 + schedule.growth) ** k,
            batch_size=schedule.batch_size,
            warmup_floor=min(10, each // 2),  # the authors' 10 steps, where the period is long enough
        )
        for k in range(1, len(widths(start, target, iterative)) + 1)
    ]


def shallow(model: Encoder, target: Width) -> tuple[Encoder, list[int]]:
    """Return fewer layers of full width with about the parameters of `target`, an ablation.

    The layers are evenly spaced; the word embedding has the rank of `target`.

    Returns:
        The encoder, with an exit after each layer, and the layers of `model` (0-based) it keeps.
    """
    layers = model.config.shape.layers
    depth = shallow_shape(model.config.shape, target).layers
    kept = [round((i + 1) * layers / depth) - 1 for i in range(depth)]
    short = take_layers(model, kept, exits=range(1, depth + 1))
    return cut(short, rank=target.rank), kept


def shallow_shape(shape: Shape, target: Width) -> Shape:
    """Return `shape` with the rank of `target` and the depth whose number of parameters is closest to `target`."""
    wanted, flat = shape.narrowed(target).parameters(), replace(shape, rank=target.rank)
    depth = min(range(1, shape.layers + 1), key=lambda k: abs(flat.truncated(k).parameters() - wanted))
    return flat.truncated(depth)


def _sample(total: int, count: int | None, seed: int) -> np.ndarray:
    if count is None or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng([seed, 5]).choice(total, count, replace=False))
