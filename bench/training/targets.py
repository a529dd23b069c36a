"""What a frozen teacher says of the training examples, computed once and kept where memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.tasks.batches import collate, length_batches

if TYPE_CHECKING:
    from bench.encoder import Encoder
    from bench.tasks.examples import Examples


@dataclass(frozen=True)
class Target:
    """A teacher's exit logits [E, B, C] and, where asked for, hidden states, L+1 of [B, n, d], and
    attention scores before the softmax, L of [B, heads, n, n], for one batch. What they hold at padding
    means nothing."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    attention: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class _Kept:
    """Answers on all examples: logits [E, N, C]; of each, hidden [L+1, n, d], attention [L, heads, n, n]."""

    logits: Tensor
    hidden: list[Tensor]
    attention: list[Tensor]


class FrozenTeacher:
    """A teacher in eval mode whose answers on `examples` are kept if they fit into `budget` bytes.

    Kept answers are computed in one pass over sorted batches, so they do not depend on the order of
    training: a resumed run sees the same numbers. Where they do not fit, each batch is computed when it
    is asked for. Both are float32.
    """

    def __init__(
        self,
        model: Encoder,
        examples: Examples,
        budget: float,
        hidden: bool = False,
        batch_size: int = 64,
        attention: bool = False,
        layers: Sequence[int] | None = None,
    ):
        """`layers` (1-based): whose hidden states and attention scores are given, None: all; level 0 is."""
        self.model, self.hidden, self.attention = model.eval().requires_grad_(False), hidden, attention
        config = model.config
        self.layers = list(layers) if layers is not None else list(range(1, len(config.heads) + 1))
        lengths = examples.lengths.astype(np.int64)
        numbers = len(examples) * model.exit_count * (config.num_labels or 1)
        numbers += int(lengths.sum()) * (len(self.layers) + 1) * config.hidden_size * hidden
        numbers += int((lengths**2).sum()) * sum(config.heads[layer - 1] for layer in self.layers) * attention
        self.kept = self._keep(examples, batch_size) if 4 * numbers <= budget else None

    def __call__(self, batch: dict[str, Tensor]) -> Target:
        """The answers for a collated batch of the examples (its `idx` are positions in them)."""
        if self.kept is None:
            return self._compute(batch)
        rows, device, length = batch["idx"].tolist(), batch["input_ids"].device, batch["input_ids"].shape[1]
        return Target(
            self.kept.logits[:, rows].to(device),
            _padded([self.kept.hidden[i] for i in rows], (1,), length, device) if self.hidden else (),
            _padded([self.kept.attention[i] for i in rows], (2, 3), length, device) if self.attention else (),
        )

    @torch.no_grad()
    def _compute(self, batch: dict[str, Tensor]) -> Target:
        with torch.autocast(self.model.device.type, enabled=False):
            output = self.model(
                batch["input_ids"],
                batch["attention_mask"],
                batch["token_type_ids"],
                output_hidden_states=self.hidden,
                output_attention_scores=self.attention,
            )
        return Target(
            output.exit_logits,
            tuple(output.hidden_states[level] for level in [0, *self.layers]) if self.hidden else (),
            tuple(output.attention_scores[layer - 1] for layer in self.layers) if self.attention else (),
        )

    def _keep(self, examples: Examples, batch_size: int) -> _Kept:
        logits = torch.empty(self.model.exit_count, len(examples), self.model.config.num_labels)
        hidden: list[Tensor] = [torch.empty(0)] * (len(examples) if self.hidden else 0)
        attention: list[Tensor] = [torch.empty(0)] * (len(examples) if self.attention else 0)
        for positions in length_batches(examples.lengths, batch_size, None):
            batch = collate([examples[i] for i in positions])
            target = self._compute({key: value.to(self.model.device) for key, value in batch.items()})
            logits[:, positions] = target.logits.cpu()
            states = torch.stack(target.hidden).cpu() if self.hidden else None
            scores = torch.stack(target.attention).cpu() if self.attention else None
            for row, i in enumerate(positions):
                n = len(examples.input_ids[i])
                if states is not None:
                    hidden[i] = states[:, row, :n].clone()
                if scores is not None:
                    attention[i] = scores[:, row, :, :n, :n].clone()
        return _Kept(logits, hidden, attention)


def _padded(rows: list[Tensor], axes: tuple[int, ...], length: int, device: torch.device) -> tuple[Tensor, ...]:
    """Each example's [L, ...] padded with zeros to `length` along its token axes -> L of [B, ...]."""
    shape = [length if axis in axes else size for axis, size in enumerate(rows[0].shape)]
    padded = rows[0].new_zeros(shape[0], len(rows), *shape[1:])
    for i, row in enumerate(rows):
        where: list[Any] = [slice(None), i, *(slice(size) for size in row.shape[1:])]
        padded[tuple(where)] = row
    return tuple(padded.to(device))
