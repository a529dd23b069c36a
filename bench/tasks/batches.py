"""Padded batches of examples of similar length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = ["collate", "length_batches"]

MEGA_BATCH = 50
"""Number of batches that are sorted by length together. More reduce padding, fewer make long epochs more random."""


def collate(batch: Sequence[dict[str, Any]], pad_id: int = 0) -> dict[str, torch.Tensor]:
    """Pad a batch of `Examples` items to its longest.

    Args:
        batch: Items of `Examples`.
        pad_id: Token id of padding.

    Returns:
        input_ids, attention_mask and token_type_ids [B, n] (int64), labels [B] (int64, or float32 for a regression) and
            idx [B] (int64).
    """
    lengths = torch.tensor([len(item["input_ids"]) for item in batch])
    longest = int(lengths.max())

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([[*item[name], *[value] * (longest - len(item[name]))] for item in batch])

    return {
        "input_ids": padded("input_ids", pad_id),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "token_type_ids": padded("token_type_ids", 0),
        "labels": torch.from_numpy(np.stack([item["labels"] for item in batch])),
        "idx": torch.tensor([item["idx"] for item in batch]),
    }


def length_batches(
    lengths: ArrayLike, batch_size: int, generator: np.random.Generator | None
) -> list[NDArray[np.int64]]:
    """Return positions in batches of similar length, each position once; at most one batch is incomplete.

    Args:
        lengths: [N] number of tokens of each example.
        batch_size: Number of positions in a batch.
        generator: Generator for training, where each call returns another random grouping and order. None for
            evaluation: the longest examples come first, so that a lack of memory shows in the first batch.
    """
    size = np.asarray(lengths)
    if generator is None:
        return _cut(np.argsort(-size, kind="stable"), batch_size)
    # Noise on the lengths gives an example different neighbours in each epoch.
    noisy = size * generator.uniform(0.9, 1.1, len(size))
    batches: list[NDArray[np.int64]] = []
    for group in _cut(generator.permutation(len(size)), MEGA_BATCH * batch_size):
        batches += _cut(group[np.argsort(-noisy[group], kind="stable")], batch_size)
    return [batches[i] for i in generator.permutation(len(batches))]


def _cut(positions: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]
