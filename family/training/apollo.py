"""Apollo: training begins with few layers, each step at a drawn depth, and the model grows by copying layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bench.context import Context
from bench.encoder import Encoder
from bench.encoder.cut import take_layers
from bench.encoder.exits import ClassifierKind, pool
from bench.encoder.layers.attention import attention_bias
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.settings import Layers, LearningRate
from bench.training.loop import Plan
from bench.training.losses import task_loss


class ApolloOptions(Options):
    """Options of Apollo."""

    layers: list[Layers] = Field([1, 3, 6], description="Unique layers of each stage (authors: 1, 3, 6, 12 of 12).")
    parts: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.05, 0.2, 0.75], description="Part of the steps of each (authors, for BERT: 0.05, 0.05, 0.15, 0.75)."
    )
    epochs: Epochs = Field(3, description="Epochs of all stages together.")
    learning_rate: LearningRate = Field(2e-5, description="Peak learning rate of every stage.")
    batch_size: BatchSize = Field(32, description="Batch size.")
    head: ClassifierKind = Field("pooler", description="The classifier's form.")

    @model_validator(mode="after")
    def _stages(self) -> ApolloOptions:
        if not self.layers or self.layers != sorted({*self.layers}):
            raise ValueError("layers: give increasing numbers from 1 on, one for each stage")
        if len(self.layers) != len(self.parts) or abs(sum(self.parts) - 1) > 1e-6:
            raise ValueError("parts: give one number above 0 for each stage; their sum is 1")
        return self


class Apollo(Method):
    """Apollo (Pan et al., AAAI 2024, arXiv 2401.09192): progressive training; the axis is the cost of training.

    A stage has u unique layers. Each of its steps runs a depth d between u and L, in which layer i has the weights of
    unique layer floor(i u / d). Low-value-prioritised sampling draws d (`depth_at`): low depths more often, so that
    steps are cheap. Between stages the model grows to the next u by copying neighbouring layers in the same way.

    Own choices, since the paper pretrains from scratch: training is that of the task, with its labels; the first
    stage starts from the backbone's first layers and embeddings; all stages have an optimizer and a warm-up of their
    own, and the rate decays linearly in the last one alone.
    """

    Options = ApolloOptions

    def check(self) -> None:
        """Raise UserError for stages or a layout of the backbone that do not fit."""
        layers, last = self.backbone_of_bert().layers, self.options.layers[-1]
        if last != layers:
            raise UserError(f"contestants.{self.name}.options.layers: the last is {last}; use the backbone's {layers}")

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled("Apollo (fine-tuning, own choice)", "apollo")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        model, plans = context.backbone(self.options.head), self._plans
        final = len(model.layers)
        model = take_layers(model, range(self.options.layers[0]))
        for number, (unique, plan) in enumerate(zip(self.options.layers, plans, strict=True)):
            model = take_layers(model, spread(len(model.layers), unique))
            context.fit(model, AtDepth(final), plan, f"stage-{number + 1}", select=plan is plans[-1])
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the stages; a step costs the mean of the depths that are drawn."""
        shape, plans = self.backbone, self._plans
        found = []
        for unique, plan in zip(self.options.layers, plans, strict=True):
            depth = mean_depth(unique, shape.layers)
            found.append(Stage(plan, examples, shape.truncated(unique), selects=plan is plans[-1], depth=depth))
        return found

    @property
    def _plans(self) -> list[Plan]:
        options = self.options
        *early, last = (
            Plan(options.epochs * part, options.learning_rate, options.batch_size) for part in options.parts
        )
        return [*(replace(plan, schedule="constant") for plan in early), last]


def spread(unique: int, depth: int) -> list[int]:
    """Return for each layer of a model of this depth the unique layer (0-based) whose weights it has."""
    return [i * unique // depth for i in range(depth)]


def _curve(unique: int, layers: int) -> tuple[float, float]:
    """Return m and n of the ratio m / (x + n), which is L / u + 0.4 at x = 0 and 0.6 at x = 1 (authors' code)."""
    begin, end = layers / unique + 0.4, 0.6
    return begin * end / (begin - end), end / (begin - end)


def depth_at(x: float, unique: int, layers: int) -> int:
    """Return the depth of a step for a number x in [0, 1): u times the ratio, from u to L, rounded down."""
    m, n = _curve(unique, layers)
    return min(int(max(m / (x + n), 1.0) * unique), layers)


def mean_depth(unique: int, layers: int) -> float:
    """Return the mean of `depth_at` over x uniform in [0, 1)."""
    m, n = _curve(unique, layers)
    deeper = (m * unique / depth - n for depth in range(unique + 1, layers + 1))
    return unique + sum(min(max(probability, 0.0), 1.0) for probability in deeper)


class AtDepth:
    """Loss of the task at a depth drawn for each step from torch's global generator.

    Args:
        layers: Largest depth L.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def __call__(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a batch."""
        depth = depth_at(torch.rand(()).item(), len(model.layers), self.layers)
        return task_loss(logits_at(model, batch, depth), batch["labels"])


def logits_at(model: Encoder, batch: dict[str, Tensor], depth: int) -> Tensor:
    """Return the logits [B, C] of a model run at some depth, whose layers have the weights of `spread`."""
    hidden, mask = model.embeddings(batch["input_ids"], batch["token_type_ids"]), batch["attention_mask"]
    bias = attention_bias(mask, hidden.dtype)
    for place in spread(len(model.layers), depth):
        hidden, _ = model.layers[place](hidden, bias)
    return model.exit_heads[-1](pool(hidden, mask, model.config.pooling), model.dense)
