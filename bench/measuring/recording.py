"""Recording a trace: one pass over a split with every exit on."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.encoder import Cascade, Encoder
from bench.errors import UserError
from bench.tasks.batches import collate, length_batches
from bench.tasks.examples import Examples
from bench.trace import Trace

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def record(model: Encoder | Cascade, examples: Examples, batch_size: int, bfloat16: bool = False) -> Trace:
    """One evaluation pass with every exit on, on the model's device.

    In float32 without autocast, as every trace that is kept; with bfloat16 products where only a choice hangs on it.
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
    """What a model reads of the examples at `positions`: padded tensors [B, n] on `device`."""
    batch = collate([examples[int(i)] for i in positions])
    return {name: batch[name].to(device) for name in MODEL_INPUTS}
