"""What a frozen teacher says of the training examples, computed once and kept where memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


class _Packed:
    """One tensor of every example, end to end: a batch of them is one gather, on whatever device they lie.

    `rows` [L, total, ...]; example i has `counts[i]` of the `total` from `starts[i]` on.
    """

    def __init__(self, counts: Tensor, shape: tuple[int, int], device: torch.device) -> None:
        """`shape`: levels, and the size of a row (0: a row is one number)."""
        self.starts = torch.cumsum(counts, 0) - counts
        levels, size = shape
        self.rows = torch.empty(levels, int(counts.sum()), *([size] if size else []), device=device)
        self.starts = self.starts.to(device)

    def put(self, where: Tensor, values: Tensor) -> None:
        self.rows[:, where] = values

    def get(self, where: Tensor) -> Tensor:
        """[L, *where.shape, ...]"""
        return self.rows.index_select(1, where.flatten()).unflatten(1, where.shape)


class FrozenTeacher:
    """A teacher in eval mode whose answers on `examples` are kept if they fit into `budget` bytes.

    Kept answers are computed in one pass over sorted batches, so they do not depend on the order of training: a resumed
    run sees the same numbers. Where they do not fit, each batch is computed when it is asked for. The teacher computes
    in the precision of training (`bfloat16`: bfloat16 products), as the student beside it; answers are kept in float32,
    on the model's device as long as they take up to half of its free memory.
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
        bfloat16: bool = False,
    ):
        """`layers` (1-based): whose hidden states and attention scores are given, None: all; level 0 is."""
        self.model, self.hidden, self.attention = model.eval().requires_grad_(False), hidden, attention
        self.bfloat16 = bfloat16
        config = model.config
        self.layers = list(layers) if layers is not None else list(range(1, len(config.heads) + 1))
        self.lengths = torch.from_numpy(examples.lengths.astype(np.int64))
        self.heads = [config.heads[layer - 1] for layer in self.layers]
        numbers = len(examples) * model.exit_count * (config.num_labels or 1)
        numbers += int(self.lengths.sum()) * (len(self.layers) + 1) * config.hidden_size * hidden
        numbers += int((self.lengths**2).sum()) * sum(self.heads) * attention
        self.kept = 4 * numbers <= budget
        if self.kept:
            self._keep(examples, batch_size, _home(model.device, 4 * numbers))

    def __call__(self, batch: dict[str, Tensor]) -> Target:
        """The answers for a collated batch of the examples (its `idx` are positions in them)."""
        if not self.kept:
            return self._compute(batch)
        device, length = batch["input_ids"].device, batch["input_ids"].shape[1]
        home = self.logits.device
        rows = batch["idx"].to(home)
        # Places past an example's end mean nothing: they are read from its last token.
        within = torch.minimum(torch.arange(length, device=home), self.lengths[rows][:, None] - 1)
        hidden: tuple[Tensor, ...] = ()
        attention: tuple[Tensor, ...] = ()
        if self.hidden:
            where = self.states.starts[rows][:, None] + within
            hidden = tuple(self.states.get(where).to(device))
        if self.attention:
            pairs = self.scores.starts[rows][:, None, None] + self._pairs(rows, within)
            found = self.scores.get(pairs).to(device)
            attention = tuple(part.transpose(0, 1) for part in found.split(self.heads))
        return Target(self.logits[:, rows].to(device), hidden, attention)

    def _pairs(self, rows: Tensor, within: Tensor) -> Tensor:
        """[B, n, n] where in an example's n_x x n_x scores each pair of places is."""
        return within[:, :, None] * self.lengths[rows][:, None, None] + within[:, None, :]

    @torch.no_grad()
    def _compute(self, batch: dict[str, Tensor]) -> Target:
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bfloat16):
            output = self.model(
                batch["input_ids"],
                batch["attention_mask"],
                batch["token_type_ids"],
                output_hidden_states=self.hidden,
                output_attention_scores=self.attention,
            )
        return Target(
            output.exit_logits.float(),
            tuple(output.hidden_states[level] for level in [0, *self.layers]) if self.hidden else (),
            tuple(output.attention_scores[layer - 1] for layer in self.layers) if self.attention else (),
        )

    def _keep(self, examples: Examples, batch_size: int, home: torch.device) -> None:
        config = self.model.config
        self.logits = torch.empty(self.model.exit_count, len(examples), config.num_labels, device=home)
        if self.hidden:
            self.states = _Packed(self.lengths, (len(self.layers) + 1, config.hidden_size), home)
        if self.attention:
            self.scores = _Packed(self.lengths**2, (sum(self.heads), 0), home)
        self.lengths = self.lengths.to(home)
        for positions in length_batches(examples.lengths, batch_size, None):
            batch = collate([examples[i] for i in positions])
            target = self._compute({key: value.to(self.model.device) for key, value in batch.items()})
            rows, real = torch.from_numpy(positions).to(home), batch["attention_mask"].bool().to(home)
            self.logits[:, rows] = target.logits.to(home)
            within = torch.arange(real.shape[1], device=home).expand_as(real)
            if self.hidden:
                where = self.states.starts[rows][:, None] + within
                self.states.put(where[real], torch.stack(target.hidden).to(home, torch.float32)[:, real])
            if self.attention:
                pairs = self.scores.starts[rows][:, None, None] + self._pairs(rows, within)
                both = real[:, :, None] & real[:, None, :]
                scores = torch.cat(target.attention, dim=1).transpose(0, 1)
                self.scores.put(pairs[both], scores.to(home, torch.float32)[:, both])


def _home(device: torch.device, size: int) -> torch.device:
    """Where `size` bytes are kept: on the device unless they took more than half of its free memory."""
    if device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] / 2:
        return device
    return torch.device("cpu")
