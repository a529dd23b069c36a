"""PABEE: a model with an exit after every layer; an example exits when successive exits agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bench.analysis.metrics import scores
from bench.analysis.points import predictions
from bench.context import Context, Criterion
from bench.encoder import Encoder
from bench.exit_policies.policies import Patience, replay_many
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.settings import LearningRate
from bench.tasks.catalogue import Task
from bench.trace import Trace
from bench.training.loop import Plan
from bench.training.losses import task_loss


class PabeeOptions(Options):
    """Options of PABEE; defaults are those of the authors' release."""

    epochs: Epochs = Field(5, description="Epochs (authors' script: 5).")
    learning_rate: LearningRate = Field(2e-5, description="Learning rate of the first step; it decays linearly to 0.")
    batch_size: BatchSize = Field(32, description="Batch size (authors' script: 32).")
    tolerance: float = Field(
        0.1,
        gt=0,
        le=5,
        description="Regression: predictions closer than this agree, on a scale of 0 to 5 (authors: 0.1).",
    )


class Pabee(Method):
    """PABEE (Zhou et al., NeurIPS 2020, arXiv 2006.04152): patience-based early exit.

    Every layer has a classifier of its own behind one shared pooler. All are fine-tuned together with the backbone, in
    one stage and without distillation. As in the authors' release (`bert-loses-patience`), the learning rate decays
    linearly to 0 without warm-up, there is no weight decay, and each checkpoint is scored at every patience: the epoch
    with the highest mean over the patiences 1 to E - 1 is kept, for E exits.

    An example exits when `patience` exits in a row agree with the prediction before them. On regression predictions
    agree if they differ by less than a fixed tolerance.
    """

    Options = PabeeOptions
    version = 2
    policy = "patience"

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled("PABEE", "pabee")

    def exit_policy(self) -> Patience:
        """Return the exit policy."""
        return Patience(self.exit_start(), self.options.tolerance)

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        model = context.backbone("pooler", exits="all")
        criterion = mean_over_patience(self.exit_policy(), self.task)
        context.fit(model, weighted_loss, self._plan, "finetune", select=criterion)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant."""
        return [Stage(self._plan, examples, self.backbone, selects=True)]

    @property
    def _plan(self) -> Plan:
        options = self.options
        return Plan(options.epochs, options.learning_rate, options.batch_size, warmup=0, weight_decay=0)


def mean_over_patience(rule: Patience, task: Task) -> Criterion:
    """Return a criterion: the mean of the ranking metric over the patiences 1 to E - 1; the last is full depth.

    The authors' script prints the score of each checkpoint at each patience and does not define a choice. The mean is
    used here because the same model serves all patiences.
    """

    def criterion(trace: Trace) -> float:
        exits, examples = len(trace.logits), np.arange(len(trace.labels))
        exits_taken = replay_many(rule, trace.logits, np.arange(1, max(2, exits)))
        answers = predictions(trace, task)[exits_taken, examples]
        return float(scores(task, answers, trace.labels)[task.metrics[0]].mean())

    return criterion


def weighted_loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    """Return the weighted mean of the losses of all exits: sum_j j L_j / sum_j j (section 3.3, equation 5)."""
    exits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).exit_logits
    losses = torch.stack([task_loss(logits, batch["labels"]) for logits in exits])
    weights = torch.arange(1, len(losses) + 1, device=losses.device, dtype=losses.dtype)
    return (weights * losses).sum() / weights.sum()
