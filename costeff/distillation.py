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
    """Distillation from a frozen teacher to a student.

    A teacher with one exit is the target of every exit of the student; otherwise the target of an exit is the teacher's
    exit at the same level.

    Attributes:
        teacher: The teacher.
        equilibrium: Whether gradients of exits are averaged in training (`scale_gradient`).
        hidden: Whether hidden states are distilled.
        prediction: Whether predictions are distilled.
        exits: The student's exits (0-based) in the loss; None: all.
        levels: The teacher's hidden level (0: output of the embeddings) for each of the student's; None: the same ones.
    """

    teacher: FrozenTeacher
    equilibrium: bool = True
    hidden: bool = True
    prediction: bool = True
    exits: Sequence[int] | None = None
    levels: Sequence[int] | None = None

    def representations(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return the MSE of hidden states (steps 2a and 4)."""
        output, target = self._outputs(model, batch)
        return self._hidden(output.hidden_states, target, batch)

    def predictions(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return the soft cross-entropy against the teacher, summed over exits, plus hidden-state MSE (step 5)."""
        output, target = self._outputs(model, batch)
        loss = output.exit_logits.new_zeros(())
        if self.prediction:
            loss = loss + over_exits(soft_loss, *self._exits(output.exit_logits, target))
        if self.hidden:
            loss = loss + self._hidden(output.hidden_states, target, batch)
        return loss

    def while_slenderising(self, first: float):
        """Return the loss of a period: hidden states alone in the fraction `first` of its steps, then both (step 3)."""

        def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
            alone = self.hidden and progress < first
            return (self.representations if alone else self.predictions)(model, batch, progress)

        return loss

    def importance(self, model: Encoder, batch: dict[str, Tensor]) -> Tensor:
        """Return 0.9 x soft cross-entropy + 0.1 x cross-entropy, both summed over exits, + MSE of hidden states.

        The sum over all exits is the paper's calibration of pruning (section 3.1).
        """
        output, target = self._outputs(model, batch)
        logits, taught = self._exits(output.exit_logits, target)
        soft, hard = over_exits(soft_loss, logits, taught), over_exits(task_loss, logits, batch["labels"])
        return 0.9 * soft + 0.1 * hard + self._hidden(output.hidden_states, target, batch)

    def _outputs(self, model: Encoder, batch: dict[str, Tensor]):
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
    """Return the loss of step 2b: half of the soft cross-entropy plus half of the cross-entropy, summed over exits.

    The target of the soft cross-entropy is the teacher's first exit.
    """

    def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        logits = model(
            batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], equilibrium=equilibrium
        ).exit_logits
        soft = over_exits(soft_loss, logits, teacher(batch).logits[0])
        return (soft + over_exits(task_loss, logits, batch["labels"])) / 2

    return loss
