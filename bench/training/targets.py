"""What a frozen teacher says of the training examples, computed once and kept where memory allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.tasks.batches import collate, length_batches

if TYPE_CHECKING:
    from bench.encoder import Encoder
    from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Target:
    """A teacher's exit logits [E, B, C] and, where asked for, hidden states, L+1 of [B, n, d], for one batch."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


class FrozenTeacher:
    """A teacher in eval mode whose answers on `examples` are kept if they fit into `budget` bytes.

    Kept answers are computed in one pass over sorted batches, so they do not depend on the order of training: a
    resumed run sees the same numbers. Where they do not fit, each batch is computed when it is asked for. Both are
    float32.
    """

    def __init__(self, model: Encoder, examples: Examples, budget: float, hidden: bool = False, batch_size: int = 64):
        self.model, self.hidden = model.eval().requires_grad_(False), hidden
        levels = len(model.layers) + 1 if hidden else 0
        tokens = int(examples.lengths.sum())
        size = 4 * (tokens * levels * model.config.hidden_size + len(examples) * model.exit_count * model.config.num_labels)
        self.kept: tuple[Tensor, list[Tensor]] | None = None
        if size <= budget:
            self.kept = self._keep(examples, batch_size)

    def __call__(self, batch: dict[str, Tensor]) -> Target:
        """The answers for a collated batch of the examples (its `idx` are positions in them)."""
        if self.kept is None:
            return self._compute(batch)
        logits, states = self.kept
        device = batch["input_ids"].device
        answers = logits[:, batch["idx"].cpu()].to(device)
        if not self.hidden:
            return Target(answers)
        rows = [states[i] for i in batch["idx"].tolist()]
        padded = rows[0].new_zeros(rows[0].shape[0], len(rows), batch["input_ids"].shape[1], rows[0].shape[-1])
        for i, row in enumerate(rows):
            padded[:, i, : row.shape[1]] = row
        return Target(answers, tuple(padded.to(device)))

    @torch.no_grad()
    def _compute(self, batch: dict[str, Tensor]) -> Target:
        with torch.autocast(self.model.device.type, enabled=False):
            output = self.model(
                batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], output_hidden_states=self.hidden
            )
        return Target(output.exit_logits, output.hidden_states or ())

    def _keep(self, examples: Examples, batch_size: int) -> tuple[Tensor, list[Tensor]]:
        logits = torch.empty(self.model.exit_count, len(examples), self.model.config.num_labels)
        states: list[Tensor] = [torch.empty(0)] * (len(examples) if self.hidden else 0)
        for positions in length_batches(examples.lengths, batch_size, None):
            batch = collate([examples[i] for i in positions])
            target = self._compute({key: value.to(self.model.device) for key, value in batch.items()})
            logits[:, positions] = target.logits.cpu()
            if self.hidden:
                stacked = torch.stack(target.hidden).cpu()
                for row, (i, length) in enumerate(zip(positions, batch["attention_mask"].sum(1).tolist(), strict=True)):
                    states[i] = stacked[:, row, :length].clone()
        return logits, states
