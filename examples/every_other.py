"""A method in one file: every other layer of the backbone with an exit after each, trained together."""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from bench.context import Context
from bench.encoder import Encoder
from bench.encoder.cut import take_layers
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.training.loop import Plan
from bench.training.losses import over_exits, task_loss


class EveryOtherOptions(Options):
    """Options, each with a description. A profile can set other values for single tasks."""

    epochs: Epochs = Field(3, description="Epochs.")
    batch_size: BatchSize = Field(32, description="Batch size.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")


class EveryOther(Method):
    """Layers 2, 4, ... of the backbone, trained with the sum of the losses of all exits; entropy is the exit policy.

    The exits are those of DeeBERT (Xin et al., ACL 2020). Layers are dropped as by Sajjad et al. (2023).
    """

    Options = EveryOtherOptions
    policy = "entropy"

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return ["half"]

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return "Every other layer"

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        model = context.backbone("tanh", exits="all")
        kept = range(1, len(model.layers), 2)
        model = take_layers(model, kept, exits=range(1, len(kept) + 1))
        context.fit(model, joint, self._plan, "joint", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return one stage that trains half of the layers."""
        return [Stage(self._plan, examples, self.backbone.truncated(self.backbone.layers // 2), selects=True)]

    @property
    def _plan(self) -> Plan:
        return Plan(self.options.epochs, self.options.learning_rate, self.options.batch_size)


def joint(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    """Return the sum of the losses of all exits."""
    output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return over_exits(task_loss, output.exit_logits, batch["labels"])
