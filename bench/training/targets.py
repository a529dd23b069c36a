"""Outputs of a frozen teacher on the training examples, computed once and kept if they fit into memory."""

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
    """Outputs of a teacher for one batch; values at padding have no meaning.

    Attributes:
        logits: [E, B, C], of every exit.
        hidden: Hidden states, L + 1 tensors [B, n, d]; empty if not requested.
        attention: Attention scores before the softmax, L tensors [B, heads, n, n]; empty if not requested.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    attention: tuple[Tensor, ...] = ()


class _Packed:
    """Tensors of all examples, concatenated, so that a batch is read in one gather.

    `rows` is [levels, total, size]; example i has the `counts[i]` rows from `starts[i]` on.

    Args:
        counts: Rows of each example.
        shape: Levels, and the size of a row; 0: a row is one number.
        device: Where they are kept.
    """

    def __init__(self, counts: Tensor, shape: tuple[int, int], device: torch.device) -> None:
        self.starts = torch.cumsum(counts, 0) - counts
        levels, size = shape
        self.rows = torch.empty(levels, int(counts.sum()), *([size] if size else []), device=device)
        self.starts = self.starts.to(device)

    def put(self, where: Tensor, values: Tensor) -> None:
        """Write `values` [L, K, ...] to the rows `where` [K]."""
        self.rows[:, where] = values

    def get(self, where: Tensor) -> Tensor:
        """Return the rows `where` as [L, *where.shape, ...]."""
        return self.rows.index_select(1, where.flatten()).unflatten(1, where.shape)


class FrozenTeacher:
    """A teacher in eval mode whose outputs on `examples` are kept if they fit into `budget` bytes.

    Kept outputs are computed in one pass over batches sorted by length. They do not depend on the order of training,
    so a resumed run reads the same numbers. Outputs that do not fit are computed batch by batch when they are needed.
    They are kept in float32, on the model's device if they take at most half of its free memory.

    Args:
        model: The teacher; it is frozen.
        examples: The training examples.
        budget: Bytes that the outputs may take.
        hidden: Whether hidden states are returned.
        batch_size: Examples in a batch of the pass.
        attention: Whether attention scores are returned.
        layers: Layers (1-based) whose hidden states and attention scores are returned; None: all. Level 0 of the hidden
            states is always returned.
        bfloat16: Whether products are computed in bfloat16, as in training.
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
            self._keep(examples, batch_size, _storage_device(model.device, 4 * numbers))

    def __call__(self, batch: dict[str, Tensor]) -> Target:
        """Return the outputs for a collated batch, whose `idx` are positions in the examples."""
        if not self.kept:
            return self._compute(batch)
        device, length = batch["input_ids"].device, batch["input_ids"].shape[1]
        home = self.logits.device
        rows = batch["idx"].to(home)
        # Padding reads the values of the example's last token.
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
        """Return the index [B, n, n] of each pair of tokens among the n_x x n_x scores of an example."""
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


def _storage_device(device: torch.device, size: int) -> torch.device:
    """Return where `size` bytes are kept: on the device, or on the CPU if they exceed half of its free memory."""
    if device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] / 2:
        return device
    return torch.device("cpu")
