"""Plain fine-tuning: the teacher, and the backbone cut at depth k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from bench.context import Context
from bench.encoder import Encoder
from bench.encoder.backbones import shape_of
from bench.encoder.cut import take_layers
from bench.errors import UserError
from bench.method import Method, Options
from bench.training.loop import Plan
from bench.training.losses import task_loss


class FinetunedOptions(Options):
    """How long and how fast; and, for cut-at-depth models, which depths."""

    head: Literal["tanh", "pooler", "tinybert", "distilbert"] = Field("pooler", description="The classifier's form.")
    epochs: float = Field(3, gt=0, description="Epochs.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate, linear decay after 10 % warm-up.")
    batch_size: int = Field(32, ge=1, description="Batch size.")
    depths: list[int] = Field([], description="Layers kept, one variant each; empty: all, the teacher.")


class Finetuned(Method):
    """BERT fine-tuned on one task (Devlin et al., NAACL 2019, section 4.1), whole or its first k layers.

    Cut at depth k, with the teacher as the whole depth, is the reference of the ELUE score (Liu et al.,
    ElasticBERT, NAACL 2022).
    """

    Options = FinetunedOptions

    def variants(self) -> Sequence[str]:
        return [f"depth{depth}" for depth in self.options.depths] or ["full"]

    def check(self) -> None:
        backbone = self.settings.backbone
        layers = shape_of(backbone.name, backbone.revision).layers
        for depth in self.options.depths:
            if not 1 <= depth <= layers:
                raise UserError(f"contestants.{self.name}.options.depths: {depth} of a backbone with {layers} layers")

    def asked(self, variant: str) -> dict[str, Any]:
        """Not the other depths: another one more retrains nothing."""
        asked = super().asked(variant)
        return asked | {"depths": bool(asked["depths"])}

    def label(self, variant: str) -> str:
        return f"{self.name} at depth {self._depth(variant)}" if self.options.depths else self.name

    def train(self, context: Context, variant: str) -> Encoder:
        options = self.options
        model = context.backbone(options.head)
        if options.depths:
            model = take_layers(model, range(self._depth(variant)))
        plan = Plan(options.epochs, options.learning_rate, options.batch_size)
        context.fit(model, supervised, plan, "finetune", select=True)
        return model

    def _depth(self, variant: str) -> int:
        return int(variant.removeprefix("depth"))


def supervised(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    """The task's own loss on the last exit."""
    return task_loss(
        model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits, batch["labels"]
    )
