"""Fine-tuning: the teacher, and models of the first k layers of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from bench.context import Context
from bench.encoder import Encoder
from bench.encoder.cut import take_layers
from bench.encoder.exits import ClassifierKind
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Options, Stage, contestant
from bench.runs.training.lineage import lineage, steps_in_all
from bench.settings import Layers, LearningRate
from bench.training.loop import Plan
from bench.training.losses import task_loss


class AsLongAs(Options):
    """A variant of another contestant."""

    contestant: str = Field(description="Its name.")
    variant: str = Field("full", description="Its variant.")


class FinetunedOptions(Options):
    """Options of fine-tuning: length, learning rate and depths."""

    head: ClassifierKind = Field("pooler", description="The classifier's form.")
    epochs: Epochs = Field(3, description="Epochs.")
    learning_rate: LearningRate = Field(2e-5, description="Peak learning rate, linear decay after 10 % warm-up.")
    batch_size: BatchSize = Field(32, description="Batch size.")
    as_long_as: AsLongAs | None = Field(
        None,
        description="Train for as many optimizer steps as this variant has behind its weights "
        "(`bench.runs.training.lineage.steps_in_all`); `epochs` is then ignored.",
    )
    depths: list[Layers] | None = Field(
        None, min_length=1, description="Layers kept, one variant each; null: all, the teacher."
    )


class Finetuned(Method):
    """The backbone, or its first k layers, fine-tuned on one task (Devlin et al., NAACL 2019, section 4.1).

    The models of k layers, with the teacher at full depth, are the baseline of the ELUE score (Liu et al.,
    ElasticBERT, NAACL 2022).
    """

    Options = FinetunedOptions

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return [f"depth{depth}" for depth in self.options.depths or ()] or ["full"]

    def check(self) -> None:
        """Raise UserError for options that do not fit the backbone."""
        layers = self.backbone.layers
        for depth in self.options.depths or ():
            if not 1 <= depth <= layers:
                raise UserError(f"contestants.{self.name}.options.depths: {depth} of a backbone with {layers} layers")
        if self.options.as_long_as:
            if self.settings.training.budget:
                raise UserError(
                    f"contestants.{self.name}.options.as_long_as: training.budget makes trainings equally long; "
                    "remove this, and give the contestant a `share` of the budget"
                )
            self._other()

    def relevant_options(self, variant: str) -> dict[str, Any]:
        """Return the options without the list of depths, so that a new depth does not retrain the others.

        For `as_long_as` the options that determine its number of steps are included.
        """
        options = super().relevant_options(variant)
        if self.options.as_long_as:
            options["as_long_as"] = lineage(self._other(), self.options.as_long_as.variant)
        return options | {"depths": bool(options["depths"])}

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        if self.options.depths:
            return f"{self.titled('first k layers', 'first-layers')}: {self._depth(variant)}"
        longer = self.options.as_long_as or self.settings.contestants[self.name].share > 1
        return self.titled("teacher, long training", "teacher-long") if longer else self.name

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        options = self.options
        model = context.backbone(options.head)
        if options.depths:
            model = take_layers(model, range(self._depth(variant)))
        context.fit(model, supervised, self._plan(len(context.train)), "finetune", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant."""
        shape = self.backbone.truncated(self._depth(variant)) if self.options.depths else self.backbone
        return [Stage(self._plan(examples), examples, shape, selects=True)]

    def _plan(self, examples: int) -> Plan:
        options = self.options
        steps = None
        if options.as_long_as:
            steps = steps_in_all(self._other(), options.as_long_as.variant, examples)
        return Plan(options.epochs, options.learning_rate, options.batch_size, steps=steps)

    def _other(self) -> Method:
        """Return the contestant of `as_long_as`.

        Raises:
            UserError: If it uses `as_long_as` itself, or has no such variant.
        """
        wanted, where = self.options.as_long_as, f"contestants.{self.name}.options.as_long_as"
        if wanted.contestant not in self.settings.contestants:
            there = ", ".join(self.settings.contestants)
            raise UserError(f"{where}.contestant: {wanted.contestant!r} is no contestant; there are {there}")
        other = contestant(self.settings, wanted.contestant, self.task.name)
        if isinstance(other, Finetuned) and other.options.as_long_as:
            raise UserError(f"{where}.contestant: {wanted.contestant} is itself as long as another; name that one")
        if wanted.variant not in other.variants():
            there = ", ".join(other.variants())
            raise UserError(f"{where}.variant: {wanted.contestant} has no {wanted.variant!r}; there are {there}")
        return other

    def _depth(self, variant: str) -> int:
        return int(variant.removeprefix("depth"))


def supervised(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    """Return the loss of the task on the last exit."""
    return task_loss(
        model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits, batch["labels"]
    )
