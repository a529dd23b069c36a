"""DeeBERT: the backbone is fine-tuned first; then exits are trained on the frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from baselines.finetuned import supervised
from bench.context import Context
from bench.encoder import Encoder
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.settings import LearningRate
from bench.training.loop import Plan
from bench.training.losses import over_exits, task_loss


class DeeBertOptions(Options):
    """Options of DeeBERT."""

    epochs: Epochs = Field(3, description="Epochs of fine-tuning the backbone (authors: 3).")
    exit_epochs: Epochs = Field(3, description="Epochs of the exits (authors: as many).")
    learning_rate: LearningRate = Field(2e-5, description="Learning rate of the first step of both, linear decay.")
    batch_size: BatchSize = Field(32, description="Batch size of both (authors: 8).")


class DeeBert(Method):
    """DeeBERT (Xin et al., ACL 2020, arXiv 2004.12993): two-stage training, entropy as exit policy.

    Section 3.2: the backbone and the last exit are fine-tuned; then everything but the other exits is frozen and these
    are trained with the sum of their losses, sum_{i<n} L_i. Section 3.3: an example exits where the entropy of the
    prediction is below a threshold.

    As in the authors' code, each exit has a pooler of its own, which starts from the checkpoint's if it has one. There
    is neither warm-up nor weight decay.

    Own choices: the learning rate of the exits is that of the backbone, and not tuned; on regression the policy is the
    agreement of successive predictions; each stage keeps its best epoch (authors: the second one its last), and the
    second one clips the gradient of the exits alone (authors: with that of the backbone).
    """

    Options = DeeBertOptions
    version = 2
    policy = "entropy"

    def check(self) -> None:
        """Raise UserError for a backbone of one layer."""
        if self.backbone.layers < 2:
            raise UserError(f"contestants.{self.name}: a backbone of one layer has no exit before the last; use more")

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled("DeeBERT", "deebert")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        model = context.backbone("own-pooler", exits="all")
        backbone, exits = self._plans
        model.exit_heads[:-1].requires_grad_(False)
        context.fit(model, supervised, backbone, "backbone", select=[-1])
        model.requires_grad_(False)
        model.exit_heads[:-1].requires_grad_(True)
        context.fit(model, early_exits, exits, "exits", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return both stages; in the second one the layers are frozen."""
        backbone, exits = self._plans
        frozen = self.backbone.layers / 3
        return [
            Stage(backbone, examples, self.backbone, selects=True),
            Stage(exits, examples, self.backbone, selects=True, depth=frozen),
        ]

    @property
    def _plans(self) -> tuple[Plan, Plan]:
        """Plans of the two stages."""
        options = self.options
        return (
            Plan(options.epochs, options.learning_rate, options.batch_size, warmup=0, weight_decay=0),
            Plan(options.exit_epochs, options.learning_rate, options.batch_size, warmup=0, weight_decay=0),
        )


def early_exits(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    """Return the sum of the losses of all exits but the last (equation 2)."""
    output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return over_exits(task_loss, output.exit_logits[:-1], batch["labels"])
