"""The word embedding while it trains: only the rows that the examples use."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.encoder.model import Embeddings
from bench.errors import UserError
from bench.tasks.examples import Examples


class UsedWords:
    """Trains the used rows of a word embedding in place of the whole table.

    A row that no example uses has no gradient, ever: of AdamW's step only the weight decay is left, a factor. So the
    gradient, its norm and the optimizer need the used rows alone, and the factor is applied when the table is read:
    the same update as on the whole table, but for rounding, and half of a small model's parameters are not touched in
    every step. While the table is in training mode its output comes from `rows`; in eval mode from the table itself,
    which `write_back` makes current.
    """

    def __init__(self, table: nn.Embedding, used: Tensor) -> None:
        self.table, self.used = table, used
        self.rows = nn.Parameter(table.weight.detach()[used])
        self.place = torch.full((table.num_embeddings,), -1, device=used.device)
        self.place[used] = torch.arange(len(used), device=used.device)
        padding = table.padding_idx
        self.padding = None if padding is None else int(self.place[padding])
        self.factor = 1.0
        self.unknown = torch.zeros((), dtype=torch.bool, device=used.device)
        self._hook = table.register_forward_hook(self._forward)

    @classmethod
    def of(cls, model: nn.Module, examples: Examples) -> list[UsedWords]:
        """One for each word embedding of the suite's encoders in `model` that is to be trained."""
        tables = [part.words for part in model.modules() if isinstance(part, Embeddings)]
        ids = np.unique(np.fromiter(chain.from_iterable(examples.input_ids), dtype=np.int64))
        found = []
        for table in tables:
            if table.weight.requires_grad:
                used = np.union1d(ids, [0 if table.padding_idx is None else table.padding_idx, 0])
                found.append(cls(table, torch.from_numpy(used).to(table.weight.device)))
        return found

    def _forward(self, table: nn.Module, inputs: Sequence[Any], output: Tensor) -> Tensor:
        if not table.training:
            return output
        places = self.place[inputs[0]]
        self.unknown |= (places < 0).any()
        return F.embedding(places.clamp(min=0), self.rows, self.padding)

    def decayed(self, factor: float) -> None:
        """Notes a step's weight decay for the rows that are not trained."""
        self.factor *= factor

    @torch.no_grad()
    def write_back(self) -> None:
        """Makes the table what it would be, had it been trained whole."""
        self.table.weight.mul_(self.factor)
        self.table.weight[self.used] = self.rows.detach()
        self.factor = 1.0

    def check(self) -> None:
        """Raises UserError where the loss used more of the table than the examples' own rows; synchronises."""
        if self.table.weight.grad is not None or bool(self.unknown):
            raise UserError(
                "the loss uses words that no training example holds, or the word embedding itself; "
                "give context.fit whole_vocabulary=True"
            )

    def close(self) -> None:
        self._hook.remove()
