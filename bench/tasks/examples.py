"""Tokenised examples of a task's splits."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.tasks.catalogue import Task

__all__ = ["Examples", "TaskData"]


@dataclass(frozen=True)
class Examples:
    """One split, tokenised but not padded; a map-style data set for a torch DataLoader."""

    idx: NDArray[np.int64]
    """[N] row numbers in the source's split, from 0; those of a test split are the source's own."""
    labels: NDArray[Any]
    """[N] int64 class ids, or for regression float32 scores on the scale of 0 to 5 (`bench.tasks.catalogue.SCALE`); -1,
    or NaN for regression, where hidden."""
    input_ids: list[list[int]]
    segments: list[list[int]]
    """0 for the first text and 1 for the second, one a token."""
    difficulty: NDArray[np.int64] | None = None
    """[N] 1 easy, 2 medium, 3 hard, where the source knows."""
    groups: NDArray[np.int64] | None = None
    """[N] equal for rows that hang together by their text (train and what is set apart from it); -1 for common ones."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each example, special ones included."""
        return np.fromiter((len(ids) for ids in self.input_ids), dtype=np.int64, count=len(self))

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One example for `collate`; its `idx` is the position here, which finds its row in a trace."""
        return {
            "input_ids": self.input_ids[position],
            "token_type_ids": self.segments[position],
            "labels": self.labels[position],
            "idx": position,
        }

    def take(self, indices: Iterable[int]) -> "Examples":
        """The examples at these positions, in this order."""
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
    """All splits of a task, ready to train and measure on."""

    task: Task
    splits: dict[str, Examples]
    """train, calibration (where choices are made on it), validation, test, and MNLI's validation_mismatched and
    test_mismatched."""
    missing: tuple[str, ...]
    """Names of the splits that the source does not have."""
    fingerprint: str
    """Short hash of the text, labels and order of train, calibration and the validation splits."""
    left_out: int = 0
    """Training rows in no split: they share a group with a row that was set apart."""
    quality: dict[str, Any] = field(default_factory=dict)
    """What is known of the rows and of what is not clean in them, as plain values (`bench.tasks.quality`)."""
