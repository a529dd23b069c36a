"""Iterative slenderising: one head a step, FFN and embedding rank moving linearly to their targets (section 3.1)."""

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
    """The pace of slenderising.

    A step is followed by a period of `rate` epochs with a fresh optimizer; after k steps its learning rate is
    `learning_rate` x (1 + growth)^k, with a warm-up of max(10, 10 %) steps and a linear decay within the period. The
    fraction `first` of a period trains hidden states only.
    """

    rate: float
    learning_rate: float
    growth: float
    first: float
    batch_size: int


def widths(start: Width, target: Width, iterative: bool = True) -> list[Width]:
    """The width after each step: one head fewer a step, f and r on a line, truncated to integers.

    With as many heads to keep as there are, or one-shot (`iterative` false), a single step goes all the way.
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
    """Cuts `model` to `target` in steps and trains it for a period after each.

    `importance(model, chosen)` scores it on the chosen training positions: all of them, or a seeded sample of
    `examples`. The stage ends one period after the last step; a one-shot cut trains as long as all periods together.
    Goes on in the last period that left something, since its weights hold all that came before.
    """
    plan = widths(model.config.shape.slender, target, iterative)
    periods = periods_of(schedule, model.config.shape.slender, target, len(context.train), iterative)
    last = max((k for k in range(1, len(plan) + 1) if saved(context.state / f"period-{k}")), default=0)
    for k, (width, period) in enumerate(zip(plan, periods, strict=True), start=1):
        if k < last:
            continue
        log.info("slenderise %d of %d: %s", k, len(plan), width)
        if k == last:  # only the shape counts: the weights are read
            model = cut(model, *_first(model, width), rank=width.rank)
        else:
            scores = importance(model, _sample(len(context.train), examples, context.seed + k))
            model = cut(model, *scores.best(width.heads, width.ffn), rank=width.rank)
        context.fit(model, distillation.while_slenderising(schedule.first), period, f"period-{k}")
        if saved(context.state / f"period-{k}"):
            shutil.rmtree(context.state / f"period-{k - 1}", ignore_errors=True)
    return model


def periods_of(schedule: Schedule, start: Width, target: Width, examples: int, iterative: bool = True) -> list[Plan]:
    """The training after each step; one-shot trains as many steps after its single one as all periods together."""
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


def squat(model: Encoder, target: Width) -> tuple[Encoder, list[int]]:
    """The ablation: full-width layers of `model`, evenly spread and as many as give the parameters of `target`.

    The word embedding gets the target's rank, as in the slender model. Returns the shallower model with an exit after
    each layer, and the layers (0-based) it kept.
    """
    layers = model.config.shape.layers
    depth = squatted(model.config.shape, target).layers
    kept = [round((i + 1) * layers / depth) - 1 for i in range(depth)]
    shallow = take_layers(model, kept, exits=range(1, depth + 1))
    return cut(shallow, rank=target.rank), kept


def squatted(shape: Shape, target: Width) -> Shape:
    """`shape` with the embedding's rank of `target`, and as many layers as come nearest to its parameters."""
    wanted, flat = shape.narrowed(target).parameters(), replace(shape, rank=target.rank)
    depth = min(range(1, shape.layers + 1), key=lambda k: abs(flat.truncated(k).parameters() - wanted))
    return flat.truncated(depth)


def _sample(total: int, count: int | None, seed: int) -> np.ndarray:
    if count is None or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng([seed, 5]).choice(total, count, replace=False))


def _first(model: Encoder, width: Width) -> tuple[list[range], list[range]]:
    layers = len(model.layers)
    return [range(width.heads)] * layers, [range(width.ffn)] * layers
