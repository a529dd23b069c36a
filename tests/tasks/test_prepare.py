from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from bench.analysis.metrics import hidden
from bench.errors import UserError
from bench.settings import Data
from bench.tasks.catalogue import TASKS, task
from bench.tasks.examples import Examples, TaskData
from bench.tasks.prepare import prepare, survey

SIZES = {"train": 120, "validation": 60, "test": 30}


@pytest.fixture
def prepared(tokenizer: PreTrainedTokenizerFast) -> Callable[..., TaskData]:
    def make(name: str, **changes: Any) -> TaskData:
        selection = changes.pop("selection", "calibration")
        given: dict[str, Any] = {"calibration": 30, "max_length": (64, 64), "sketch": SIZES, "test": True}
        return prepare(task(name), tokenizer, Data.model_validate(given | changes), selection)

    return make


def texts(split: Examples) -> set[tuple[int, ...]]:
    return {tuple(ids) for ids in split.input_ids}


@pytest.mark.parametrize("name", TASKS)
def test_all_splits_of_every_task(prepared: Callable[..., TaskData], name: str) -> None:
    data = prepared(name)
    extra = {"validation_mismatched", "test_mismatched"} if name == "mnli" else set()
    assert set(data.splits) == {"train", "calibration", "validation", "test"} | extra
    assert data.missing == ()
    assert {key: len(split) for key, split in data.splits.items() if key not in extra} == {
        "train": 90 - data.left_out,
        "calibration": 30,
        "validation": 60,
        "test": 30,
    }
    assert data.left_out <= 30
    assert hidden(data.splits["test"].labels[:1]) and not hidden(data.splits["validation"].labels)
    assert data.splits["train"].labels.dtype == (np.float32 if name == "stsb" else np.int64)
    train, held_out = data.splits["train"], data.splits["calibration"]
    assert not texts(train) & texts(held_out)
    assert not set(train.groups) & set(held_out.groups)
    assert data.splits["validation"].groups is None
    assert sorted(set(data.splits["train"].difficulty)) == [1, 2, 3]


def test_calibration_is_stratified_and_comes_before_caps(prepared: Callable[..., TaskData]) -> None:
    sizes = SIZES | {"train": 117}  # 39 of each class
    data = prepared("mnli", sketch=sizes)
    capped = prepared("mnli", sketch=sizes, max_train=32, max_eval=16)
    assert all(abs(count - 10) <= 2 for count in Counter(data.splits["calibration"].labels).values())
    assert all(abs(count - 32 / 3) <= 2 for count in Counter(capped.splits["train"].labels).values())
    assert len(capped.splits["calibration"]) == 16
    assert set(capped.splits["calibration"].idx) < set(data.splits["calibration"].idx)
    assert set(capped.splits["train"].idx) < set(data.splits["train"].idx)
    assert len(capped.splits["validation"]) == len(capped.splits["validation_mismatched"]) == 16
    assert len(capped.splits["test"]) == 30


def test_calibration_as_a_fraction(prepared: Callable[..., TaskData]) -> None:
    assert len(prepared("rte", calibration=0.2).splits["calibration"]) == 24


@pytest.mark.parametrize("calibration", [0, 120, 500])
def test_calibration_that_does_not_fit(prepared: Callable[..., TaskData], calibration: float) -> None:
    with pytest.raises(UserError, match=f"rte: a calibration split of {calibration} cannot be taken from train"):
        prepared("rte", calibration=calibration)


@pytest.mark.parametrize("calibration", [0, 30])
def test_nothing_is_set_apart_where_validation_chooses(prepared: Callable[..., TaskData], calibration: int) -> None:
    data = prepared("rte", calibration=calibration, selection="validation")
    assert set(data.splits) == {"train", "validation", "test"}
    assert len(data.splits["train"]) == 120 and data.left_out == 0
    assert data.fingerprint != prepared("rte").fingerprint


@pytest.mark.parametrize("name", TASKS)
def test_a_survey_is_what_prepare_finds(prepared: Callable[..., TaskData], name: str) -> None:
    given = Data.model_validate({"calibration": 30, "max_length": (64, 64), "sketch": SIZES, "test": True})
    known, data = survey(task(name), given), prepared(name)
    assert known.fingerprint == data.fingerprint
    assert known.sizes == {split: len(examples) for split, examples in data.splits.items()}
    assert list(known.sizes) == list(data.splits)
    assert (known.missing, known.left_out) == (data.missing, data.left_out)


def test_the_seed_moves_calibration_and_nothing_else(
    write: Callable[..., Path], prepared: Callable[..., TaskData]
) -> None:
    rows = {"sentence": [f"word {i}" for i in range(120)], "label": [0, 1] * 60}
    path = write("sst2", train=rows, validation=rows)
    one, same, other = (prepared("sst2", source="folder", path=path, seed=seed) for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.splits["train"].input_ids == same.splits["train"].input_ids
    assert set(one.splits["calibration"].idx) != set(other.splits["calibration"].idx)
    assert one.splits["validation"].input_ids == other.splits["validation"].input_ids


def test_twins_of_calibration_leave_train(write: Callable[..., Path], prepared: Callable[..., TaskData]) -> None:
    words = [f"word {i // 2}" for i in range(40)]
    rows = {"sentence": words, "label": [i % 2 for i in range(40)]}
    path = write("sst2", train=rows, validation=rows)
    data = prepared("sst2", source="folder", path=path, calibration=8)
    assert len(data.splits["calibration"]) == 8
    assert not texts(data.splits["train"]) & texts(data.splits["calibration"])
    assert data.missing == ("test",)


def test_fingerprint_sees_text_label_and_order(write: Callable[..., Path], prepared: Callable[..., TaskData]) -> None:
    def fingerprint(validation: dict[str, list[Any]]) -> str:
        train = {"sentence": [f"word {i}" for i in range(20)], "label": [0, 1] * 10}
        path = write("sst2", train=train, validation=validation)
        return prepared("sst2", source="folder", path=path, calibration=4).fingerprint

    base = {"sentence": ["good", "bad"], "label": [1, 0]}
    changed = (
        {"sentence": ["good", "sad"], "label": [1, 0]},
        {"sentence": ["good", "bad"], "label": [1, 1]},
        {"sentence": ["bad", "good"], "label": [0, 1]},
    )
    assert fingerprint(base) == fingerprint(base)
    assert len({fingerprint(rows) for rows in (base, *changed)}) == 4


def test_pairs_are_encoded_with_segments_and_truncated(
    prepared: Callable[..., TaskData], tokenizer: PreTrainedTokenizerFast
) -> None:
    pair = prepared("rte").splits["train"]
    ids, segments = pair.input_ids[0], pair.segments[0]
    assert ids[0] == tokenizer.cls_token_id
    assert ids.count(tokenizer.sep_token_id) == 2
    assert sum(segments) == len(ids) - ids.index(tokenizer.sep_token_id) - 1
    short = prepared("rte", max_length=(8, 11)).splits["train"]
    assert short.lengths.max() == 11
    assert all(sum(row) >= 3 for row in short.segments)
    assert prepared("sst2", max_length=(8, 11)).splits["train"].lengths.max() == 8
