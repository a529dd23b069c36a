"""A contestant of one's own, in one file: every other layer of the backbone, an exit after each, trained together."""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from bench.context import Context
from bench.encoder import Encoder
from bench.encoder.cut import take_layers
from bench.method import Method, Options, Stage
from bench.training.loop import Plan
from bench.training.losses import over_exits, task_loss


class EveryOtherOptions(Options):
    """Each option has a sentence; a task may have values of its own in the profile."""

    epochs: float = Field(3, gt=0, description="Epochs.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")


class EveryOther(Method):
    """Layers 2, 4, ... of the backbone with the sum of all exits' losses; leaves when the entropy is low.

    The exits are DeeBERT's (Xin et al., ACL 2020), trained jointly; dropping layers follows Sajjad et al. (2023).
    """

    Options = EveryOtherOptions
    policy = "entropy"

    def variants(self) -> Sequence[str]:
        return ["half"]

    def label(self, variant: str) -> str:
        return "Every other layer"

    def train(self, context: Context, variant: str) -> Encoder:
        model = context.backbone("tanh", exits="all")
        kept = range(1, len(model.layers), 2)
        model = take_layers(model, kept, exits=range(1, len(kept) + 1))
        context.fit(model, joint, self._plan, "joint", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """For the forecast: one training, of half the layers."""
        return [Stage(self._plan, examples, self.backbone.truncated(self.backbone.layers // 2), selects=True)]

    @property
    def _plan(self) -> Plan:
        return Plan(self.options.epochs, self.options.learning_rate)


def joint(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    """Sum over exits of the task's loss."""
    output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return over_exits(task_loss, output.exit_logits, batch["labels"])
