"""Shared weights: one layer that is used several times, with an exit after each use, distilled from the teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from bench.context import Context
from bench.encoder import Encoder, EncoderConfig
from bench.method import BatchSize, Epochs, Method, Needed, Options, Stage
from bench.settings import LearningRate
from bench.training.loop import Plan
from bench.training.losses import over_exits, soft_loss, task_loss
from bench.training.targets import FrozenTeacher


class SharedOptions(Options):
    """Options of shared weights."""

    teacher: str = Field("teacher", description="The contestant that is its teacher.")
    epochs: Epochs = Field(3, description="Epochs of distillation.")
    learning_rate: LearningRate = Field(2e-5, description="Peak learning rate, linear decay after 10 % warm-up.")
    batch_size: BatchSize = Field(32, description="Batch size.")
    soft_weight: float = Field(0.5, ge=0, le=1, description="Weight of the teacher's predictions; the rest: labels.")


class Shared(Method):
    """One layer used L times, with an exit after each use: a parameter-shared encoder.

    The paper behind the idea, arXiv 2310.12818 ("Boosting Inference Efficiency"), makes inference of models that share
    parameters cheaper; there is no code, and nothing of it is reproduced. Everything is an own choice: the layer starts
    as the mean of the backbone's layers (`averaged`); every exit learns, in one stage, `soft_weight` x the teacher's
    predictions + (1 - `soft_weight`) x the labels (soft and plain cross-entropy, or squared errors), summed over exits;
    entropy is the exit policy.
    """

    Options = SharedOptions
    policy = "entropy"

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the teacher."""
        return [Needed(self.options.teacher, "full")]

    def check(self) -> None:
        """Raise UserError for a backbone of another layout than BERT's."""
        self.backbone_of_bert()

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled("Shared layers (own choice)", "shared")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        teacher = context.teacher(context.model(self.options.teacher, "full"))
        model = averaged(context.backbone("tanh", exits="all"))
        context.fit(model, Distilled(teacher, self.options.soft_weight), self._plan, "distil", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant."""
        return [Stage(self._plan, examples, self.backbone, selects=True, kept=self.backbone)]

    @property
    def _plan(self) -> Plan:
        return Plan(self.options.epochs, self.options.learning_rate, self.options.batch_size)


def averaged(model: Encoder) -> Encoder:
    """Return a copy of an encoder whose layers all have the mean of its layers' weights, stored once."""
    shared = Encoder(EncoderConfig.from_dict(model.config.to_dict() | {"shared": True})).to(model.device)
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("layers.")}
    layers = [layer.state_dict() for layer in model.layers]
    for key in layers[0]:
        weights[f"layers.0.{key}"] = torch.stack([layer[key] for layer in layers]).mean(0)
    shared.load_state_dict(weights)
    return shared


class Distilled:
    """Loss of a step: the sum over exits of the distance to the teacher's predictions and to the labels.

    Args:
        teacher: The teacher; its last exit is the target.
        soft_weight: Weight of the first of the two; that of the second is the rest.
    """

    def __init__(self, teacher: FrozenTeacher, soft_weight: float) -> None:
        self.teacher, self.soft_weight = teacher, soft_weight

    def __call__(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a batch."""
        exits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).exit_logits
        soft = over_exits(soft_loss, exits, self.teacher(batch).logits[-1])
        return self.soft_weight * soft + (1 - self.soft_weight) * over_exits(task_loss, exits, batch["labels"])
