"""What a device is fed: the batches of the schedule, in order, made one ahead where that helps."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import examples

from bench.tasks.batches import collate
from bench.training.feeding import ahead, feed


@given(st.lists(st.integers(), max_size=8))
def test_ahead_is_map(items):
    assert list(ahead(lambda item: item + 1, items)) == [item + 1 for item in items]


def test_the_next_batch_is_prepared_in_advance():
    made = {item: threading.Event() for item in range(3)}

    def make(item: int) -> int:
        made[item].set()
        return item

    found = ahead(make, range(3))
    assert next(found) == 0 and made[1].wait(10) and not made[2].is_set()


def test_an_error_comes_where_its_item_would():
    found = ahead(lambda item: 1 // item, [1, 0, 1])
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_cpu_is_fed_the_schedule():
    given, schedule = examples(20), [[3, 1], [2], [0, 19, 7]]
    for rows, batch in zip(schedule, feed(given, schedule, torch.device("cpu")), strict=True):
        wanted = collate([given[i] for i in rows])
        assert batch.keys() == wanted.keys() and all(torch.equal(batch[key], wanted[key]) for key in batch)
