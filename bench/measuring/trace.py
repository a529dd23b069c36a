"""The trace: the logits of every exit on every example of a split, recorded once and replayed ever after."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.encoder import Cascade, Encoder
from bench.errors import UserError
from bench.tasks.batches import collate, length_batches
from bench.tasks.examples import Examples

_METADATA = b"bench.trace"
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Trace:
    """What a trained model says about a split; rows in the order of the examples."""

    idx: NDArray[np.int64]
    """[N] the source's own row numbers."""
    labels: NDArray[Any]
    """[N] int64 class ids, or float32 values for regression; -1 where hidden."""
    lengths: NDArray[np.int64]
    """[N] tokens of each example, special ones included."""
    difficulty: NDArray[np.int64] | None
    """[N] 1 easy, 2 medium, 3 hard, where the source knows."""
    logits: NDArray[np.float32]
    """[E, N, C] of every exit; C is 1 for regression."""

    def save(self, path: Path) -> None:
        """One parquet row an example: idx, label, length, difficulty, exit_1 .. exit_E (C float32 each).

        Exact, and atomic: a reader sees the old file or the new one.
        """
        exits, count, outputs = self.logits.shape
        columns: dict[str, pa.Array] = {
            "idx": pa.array(self.idx),
            "label": pa.array(self.labels),
            "length": pa.array(self.lengths),
            "difficulty": pa.nulls(count, pa.int64()) if self.difficulty is None else pa.array(self.difficulty),
        }
        for e, logits in enumerate(self.logits, start=1):
            values = pa.array(np.ascontiguousarray(logits, dtype=np.float32).reshape(-1))
            columns[f"exit_{e}"] = pa.FixedSizeListArray.from_arrays(values, outputs)
        shape = json.dumps({"exits": exits, "outputs": outputs}).encode()
        table = pa.table(columns).replace_schema_metadata({_METADATA: shape})
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            pq.write_table(table, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> "Trace":
        """The trace saved at `path`; UserError where the file is missing, broken or not a trace."""
        try:
            table = pq.read_table(path)
            shape = json.loads(table.schema.metadata[_METADATA])
            exits, outputs = shape["exits"], shape["outputs"]
            logits = np.empty((exits, table.num_rows, outputs), dtype=np.float32)
            for e in range(exits):
                column = table.column(f"exit_{e + 1}").combine_chunks()
                logits[e] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, outputs)
            difficulty = table.column("difficulty")
            return cls(
                idx=table.column("idx").to_numpy(),
                labels=table.column("label").to_numpy(),
                lengths=table.column("length").to_numpy(),
                difficulty=None if difficulty.null_count else difficulty.to_numpy(),
                logits=logits,
            )
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            what = "no trace" if isinstance(error, FileNotFoundError) else f"not a readable trace ({error})"
            raise UserError(f"{path}: {what}; delete it if it is there and record the run again") from error


def record(model: Encoder | Cascade, examples: Examples, batch_size: int) -> Trace:
    """One evaluation pass with every exit on: float32 without autocast, on the model's device."""
    batches = length_batches(examples.lengths, batch_size, None)
    if not batches:
        raise UserError("no examples to record: the split is empty")
    parts = []
    was_training = model.training
    model.eval()
    with torch.inference_mode(), torch.autocast(model.device.type, enabled=False):
        for positions in batches:
            output = model(**model_inputs(examples, positions, model.device))
            parts.append(output.exit_logits.float().cpu().numpy())
    model.train(was_training)
    logits = np.concatenate(parts, axis=1)[:, np.argsort(np.concatenate(batches))]
    return Trace(examples.idx, examples.labels, examples.lengths, examples.difficulty, logits)


def model_inputs(examples: Examples, positions: NDArray[np.int64], device: torch.device) -> dict[str, Tensor]:
    """What a model reads of the examples at `positions`: padded tensors [B, n] on `device`."""
    batch = collate([examples[int(i)] for i in positions])
    return {name: batch[name].to(device) for name in MODEL_INPUTS}
