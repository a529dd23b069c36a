"""Training of only those rows of the word embedding that the examples use."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.encoder.model import Encoder
from bench.errors import UserError
from bench.tasks.examples import Examples


class UsedWords:
    """The rows of a word embedding that the examples use, as a parameter that is trained in place of the whole table.

    A row that no example uses has no gradient, so AdamW multiplies it by a factor for the weight decay in each step and
    does nothing else. The optimizer therefore updates `rows` alone, and the product of the factors is applied to the
    other rows when the table is read. Up to rounding the update is that of the whole table, which in a small model
    holds half of all parameters. In training mode the table's output comes from `rows`; in eval mode it comes from the
    table, which `write_back` updates.

    Args:
        table: The word embedding.
        used: Sorted ids of the rows that the examples use.
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
        """Return one for each trainable word embedding of the suite's encoders in `model`."""
        tables = [part.embeddings.words for part in model.modules() if isinstance(part, Encoder)]
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
        """Record the weight decay of a step for the rows that are not used."""
        self.factor *= factor

    @torch.no_grad()
    def write_back(self) -> None:
        """Write the trained rows, and the decay of the other rows, to the table."""
        self.table.weight.mul_(self.factor)
        self.table.weight[self.used] = self.rows.detach()
        self.factor = 1.0

    def check(self) -> None:
        """Check that the loss used no other rows of the table; waits for the device.

        Raises:
            UserError: The loss used other rows, or the table itself.
        """
        if self.table.weight.grad is not None or bool(self.unknown):
            raise UserError(
                "the loss uses the word embedding itself, or words that do not occur in the training examples; "
                "call context.fit with whole_vocabulary=True"
            )

    def close(self) -> None:
        """Remove the hook from the table."""
        self._hook.remove()
