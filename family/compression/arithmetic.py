"""One model for all tasks by task arithmetic or by the average of the fine-tuned models, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from bench.context import Context
from bench.encoder import Encoder, EncoderConfig
from bench.method import Options
from family.compression.smile import Smile


class ArithmeticOptions(Options):
    """Options of task arithmetic."""

    scales: list[Annotated[float, Field(gt=0, le=2)] | None] = Field(
        [None], description="Factors of the sum of the differences; null: 1 / number of tasks, the average."
    )
    tasks: list[str] | None = Field(None, min_length=1, description="Tasks of the one model; null: all of the profile.")
    teacher: str = Field("teacher", description="The contestant whose models are merged.")


class TaskArithmetic(Smile):
    """Task arithmetic (Ilharco et al., ICLR 2023, arXiv 2212.04089), a control of SMILE.

    The weights are W_pre + a x sum over tasks of (W_ft - W_pre), embeddings and LayerNorm included. With a = 1 / number
    of tasks they are the average of the fine-tuned weights.
    Own choices: a is fixed (not chosen on held-out data); classifier and dense layer are those of the known task.
    """

    Options = ArithmeticOptions  # type: ignore[assignment]
    version = 1

    def variants(self) -> Sequence[str]:
        """Return "average", or the factor, of each model."""
        scales = self.options.scales if self.task.name in self.merged_tasks else []
        return ["average" if scale is None else f"{scale:g}" for scale in scales]

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        title, usual = ("average", "average") if variant == "average" else (f"task arithmetic {variant}", "arithmetic")
        return self.titled(f"{title}, one model for {len(self.merged_tasks)} tasks", usual)

    def train(self, context: Context, variant: str) -> Encoder:
        """Merge the models of all tasks and return the one model, with the classifier of the task."""
        tuned = {task: context.model(self.options.teacher, "full", task) for task in self.merged_tasks}
        own, scale = tuned[self.task.name], self.options.scales[self.variants().index(variant)]
        return added(context.backbone(own.config.head), own, list(tuned.values()), scale or 1 / len(tuned))


def added(pretrained: Encoder, own: Encoder, tuned: Sequence[Encoder], scale: float) -> Encoder:
    """Return pretrained + scale x the sum of the differences of fine-tuned models, with the classifier of `own`."""
    start, weights, states = pretrained.state_dict(), own.state_dict(), [each.state_dict() for each in tuned]
    for key in weights:
        if key.startswith(("embeddings.", "layers.")):
            weights[key] = start[key] + scale * sum(state[key] - start[key] for state in states)
    model = Encoder(EncoderConfig.from_dict(own.config.to_dict() | {"all_tasks": True})).to(own.device)
    model.load_state_dict(weights)
    return model
