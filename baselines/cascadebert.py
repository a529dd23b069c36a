"""CascadeBERT: a cascade of a small and a big model; examples with low confidence continue to the big model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from baselines.finetuned import supervised
from bench.analysis.points import predictions
from bench.context import Context
from bench.encoder import Cascade, Encoder
from bench.encoder.backbones import shape_of
from bench.encoder.cut import take_layers
from bench.errors import UserError
from bench.measuring.recording import record
from bench.method import BatchSize, Epochs, Method, Needed, Options, Stage
from bench.settings import Checkpoint, Layers, LearningRate, Settings
from bench.tasks.catalogue import Task
from bench.tasks.groups import folds
from bench.training.loop import Loss, Plan
from bench.training.losses import hidden_loss, task_loss
from bench.training.targets import FrozenTeacher


class CascadeBertOptions(Options):
    """Options of CascadeBERT: the two members, and the training of the small one."""

    big: str = Field("teacher", description="The contestant that is the big member.")
    small: Checkpoint | None = Field(
        None, description="Checkpoint of the small member; null: the first layers of the backbone."
    )
    small_layers: Layers = Field(2, description="Number of first layers of the backbone in the small member.")
    distil: Literal["hidden", "none"] = Field(
        "hidden",
        description="hidden: these layers first learn the backbone's last hidden states on the task's text.",
    )
    distil_epochs: Epochs = Field(3, description="Epochs of the hidden-state distillation.")
    distil_rate: LearningRate = Field(5e-5, description="Peak learning rate of the hidden-state distillation.")
    folds: int = Field(5, ge=2, le=100, description="Folds of train, each predicted by a model trained on the others.")
    fold_epochs: Epochs = Field(5, description="Epochs of each fold model.")
    epochs: Epochs = Field(5, description="Epochs of the small member.")
    learning_rate: LearningRate = Field(
        2e-5,
        description="Initial learning rate of the small member and the folds; decays linearly to 0 (authors' code).",
    )
    batch_size: BatchSize = Field(16, description="Batch size.")
    margin: float = Field(
        0.5, ge=0, le=1, description="Required difference in confidence between easy and hard examples."
    )
    difficulty_weight: float = Field(0.5, ge=0, le=1000, description="Lambda of the difficulty-aware loss; 0: none.")


class CascadeBert(Method):
    """CascadeBERT (Li et al., Findings of EMNLP 2021, arXiv 2012.14682): a cascade of two complete models.

    The loss of the paper, CE(small) + CE(big) + lambda DAR(small), has no term that depends on both members. The big
    member is therefore the fine-tuned teacher, and only the small one is trained. As in the authors' code, the learning
    rate of the small member decays linearly to 0 without warm-up, there is no weight decay, and the last weights are
    kept.

    For the difficulty-aware regularization (DAR), an example is easy if a small model that is fine-tuned on the other
    folds classifies it correctly. Folds have no text in common. The ensemble of the paper is trained on the examples
    that it classifies; on small tasks nearly all of them would be easy.

    Without a pretrained small checkpoint, the small member consists of the first layers of the backbone, which are
    first trained to reproduce the backbone's last hidden states on the text of the task (`distil: hidden`), or not
    (`distil: none`, the better one for MiniLM, docs/tuning.md). This uses no labels, so the folds remain valid. The
    label of the contestant mentions it. On regression there is no confidence, so there is no exit policy and both
    members are static points.
    """

    Options = CascadeBertOptions
    version = 2
    policy = "confidence"

    def __init__(self, name: str, task: Task, options: CascadeBertOptions, settings: Settings) -> None:
        super().__init__(name, task, options, settings)
        if task.regression:
            self.policy = "none"

    def check(self) -> None:
        """Raise UserError for options that do not fit the backbone."""
        kept = self.options.small_layers
        if self.options.small:
            shape_of(self.options.small)
        layers = kept + 1 if self.options.small else self.backbone.layers
        if kept >= layers:
            raise UserError(
                f"contestants.{self.name}.options.small_layers: {kept} of the backbone's {layers} layers; use fewer"
            )

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the models that training depends on."""
        return [Needed(self.options.big, "full")]

    def checkpoints(self, variant: str) -> Sequence[str]:
        """Return the pretrained checkpoints other than the backbone."""
        return [self.options.small] if self.options.small else []

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        title = "CascadeBERT" + ("" if self.options.small else " (truncated small member)")
        title = self.titled(title, "cascadebert")
        return f"{title} without exit policy" if self.task.regression else title

    def train(self, context: Context, variant: str) -> Cascade:
        """Train a variant and return its model."""
        options = self.options
        big = context.model(options.big, "full")
        small = self._start(context)
        loss: Loss = supervised
        if self._difficulty:
            loss = DifficultyAware(self._easy(context, small), options.margin, options.difficulty_weight)
        context.fit(small, loss, self._plan(options.epochs), "small")
        return Cascade.of(small, big).to(context.device)

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant."""
        options, whole = self.options, self.backbone
        small = shape_of(options.small) if options.small else whole.truncated(options.small_layers)
        found = [Stage(self._plan(options.epochs), examples, small)]
        if self._completes:
            found += [Stage(self._distil, examples, small, kept=whole)]
        if self._difficulty:  # the folds differ by one example
            parts = [len(part) for part in np.array_split(np.arange(examples), options.folds)]
            found += [Stage(self._plan(options.fold_epochs), examples - part, small, auxiliary=True) for part in parts]
        return found

    @property
    def _difficulty(self) -> bool:
        """Whether the difficulty-aware loss is used; on regression it is not, since there is no confidence."""
        return self.options.difficulty_weight > 0 and not self.task.regression

    @property
    def _completes(self) -> bool:
        """Whether the small member learns the backbone's output on the task's text."""
        return not self.options.small and self.options.distil == "hidden"

    @property
    def _distil(self) -> Plan:
        return Plan(self.options.distil_epochs, self.options.distil_rate, self.options.batch_size)

    def _plan(self, epochs: float) -> Plan:
        """Return the plan of the small member and the folds (authors' code: no warm-up, no weight decay)."""
        return Plan(epochs, self.options.learning_rate, self.options.batch_size, warmup=0, weight_decay=0)

    def _start(self, context: Context) -> Encoder:
        """Return the small member before its training on labels."""
        options = self.options
        if options.small:
            return context.backbone("pooler", name=options.small)
        whole = context.backbone("pooler")
        small = take_layers(whole, range(options.small_layers))
        if self._completes:
            context.fit(small, last_hidden(context.teacher(whole, hidden=True)), self._distil, "complete")
        return small

    def _easy(self, context: Context, start: Encoder) -> NDArray[np.bool_]:
        """Return a mask [N] of the examples that `start`, fine-tuned on the other folds, classifies correctly."""
        options, train = self.options, context.train
        groups = np.arange(len(train)) if train.groups is None else train.groups
        try:
            parts = folds(groups, options.folds, context.seed)
        except UserError as error:
            raise UserError(f"contestants.{self.name}.options.folds: {error}") from None
        plan = self._plan(options.fold_epochs)
        easy = np.zeros(len(train), dtype=bool)
        for number, fold in enumerate(parts, start=1):
            model = copy.deepcopy(start)
            others = np.setdiff1d(np.arange(len(train)), fold)
            context.fit(model, supervised, plan, f"fold-{number}", train=train.take(others))
            size, bfloat16 = self.settings.training.eval_batch_size, context.machine.bfloat16
            trace = record(model, train.take(fold), size, bfloat16)
            easy[fold] = predictions(trace, self.task)[-1] == trace.labels
        return easy


def last_hidden(teacher: FrozenTeacher) -> Loss:
    """Return a loss: the mean squared error of the last hidden states against the teacher's, over real tokens."""

    def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], output_hidden_states=True)
        return hidden_loss(output.hidden_states[-1:], teacher(batch).hidden[-1:], batch["attention_mask"])

    return loss


class DifficultyAware:
    """Loss of the small member: cross-entropy + weight x difficulty-aware regularization (section 3.3).

    Args:
        easy: Mask [N] of the easy training examples.
        margin: Margin of `difficulty_loss`.
        weight: Weight lambda of the regularization.
    """

    def __init__(self, easy: NDArray[np.bool_], margin: float, weight: float) -> None:
        self.easy, self.margin, self.weight = torch.from_numpy(easy), margin, weight

    def __call__(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a batch."""
        logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits
        easy = self.easy[batch["idx"].cpu()].to(logits.device)
        return task_loss(logits, batch["labels"]) + self.weight * difficulty_loss(logits, easy, self.margin)


def difficulty_loss(logits: Tensor, easy: Tensor, margin: float) -> Tensor:
    """Compute the difficulty-aware regularization of a batch (section 3.3).

    Each easy example is paired with a random hard example. The loss is the mean over easy examples of
    max(0, margin - (confidence of the easy example - confidence of the hard example)). The confidence is the largest
    class probability. Hard examples are drawn from torch's global generator, which a resumed stage restores.

    Args:
        logits: Logits [B, C].
        easy: Mask [B] of the easy examples.
        margin: Difference in confidence above which the loss is 0.

    Returns:
        Scalar; 0 if the batch has no easy or no hard example.
    """
    confidence = F.softmax(logits.float(), dim=-1).amax(dim=-1)
    sure, unsure = confidence[easy], confidence[~easy]
    if not len(sure) or not len(unsure):
        return logits.new_zeros(())
    drawn = torch.randint(len(unsure), (len(sure),)).to(logits.device)
    return F.relu(margin - (sure - unsure[drawn])).mean()
