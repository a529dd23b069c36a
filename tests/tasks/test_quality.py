"""Facts about the data of a task: classes, contradictions, overlap, unknown and cut text; counted, and without text."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bench.errors import DataError
from bench.settings import Data, OwnTask
from bench.tasks.catalogue import Task, task
from bench.tasks.examples import TaskData
from bench.tasks.prepare import prepare
from bench.tasks.quality import _contradicting, _hashes, findings, overview

Rows = list[tuple[str, Any]]


@pytest.fixture
def made(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., TaskData]:
    """`made(train, validation, ...)`: a task of these (text, label) rows, ready to train on."""

    def make(train: Rows, validation: Rows, problems: list[str] | None = None, **own: Any) -> TaskData:
        for split, rows in (("train", train), ("validation", validation)):
            pd.DataFrame(rows, columns=["text", "label"]).to_json(
                tmp_path / f"{split}.jsonl", orient="records", lines=True
            )
        files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
        usual = {"columns": ["text"], "labels": ["good", "bad"], "metrics": ["accuracy"], "files": files}
        declared: Task = task("mine", {"mine": OwnTask.model_validate(usual | own)})
        return prepare(declared, tokenizer, Data(calibration=8, max_length=(12, 12)), problems=problems)

    return make


CLEAN: Rows = [(f"the {i} th row", ("good", "bad")[i % 2]) for i in range(60)]
OTHER: Rows = [(f"another row, {i}", ("good", "bad")[i % 2]) for i in range(20)]


def test_clean_data_has_no_findings(made: Callable[..., TaskData]) -> None:
    quality = made(CLEAN, OTHER).quality
    assert findings(quality) == []
    assert quality["rows"] == {
        "train": {"good": 26, "bad": 26}, "calibration": {"good": 4, "bad": 4}, "validation": {"good": 10, "bad": 10},
    }  # fmt: skip
    assert overview(quality)[0] == "train: good 26, bad 26"


def test_all_that_is_not_clean_is_counted(made: Callable[..., TaskData]) -> None:
    dirty = [("it crashed", "good"), ("it crashed", "bad"), ("it crashed ", "bad"), ("It Crashed", "good"), ("", "bad")]
    long = [("word " * 30 + str(i), "good") for i in range(9)]
    unknown = [("\u4e9c\u0f00", "good")] * 8
    data = made([*CLEAN, *dirty, *long, *unknown], [*OTHER, CLEAN[0], ("it crashed", "good")], drop_empty=True)
    told = findings(data.quality)
    assert "1 text with contradicting labels (4 rows)" in told
    assert any(line.startswith("1 row with the same tokens as a row with a different label") for line in told)
    assert "2 validation rows with a text that is also in train" in told
    assert "1 train row without text left out" in told
    assert any(line.startswith("texts cut at max_length") for line in told)
    assert any(line.startswith("unknown tokens") for line in told)
    kept = json.dumps(data.quality)
    assert "crashed" not in kept and "word" not in kept and "\\u4e9c" not in kept


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shares_are_of_what_the_tokenizer_makes(
    made: Callable[..., TaskData], tokenizer: PreTrainedTokenizerFast, share: float
) -> None:
    """Texts of exactly the greatest length are not cut; those of one token more are."""
    exact, longer = "go " * 10, "go " * 11
    validation = [(longer if i < share * 40 else exact, ("good", "bad")[i % 2]) for i in range(40)]
    data = made(CLEAN, validation)
    assert {len(ids) for ids in data.splits["validation"].input_ids} == {12}
    assert data.quality["cut"]["validation"] == share and data.quality["cut"]["train"] == 0
    unknown = tokenizer.unk_token_id
    ids = [number for each in data.splits["train"].input_ids for number in each[1:-1]]
    assert data.quality["unknown"]["train"] == ids.count(unknown) / len(ids)


def test_a_class_that_nothing_trains_is_an_error(made: Callable[..., TaskData]) -> None:
    validation = [*OTHER, ("buy now", "spam"), ("buy it", "spam")]
    with pytest.raises(DataError) as caught:
        made(CLEAN, validation, labels=["good", "bad", "spam"])
    assert str(caught.value).startswith("mine: class 'spam' has no rows to train on (calibration 0, validation 2)")
    problems: list[str] = []
    data = made(CLEAN, validation, problems, labels=["good", "bad", "spam"])
    assert problems == [str(caught.value)] and data.quality["rows"]["validation"]["spam"] == 2


def test_equal_scores_are_an_error_in_train_and_a_note_elsewhere(made: Callable[..., TaskData]) -> None:
    """A model cannot learn from one score; a correlation with one score is not defined."""
    regression = {"labels": None, "range": [0, 10], "metrics": ["pearson"]}
    spread = [(f"text {number}", number % 7) for number in range(40)]
    alike = [(f"other {number}", 4) for number in range(40)]
    with pytest.raises(DataError, match=r"mine: all \d+ training rows have the label 4"):
        made(alike, spread, **regression)
    problems: list[str] = []
    made(alike, spread, problems, **regression)
    assert len(problems) == 1
    notes = findings(made(spread, alike, **regression).quality)
    assert "all validation rows have the label 4: no correlation is defined there" in notes
    assert not any("all " in note for note in findings(made(spread, spread[1:], **regression).quality))


def test_scores_of_one_text_may_differ_by_a_tenth_of_the_range(made: Callable[..., TaskData]) -> None:
    def contradictions(unit: float, gap: float) -> int:
        train = [(f"row {i}", unit * (i % 5)) for i in range(40)] + [("same", unit * 1), ("same", unit * (1 + gap))]
        own = {"labels": None, "range": [0, 4 * unit], "metrics": ["pearson"]}
        quality = made(train, [("x", unit), ("y", 2 * unit)], **own).quality
        assert quality["scores"]["validation"] == {
            "rows": 2, "least": unit, "mean": 1.5 * unit, "greatest": 2 * unit,
        }  # fmt: skip
        return quality["contradictions"]["texts"]

    assert [contradictions(unit, 0.3) for unit in (1, 1000)] == [0, 0]
    assert [contradictions(unit, 0.5) for unit in (1, 1000)] == [1, 1]


def test_what_an_older_version_recorded_has_no_findings() -> None:
    assert findings({}) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2))))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_contradictions_are_texts_with_two_labels(rows: list[tuple[str, int]]) -> None:
    labels: dict[str, Counter[int]] = {}
    for text, label in rows:
        labels.setdefault(text, Counter())[label] += 1
    found = _contradicting(_hashes((text,) for text, _ in rows), np.array([label for _, label in rows], float), 0.0)
    assert found.tolist() == [len(labels[text]) > 1 for text, _ in rows]
