"""Recording of traces."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.encoder import Cascade, Encoder
from bench.errors import UserError
from bench.tasks.batches import collate, length_batches
from bench.tasks.examples import Examples
from bench.trace import Trace


def record(model: Encoder | Cascade, examples: Examples, batch_size: int, bfloat16: bool = False) -> Trace:
    """Compute every exit of a model for all examples, on the model's device.

    Args:
        model: The model; it is in eval mode meanwhile.
        examples: The examples of a split.
        batch_size: Examples in a batch.
        bfloat16: Whether products are computed in bfloat16; traces that are saved are computed in float32.

    Raises:
        UserError: There are no examples.
    """
    batches = length_batches(examples.lengths, batch_size, None)
    if not batches:
        raise UserError("no examples to record: the split is empty")
    parts, signals = [], []
    was_training = model.training
    model.eval()
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
        for positions in batches:
            output = model(**model_inputs(examples, positions, model.device))
            parts.append(output.exit_logits.float().cpu().numpy())
            if output.signals is not None:
                signals.append(output.signals.float().cpu().numpy())
    model.train(was_training)
    order = np.argsort(np.concatenate(batches))
    logits = np.concatenate(parts, axis=1)[:, order]
    signal = np.concatenate(signals, axis=1)[:, order] if signals else None
    return Trace(examples.idx, examples.labels, examples.lengths, examples.difficulty, logits, signal)


def model_inputs(examples: Examples, positions: NDArray[np.int64], device: torch.device) -> dict[str, Tensor]:
    """Return the model's inputs for the examples at `positions`: padded tensors [B, n] on `device`."""
    batch = collate([examples[int(i)] for i in positions])
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "token_type_ids")}
