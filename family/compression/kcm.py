"""Retraining-free pruning (Kwon et al.): mask search, rearrangement and rescaling, without any training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from bench.context import Context
from bench.encoder import Encoder
from bench.encoder.cut import cut
from bench.encoder.layers.attention import attention_bias
from bench.encoder.layers.bert import Layer
from bench.errors import UserError
from bench.method import Method, Needed, Options, Stage
from bench.tasks.batches import collate, length_batches
from bench.training.losses import task_loss


class Part(Options):
    """Cost of the attention (units: heads) or the FFN (units: neurons) of one layer."""

    floor: float = Field(gt=0, le=1e11, description="Milliseconds with at most `free` units.")
    free: int = Field(1, ge=1, le=2**18, description="Units up to which the time does not grow.")
    slope: float = Field(gt=0, le=1e11, description="Milliseconds of each further unit.")


class KcmOptions(Options):
    """Options of KCM; each budget is a fraction of the cost of the teacher's layers, and a variant."""

    flops: list[Annotated[float, Field(gt=0, lt=1)]] = Field([], description="Of FLOPs, at train's mean length.")
    latency: list[Annotated[float, Field(gt=0, lt=1)]] = Field([], description="Of latency, by `attention` and `ffn`.")
    attention: Part | None = Field(None, description="Measured latency of attention, by its heads.")
    ffn: Part | None = Field(None, description="Measured latency of the FFN, by its neurons.")
    teacher: str = Field("teacher", description="The contestant whose model is pruned.")
    examples: int = Field(2048, ge=1, le=10**6, description="Training examples that are read (authors: 2,048).")


class Kcm(Method):
    """Retraining-free pruning (Kwon et al., NeurIPS 2022, arXiv 2204.09656): heads and neurons, no training.

    Section 4: mask search (squared gradients by the masks of heads and neurons, the diagonal of the Fisher information
    I, rank them under the budget), rearrangement (units of a layer are exchanged for a smaller (1 - m)^T I (1 - m)),
    rescaling (least squares bring each layer's outputs close to the teacher's). Masked units are cut out.
    Own choices: gradients of single examples, as in the paper (authors' code: of batches); a layer keeps a head and a
    neuron, or `free` units (authors: none); all heads are rescaled, without intercept, to match the teacher on tokens
    that exits read, by an exact damped solution (docs/family.md has the authors').
    """

    Options = KcmOptions

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return [f"{kind}-{each:g}" for kind in ("flops", "latency") for each in getattr(self.options, kind)]

    def check(self) -> None:
        """Raise UserError for a budget that cannot be met, or a backbone of another layout than BERT's."""
        self.backbone_of_bert()
        if self.options.latency and not (self.options.attention and self.options.ffn):
            raise UserError(f"contestants.{self.name}.options.latency: it needs attention and ffn; add them")
        longest = self.settings.data.of(self.task.name).max_length[len(self.task.columns) - 1]
        for variant in self.variants():
            parts, total = self._costs(variant, longest)
            if self.backbone.layers * sum(part.floor for part in parts) > total:
                raise UserError(f"contestants.{self.name}.options: {variant} is too small for any model; use more")

    def starts_from(self, variant: str) -> Needed:
        """Return the model that is pruned."""
        return Needed(self.options.teacher, "full")

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled(f"KCM {variant}, no training", "kcm")

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return no training: about 6 forward passes of the teacher and 4 of the small model for each example read."""
        scored = min(examples, self.options.examples) * (6 + 4 * float(variant.partition("-")[2])) / 3  # 3 passes each
        return [Stage.untrained(self.backbone, examples, round(scored))]

    def train(self, context: Context, variant: str) -> Encoder:
        """Prune the teacher and return the smaller model."""
        teacher = context.model(self.options.teacher, "full")
        drawn = np.random.default_rng([context.seed, 41]).permutation(len(context.train))[: self.options.examples]
        some = context.train.take(np.sort(drawn))
        batches = [collate([some[i] for i in rows]) for rows in length_batches(some.lengths, 32, None)]
        batches = [{key: value.to(context.device) for key, value in batch.items()} for batch in batches]
        fisher = [[each.T @ each for each in kind] for kind in mask_gradients(teacher, batches)]
        scores = [np.stack([each.diagonal().cpu().numpy() for each in kind]) for kind in fisher]
        counts = search(scores, *self._costs(variant, round(float(context.train.lengths.mean()))))
        heads, neurons = ([*map(rearrange, *kind)] for kind in zip(fisher, counts, strict=True))
        return rescale(teacher, cut(teacher, heads, neurons), batches)

    def _costs(self, variant: str, length: int) -> tuple[Sequence[Part], float]:
        """Return the cost of attention and FFN, and the budget of all layers, in multiply-adds or milliseconds."""
        options, shape, (kind, _, fraction) = self.options, self.backbone, variant.partition("-")
        units = (4 * shape.hidden + 2 * length) * shape.head_size * length, 2 * shape.hidden * length
        parts = [options.attention, options.ffn] if kind == "latency" else [Part(floor=n, slope=n) for n in units]
        counts = zip(parts, (shape.heads, shape.ffn), strict=True)
        whole = sum(part.floor + part.slope * max(0, n - part.free) for part, many in counts for n in many)
        return parts, float(fraction) * whole


def recorded(parts: Sequence[nn.Module], module: nn.Module, *given: Any) -> list[Any]:
    """Return the inputs of the parts of a module, in the order of computation, and the module's output for `given`."""
    seen: list[Any] = []
    hooks = [part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for part in parts]
    seen.append(module(*given))
    for hook in hooks:
        hook.remove()
    return seen


def mask_gradients(model: Encoder, batches: Sequence[dict[str, Tensor]]) -> list[list[Tensor]]:
    """Return the gradients of each example's loss by the masks of heads, and of neurons: of each layer [N, units]."""
    layers, size = cast("list[Layer]", model.stack), model.config.head_size
    parts = [part for layer in layers for part in (layer.attention_output, layer.ffn_out)]
    found: list[list[Tensor]] = [[] for _ in parts]
    for batch in batches:
        *inputs, output = recorded(parts, model, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        slopes = torch.autograd.grad(task_loss(output.logits, batch["labels"]) * len(output.logits), inputs)
        for i, (values, slope) in enumerate(zip(inputs, slopes, strict=True)):  # a mask of 1 multiplies the input
            each = (values.detach() * slope).sum(1).double()
            found[i].append(each if i % 2 else each.unflatten(1, (-1, size)).sum(2))
    return [[torch.cat(parts) for parts in found[kind::2]] for kind in (0, 1)]


def search(scores: Sequence[np.ndarray], parts: Sequence[Part], total: float) -> list[np.ndarray]:
    """Return how many heads and neurons each layer keeps, both [L]: the largest sum of scores [L, units] in `total`."""
    others = [-np.sort(-each, axis=1)[:, part.free :] for each, part in zip(scores, parts, strict=True)]
    ranked = [np.argsort(-each, axis=None, kind="stable") for each in others]
    sums = [np.append(0.0, each.flat[order].cumsum()) for each, order in zip(others, ranked, strict=True)]
    left = total * (1 + 1e-9) - len(scores[0]) * sum(part.floor for part in parts)
    heads = np.arange(len(sums[0]))
    neurons = np.floor((left - heads * parts[0].slope) / parts[1].slope).astype(int).clip(-1, len(sums[1]) - 1)
    best = int(np.argmax(np.where(neurons >= 0, sums[0] + sums[1][neurons], -np.inf)))
    return [
        each.shape[1] - more.shape[1] + np.bincount(order[:count] // max(1, more.shape[1]), minlength=len(each))
        for each, more, order, count in zip(scores, others, ranked, (best, neurons[best]), strict=True)
    ]


def rearrange(fisher: Tensor, count: int) -> list[int]:
    """Return the `count` units of a layer to keep, given the layer's block I of the Fisher information [K, K].

    The least important ones are masked first. Then, from the least important on, each other unit is added to the mask,
    and the unit (possibly the same) is removed from it without which (1 - m)^T I (1 - m) is smallest.
    """
    own, order = fisher.diagonal(), torch.argsort(fisher.diagonal(), stable=True).tolist()
    masked = order[: len(order) - count]
    sums = fisher[:, masked].sum(1)  # of each unit, over the masked ones
    for unit in order[len(masked) :] if masked else []:
        masked.append(unit)
        sums = sums + fisher[:, unit]
        sums = sums - fisher[:, masked.pop(int((2 * sums[masked] - own[masked]).argmax()))]
    return sorted(set(order) - set(masked))


@torch.no_grad()
def rescale(teacher: Encoder, small: Encoder, batches: Sequence[dict[str, Tensor]]) -> Encoder:
    """Scale the heads and neurons of `small` in place, layer by layer, until a scale is above 10; return `small`."""
    masks, models = [batch["attention_mask"] for batch in batches], (teacher, small.eval())
    states = [[model.embeddings(each["input_ids"], each["token_type_ids"]) for each in batches] for model in models]
    for number, pair in enumerate(zip(*(cast("list[Layer]", model.stack) for model in models), strict=True), 1):
        for at, name, size in ((0, "attention_output", pair[1].head_size), (2, "ffn_out", 1)):
            before, part = (getattr(layer, name) for layer in pair)
            weight = part.weight.double()  # [d, units x size]
            products, targets = weight.new_zeros(2 * weight.shape[1:]), weight.new_zeros(weight.shape[1])
            read = slice(1 if at and number == len(small.stack) and small.config.pooling == "cls" else None)
            for *both, mask in zip(*states, masks, strict=True):
                taught, own = (inputs_of(layer, state, mask) for layer, state in zip(pair, both, strict=True))
                wanted, values = before(taught[at + 1]) + taught[at] - part.bias - own[at], own[at + 1]
                wanted, values = (each[:, read][mask[:, read].bool()].double() for each in (wanted, values))
                products += values.T @ values
                targets += (values * (wanted @ weight)).sum(0)
            grouped = (products * (weight.T @ weight)).unflatten(0, (-1, size)).unflatten(2, (-1, size)).sum((1, 3))
            scales = solve(grouped, targets.unflatten(0, (-1, size)).sum(1))
            if scales.abs().max() > 10:  # the authors' limit
                logging.getLogger(__name__).warning("no rescaling from %s of layer %d on: a scale > 10", name, number)
                return small
            part.weight *= scales.repeat_interleave(size).to(part.weight)
        for layer, state in zip(pair, states, strict=True):
            state[:] = [inputs_of(layer, each, mask)[-1][0] for each, mask in zip(state, masks, strict=True)]
    return small


def inputs_of(layer: Layer, state: Tensor, mask: Tensor) -> list[Any]:
    """Return the inputs of attention, `attention_output`, FFN and `ffn_out` of a layer, and its output."""
    parts = [layer.query, layer.attention_output, layer.ffn_in, layer.ffn_out]
    return recorded(parts, layer, state, attention_bias(mask, state.dtype))


def solve(products: Tensor, targets: Tensor) -> Tensor:
    """Return the scales 1 + x [K] with the smallest |A^T A x - A^T (b - A 1)|^2 + |x|^2 (authors' damping)."""
    values, vectors = torch.linalg.eigh(products)
    return 1 + vectors @ (values / (values.square() + 1) * (vectors.T @ (targets - products.sum(1))))
