"""PABEE: one model with an exit after every layer, left when successive exits agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from bench.context import Context
from bench.encoder import Encoder
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.training.loop import Plan
from bench.training.losses import task_loss


class PabeeOptions(Options):
    """How long and how fast."""

    epochs: Epochs = Field(5, description="Epochs.")
    learning_rate: float = Field(2e-5, gt=0, description="Learning rate, constant throughout.")
    batch_size: BatchSize = Field(32, description="Batch size.")


class Pabee(Method):
    """PABEE (Zhou et al., NeurIPS 2020, arXiv 2006.04152): patience-based early exit.

    Every layer's output goes through one shared pooler to a classifier of its own; all are fine-tuned
    together with the backbone, in one stage and without distillation. An example leaves once `patience` exits
    in a row have repeated the prediction before them (STS-B: predictions closer than a tolerance).
    """

    Options = PabeeOptions
    policy = "patience"

    def variants(self) -> Sequence[str]:
        return ["full"]

    def label(self, variant: str) -> str:
        return self.titled("PABEE", "pabee")

    def train(self, context: Context, variant: str) -> Encoder:
        model = context.backbone("pooler", exits="all")
        context.fit(model, weighted_loss, self._plan, "finetune", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        return [Stage(self._plan, examples, self.backbone, selects=True)]

    @property
    def _plan(self) -> Plan:
        options = self.options
        return Plan(options.epochs, options.learning_rate, options.batch_size, warmup=0, schedule="constant")


def weighted_loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    """The losses of all exits, later ones weighing more: sum_j j L_j / sum_j j (section 3.3, equation 5)."""
    exits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).exit_logits
    losses = torch.stack([task_loss(logits, batch["labels"]) for logits in exits])
    weights = torch.arange(1, len(losses) + 1, device=losses.device, dtype=losses.dtype)
    return (weights * losses).sum() / weights.sum()
