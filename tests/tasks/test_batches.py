import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from bench.tasks.batches import collate, length_batches
from bench.tasks.examples import Examples

lengths = st.lists(st.integers(3, 128), min_size=1, max_size=300)


def examples(sizes: list[int], labels: np.ndarray) -> Examples:
    ids = [list(range(1, size + 1)) for size in sizes]
    return Examples(np.arange(len(sizes)) + 100, labels, ids, [[0] * size for size in sizes])


@given(lengths, st.integers(1, 40), st.none() | st.integers(0, 9))
def test_batches_partition_the_examples(sizes: list[int], batch_size: int, seed: int | None) -> None:
    batches = length_batches(sizes, batch_size, None if seed is None else np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(sizes)))
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


@given(st.integers(0, 99))
def test_training_batches_waste_little_padding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 100, 3000)
    batches = length_batches(sizes, 32, rng)
    padded = sum(len(batch) * sizes[batch].max() for batch in batches)
    assert padded < 1.25 * sizes.sum()


def test_evaluation_is_longest_first_and_training_differs_by_epoch() -> None:
    sizes = np.random.default_rng(0).integers(5, 100, 500)
    ordered = np.concatenate(length_batches(sizes, 16, None))
    assert (np.diff(sizes[ordered]) <= 0).all()
    rng = np.random.default_rng(0)
    first, second = length_batches(sizes, 16, rng), length_batches(sizes, 16, rng)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    again = length_batches(sizes, 16, np.random.default_rng(0))
    assert all((one == two).all() for one, two in zip(first, again, strict=True))


def test_collate_pads_to_the_longest_and_keeps_positions() -> None:
    split = examples([2, 3], np.array([1, 0]))
    batch = next(iter(DataLoader(split, batch_size=2, collate_fn=collate)))
    assert batch["input_ids"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["token_type_ids"].shape == (2, 3)
    assert batch["idx"].tolist() == [0, 1]
    assert batch["labels"].dtype == batch["idx"].dtype == torch.int64


def test_regression_labels_stay_float() -> None:
    split = examples([2, 3], np.array([0.5, 2.5], dtype=np.float32))
    batch = collate([split[0], split[1]], pad_id=9)
    assert batch["labels"].dtype == torch.float32
    assert batch["input_ids"][0].tolist() == [1, 2, 9]


def test_take() -> None:
    split = examples([2, 3, 4], np.array([0, 1, 0]))
    taken = split.take([2, 0])
    assert taken.lengths.tolist() == [4, 2]
    assert taken.idx.tolist() == [102, 100]
    assert len(split.take([])) == 0
