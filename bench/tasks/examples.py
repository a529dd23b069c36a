"""Tokenised examples of the splits of a task."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.tasks.catalogue import Task

__all__ = ["Examples", "TaskData"]


@dataclass(frozen=True)
class Examples:
    """A tokenised split without padding; a map-style data set for a torch DataLoader."""

    idx: NDArray[np.int64]
    """[N] row numbers in the split of the source, from 0; in a test split the numbers that the source itself gives."""
    labels: NDArray[Any]
    """[N] int64 class ids, or float32 scores of a regression on the scale of 0 to 5 (`bench.tasks.catalogue.SCALE`).
    Hidden labels are -1, or NaN for a regression."""
    input_ids: list[list[int]]
    segments: list[list[int]]
    """For each token, 0 in the first text and 1 in the second."""
    difficulty: NDArray[np.int64] | None = None
    """[N] 1 easy, 2 medium, 3 hard; None if the source does not record it."""
    groups: NDArray[np.int64] | None = None
    """[N] equal for rows with related text, -1 for rows with common text; only for train and splits taken from it."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] number of tokens of each example, special tokens included."""
        return np.fromiter((len(ids) for ids in self.input_ids), dtype=np.int64, count=len(self))

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one example for `collate`. Its `idx` is its position here, which is also its row in a trace."""
        return {
            "input_ids": self.input_ids[position],
            "token_type_ids": self.segments[position],
            "labels": self.labels[position],
            "idx": position,
        }

    def take(self, indices: Iterable[int]) -> "Examples":
        """Return the examples at these positions, in this order."""
        chosen = np.fromiter(indices, dtype=np.int64)
        return Examples(
            idx=self.idx[chosen],
            labels=self.labels[chosen],
            input_ids=[self.input_ids[i] for i in chosen],
            segments=[self.segments[i] for i in chosen],
            difficulty=None if self.difficulty is None else self.difficulty[chosen],
            groups=None if self.groups is None else self.groups[chosen],
        )


@dataclass(frozen=True)
class TaskData:
    """All splits of a task, tokenised."""

    task: Task
    splits: dict[str, Examples]
    """Split -> examples. The splits are train, calibration (if choices are made on it), validation, test, and MNLI's
    validation_mismatched and test_mismatched."""
    missing: tuple[str, ...]
    """Names of splits that the source does not have."""
    fingerprint: str
    """Short hash of the text, labels and order of train, calibration and the validation splits."""
    left_out: int = 0
    """Number of training rows in no split, because they share a group with a row of a held-out split."""
    quality: dict[str, Any] = field(default_factory=dict)
    """Statistics and problems of the data, as plain values (`bench.tasks.quality`)."""
