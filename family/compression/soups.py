"""Sparse Model Soups: prune, train several copies of equal shape, average them; again until the model is small."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from bench.analysis.metrics import scores
from bench.analysis.points import predictions
from bench.context import Context
from bench.encoder import Encoder, Width
from bench.encoder.cut import cut
from bench.encoder.layers.bert import Layer
from bench.measuring.recording import record
from bench.method import BatchSize, Epochs, Method, Needed, Options, Stage
from bench.settings import LearningRate
from bench.training.loop import Plan
from bench.training.losses import task_loss


class SoupsOptions(Options):
    """Options of Sparse Model Soups."""

    keep: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.5], min_length=1, description="Fraction of heads and neurons that is left, a variant each."
    )
    phases: int = Field(2, ge=1, le=100, description="Rounds of pruning and training.")
    copies: int = Field(3, ge=1, le=100, description="Models that are trained in each phase (authors: 3, 5 or 10).")
    greedy: bool = Field(False, description="Whether a copy enters the average only if the selection split gains.")
    epochs: Epochs = Field(3, description="Epochs of each copy in each phase.")
    learning_rate: LearningRate = Field(2e-5, description="Peak learning rate, linear decay after 10 % warm-up.")
    batch_size: BatchSize = Field(32, description="Batch size.")
    teacher: str = Field("teacher", description="The contestant whose model is pruned.")


class Soups(Method):
    """Sparse Model Soups (Zimmer et al., ICLR 2024, arXiv 2306.16788), structured.

    Section 3: in each of P phases 1 - (1 - s)^(1/P) of what is left is pruned by magnitude, where s is the final
    sparsity; m copies of the pruned model are trained, which differ in one thing, here the seed (order of batches and
    dropout); their average, which has the same mask, enters the next phase. `uniform` soups average all copies, greedy
    ones add a copy, in the order of the scores, if the score on the selection split does not fall.

    Own choices: whole heads and neurons are pruned in equal numbers in each layer, by the Euclidean norm of their
    weights, so that the model is smaller without sparse products.
    """

    Options = SoupsOptions

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return [f"keep{each:g}" for each in self.options.keep]

    def starts_from(self, variant: str) -> Needed:
        """Return the model that is pruned."""
        return Needed(self.options.teacher, "full")

    def check(self) -> None:
        """Raise UserError for a backbone of another layout than BERT's."""
        self.backbone_of_bert()

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled(f"Sparse Soups {variant[4:]} (structured, own choice)", "soups")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        model = context.model(self.options.teacher, "full").requires_grad_(True)
        for phase, width in enumerate(self._widths(variant), start=1):
            model = pruned(model, width.heads, width.ffn)
            copies = [copy.deepcopy(model) for _ in range(self.options.copies)]
            for number, each in enumerate(copies, start=1):
                context.fit(each, supervised, self._plan, f"phase-{phase}-copy-{number}")
            model = self._soup(context, copies)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant: those of all copies."""
        shapes = [self.backbone.narrowed(width) for width in self._widths(variant)]
        return [Stage(self._plan, examples, shape) for shape in shapes for _ in range(self.options.copies)]

    def _soup(self, context: Context, copies: Sequence[Encoder]) -> Encoder:
        if not self.options.greedy:
            return averaged(copies)

        def scored(model: Encoder) -> float:
            trace = record(model, context.selection, self.settings.training.eval_batch_size)
            return float(scores(self.task, predictions(trace, self.task), trace.labels)[self.task.metrics[0]][-1])

        return greedy_soup(copies, scored)

    def _widths(self, variant: str) -> list[Width]:
        """Return the width of the layers after each phase."""
        shape, phases, keep = self.backbone, self.options.phases, float(variant.removeprefix("keep"))
        left = [keep ** (phase / phases) for phase in range(1, phases + 1)]
        sizes = [[max(1, round(part * most)) for most in (shape.heads[0], shape.ffn[0])] for part in left]
        return [Width(heads, neurons, shape.rank or shape.hidden) for heads, neurons in sizes]

    @property
    def _plan(self) -> Plan:
        return Plan(self.options.epochs, self.options.learning_rate, self.options.batch_size)


def magnitudes(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return the squared norms of the weights of each head [h] and of each neuron [f] of a layer, without biases."""
    rows = [part.weight for part in (layer.query, layer.key, layer.value)]
    heads = torch.stack([weight.square().sum(1) for weight in (*rows, layer.attention_output.weight.T)]).sum(0)
    neurons = layer.ffn_in.weight.square().sum(1) + layer.ffn_out.weight.square().sum(0)
    return heads.unflatten(0, (-1, layer.head_size)).sum(1).detach(), neurons.detach()


def pruned(model: Encoder, heads: int, neurons: int) -> Encoder:
    """Return a copy of an encoder with the `heads` and `neurons` of the largest norm in each layer."""
    kept: tuple[list, list] = ([], [])
    for layer in cast("list[Layer]", model.stack):
        for place, values, count in zip(kept, magnitudes(layer), (heads, neurons), strict=True):
            place.append(sorted(torch.argsort(values, descending=True, stable=True)[:count].tolist()))
    return cut(model, *kept)


def averaged(models: Sequence[Encoder]) -> Encoder:
    """Return a copy of the first model with the mean of the weights of all."""
    made, states = copy.deepcopy(models[0]), [model.state_dict() for model in models]
    made.load_state_dict({key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]})
    return made


def greedy_soup(models: Sequence[Encoder], scored) -> Encoder:
    """Return the greedy soup (Wortsman et al., ICML 2022): the best model, averaged with those that do not harm it."""
    first = [scored(model) for model in models]
    best, *others = sorted(range(len(models)), key=lambda i: -first[i])
    taken, score = [models[best]], first[best]
    for i in others:
        if (with_it := scored(averaged([*taken, models[i]]))) >= score:
            taken, score = [*taken, models[i]], with_it
    return averaged(taken)


def supervised(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    """Return the loss of the task."""
    return task_loss(
        model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits, batch["labels"]
    )
