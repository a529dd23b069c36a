"""Compare the answers of a written model with those of its operating point."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples

_BATCH = 32


@dataclass(frozen=True)
class Agreement:
    """Answers of a written model, against those of the operating point.

    Attributes:
        predictions: [N] class ids, or scores of a regression on the scale of 0 to 5.
        labels: [N] labels of the examples, likewise.
        other_predictions: Number of examples whose class differs, or whose score differs by 0.001 or more.
        other_exits: Number of examples that exit elsewhere.
    """

    predictions: NDArray[np.float64]
    labels: NDArray[Any]
    other_predictions: int
    other_exits: int

    def summary(self) -> str:
        """Return the numbers in words."""
        return (
            f"of {len(self.predictions)} validation examples {self.other_predictions} have another prediction and "
            f"{self.other_exits} another exit"
        )


def runner(folder: Path) -> ModuleType:
    """Return the module `run.py` of a folder that `bench.deploy.writing.write` wrote."""
    spec = importlib.util.spec_from_file_location(f"run_{abs(hash(folder))}", folder / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    exec(compile((folder / "run.py").read_text("utf-8"), folder / "run.py", "exec"), module.__dict__)  # no __pycache__
    return module


def padded(examples: Examples, positions: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the examples at `positions` as input_ids, attention_mask and token_type_ids [B, n]."""
    lengths = np.array([len(examples.input_ids[i]) for i in positions])
    ids, mask, types = np.zeros((3, len(positions), lengths.max()), dtype=np.int64)
    for row, i in enumerate(positions):
        ids[row, : lengths[row]], types[row, : lengths[row]] = examples.input_ids[i], examples.segments[i]
        mask[row, : lengths[row]] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def compare(folder: Path, examples: Examples, predictions: NDArray[np.float64], exits: NDArray[np.int64]) -> Agreement:
    """Run a written model on examples, in batches of similar length.

    Args:
        folder: The folder of the model.
        examples: N examples.
        predictions: [N] what the operating point predicts, as in `Agreement`.
        exits: [N] where the examples exit at that point, 0-based.
    """
    run = runner(folder)
    found, left = np.empty(len(examples)), np.empty(len(examples), dtype=np.int64)
    for positions in length_batches(examples.lengths, _BATCH, None):
        logits, left[positions] = run.answer(padded(examples, positions))
        scores = (logits[:, 0] - run.MODEL["shift"]) / run.MODEL["factor"]
        found[positions] = logits.argmax(axis=1) if logits.shape[1] > 1 else scores
    other = ~(np.abs(found - predictions) < 1e-3)  # NaN is another answer
    return Agreement(found, examples.labels, int(other.sum()), int((left != exits + 1).sum()))
