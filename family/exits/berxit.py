"""BERxiT: alternating fine-tuning, and a learned certainty of each exit as exit policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.special import expit
from torch import Tensor

from bench.context import Context
from bench.encoder import Encoder
from bench.errors import UserError
from bench.exit_policies.policies import Policy
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.settings import LearningRate
from bench.training.loop import Plan
from bench.training.losses import over_exits, task_loss


class Certainty(Policy):
    """Exit when the learned certainty sigmoid(signal) > threshold; a threshold of 1 is full depth."""

    name = "certainty"
    version = 2

    def statistic(
        self, logits: NDArray[np.floating], signal: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        """Return the certainty at each exit, [exits, examples]."""
        if signal is None:
            raise UserError("certainty is read from a signal, and this model gives none: make it with signal=True")
        return expit(signal.astype(np.float64))

    def decide(self, statistic: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each example exits."""
        return statistic > np.asarray(threshold)

    def thresholds(self, count: int, exits: int, outputs: int) -> NDArray[np.float64]:
        """Return thresholds from 0 to 1, evenly spaced."""
        return np.linspace(0, 1, count)


class BerxitOptions(Options):
    """Options of BERxiT."""

    epochs: Epochs = Field(3, description="Epochs.")
    learning_rate: LearningRate = Field(2e-5, description="Learning rate of the first step, linear decay.")
    batch_size: BatchSize = Field(32, description="Batch size (authors: 8).")


class Berxit(Method):
    """BERxiT (Xin et al., EACL 2021): alternating fine-tuning and a learned exit policy.

    Every layer has an exit. Odd steps train the last exit only, even steps all exits (section 3.2). One linear head,
    shared by all exits, predicts from the input of the exit whether its prediction is correct (section 4); on
    regression its target is 1 - tanh(|error|). Its squared error, the mean over exits and examples, is part of the
    loss of every step (authors' code).

    As in the authors' code, each exit has a pooler of its own, which starts from the checkpoint's if it has one. There
    is neither warm-up nor weight decay.

    Own choices: the certainty head reads the hidden state before the pooler (authors' code: after it); even steps train
    the last exit too, as in the paper (authors' code with the certainty head: all others); the best epoch is the one
    with the best mean over exits; classifiers without a gradient are not updated (authors: moved by momentum).
    """

    Options = BerxitOptions
    version = 3
    policy = Certainty

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled("BERxiT", "berxit")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        model = context.backbone("own-pooler", exits="all", signal=True)
        steps = self._plan.step_count(len(context.train))
        context.fit(model, Alternating(steps), self._plan, "alternating", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant."""
        return [Stage(self._plan, examples, self.backbone, selects=True)]

    @property
    def _plan(self) -> Plan:
        options = self.options
        return Plan(options.epochs, options.learning_rate, options.batch_size, warmup=0, weight_decay=0)


class Alternating:
    """Loss of a step: that of the last exit or of all exits, and that of the certainty head.

    Args:
        steps: Number of steps of the stage.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a batch; the first step trains the last exit only."""
        output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        labels = batch["labels"]
        trusted = torch.stack([trust(logits, labels) for logits in output.exit_logits])
        certainty = F.mse_loss(torch.sigmoid(output.signals.float()), trusted)
        if round(progress * self.steps) % 2 == 0:  # the first step, the third, ...
            return task_loss(output.logits, labels) + certainty
        return over_exits(task_loss, output.exit_logits, labels) + certainty


@torch.no_grad()
def trust(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the target of the certainty [B]: 1 for a correct prediction, else 0; on regression 1 - tanh(|error|)."""
    if logits.shape[-1] == 1:
        return 1 - torch.tanh((logits.float().squeeze(-1) - labels.float()).abs())
    return (logits.argmax(-1) == labels).float()
