"""The losses of COST-EFF's stages (section 3.2 of the paper), as functions for the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.encoder import Encoder
from bench.training.losses import hidden_loss, over_exits, soft_loss, task_loss
from bench.training.targets import FrozenTeacher, Target


@dataclass(frozen=True)
class Distillation:
    """What a student learns from a frozen teacher, and how much of it.

    `levels` are the teacher's hidden levels (0 = embedding output) that the student's levels learn from, None where
    both have the same; `exits` the student's exits (0-based) that are in the loss, None for all. A teacher with one
    exit teaches every exit of the student; otherwise exit i learns from the exit at the same level.
    """

    teacher: FrozenTeacher
    equilibrium: bool = True
    hidden: bool = True
    prediction: bool = True
    exits: Sequence[int] | None = None
    levels: Sequence[int] | None = None

    def representations(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Hidden-state distillation alone (steps 2a and 4)."""
        output, target = self._answers(model, batch)
        return self._hidden(output.hidden_states, target, batch)

    def predictions(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Sum over exits of soft CE against the teacher, plus hidden-state MSE (step 5)."""
        output, target = self._answers(model, batch)
        loss = output.exit_logits.new_zeros(())
        if self.prediction:
            loss = loss + over_exits(soft_loss, *self._exits(output.exit_logits, target))
        if self.hidden:
            loss = loss + self._hidden(output.hidden_states, target, batch)
        return loss

    def while_slenderising(self, first: float):
        """The loss of a period: hidden states alone for the fraction `first` of its steps, then both (step 3)."""

        def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
            alone = self.hidden and progress < first
            return (self.representations if alone else self.predictions)(model, batch, progress)

        return loss

    def importance(self, model: Encoder, batch: dict[str, Tensor]) -> Tensor:
        """0.9 x sum over exits of soft CE + 0.1 x sum over exits of hard CE + hidden-state MSE.

        That every exit is in it is the paper's calibration of pruning (section 3.1).
        """
        output, target = self._answers(model, batch)
        logits, taught = self._exits(output.exit_logits, target)
        soft, hard = over_exits(soft_loss, logits, taught), over_exits(task_loss, logits, batch["labels"])
        return 0.9 * soft + 0.1 * hard + self._hidden(output.hidden_states, target, batch)

    def _answers(self, model: Encoder, batch: dict[str, Tensor]):
        output = model(
            batch["input_ids"],
            batch["attention_mask"],
            batch["token_type_ids"],
            output_hidden_states=True,
            equilibrium=self.equilibrium and model.training,
        )
        return output, self.teacher(batch)

    def _exits(self, logits: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        taught = target.logits
        if taught.shape[0] == 1:
            taught = taught.expand_as(logits)
        elif self.levels is not None:
            taught = taught[[level - 1 for level in self.levels[1:]]]
        if self.exits is not None:
            chosen = list(self.exits)
            logits, taught = logits[chosen], taught[chosen]
        return logits, taught

    def _hidden(self, states: tuple[Tensor, ...], target: Target, batch: dict[str, Tensor]) -> Tensor:
        taught = target.hidden if self.levels is None else tuple(target.hidden[level] for level in self.levels)
        return hidden_loss(states, taught, batch["attention_mask"])


def assistant_loss(teacher: FrozenTeacher, equilibrium: bool):
    """Step 2b: (soft CE of every exit against the teacher's one output + hard CE of every exit, summed) / 2."""

    def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        logits = model(
            batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], equilibrium=equilibrium
        ).exit_logits
        soft = over_exits(soft_loss, logits, teacher(batch).logits[0])
        return (soft + over_exits(task_loss, logits, batch["labels"])) / 2

    return loss
