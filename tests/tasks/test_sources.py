import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from bench.errors import UserError
from bench.tasks.catalogue import TASKS, task
from bench.tasks.sources import GLUE_REVISION, Raw, load

GOOD: dict[str, list[Any]] = {"sentence": ["one .", "two ."], "label": [0, 1], "idx": [7, 8]}


def from_folder(name: str, path: Path | None) -> Raw:
    return load(task(name), "folder", path, None, 0, {})


def test_folder_with_a_split_missing(write: Callable[..., Path]) -> None:
    path = write("cola", train=GOOD, validation=GOOD)
    path.chmod(0o555)
    raw = from_folder("cola", path)
    path.chmod(0o755)
    assert raw.splits["train"] == GOOD
    assert raw.missing == ("test",)


def test_shards_are_joined_in_order(write: Callable[..., Path]) -> None:
    write("cola", shard="00000-of-00002", train=GOOD, validation=GOOD)
    path = write("cola", shard="00001-of-00002", train={"sentence": ["three ."], "label": [1], "idx": [9]})
    assert from_folder("cola", path).splits["train"]["idx"] == [7, 8, 9]


def test_test_labels_may_be_hidden_or_public(write: Callable[..., Path]) -> None:
    hidden = {"sentence": ["a", "b"], "label": [-1, 1]}
    raw = from_folder("cola", write("cola", train=GOOD, validation=GOOD, test=hidden))
    assert raw.splits["test"]["label"] == [-1, 1]
    assert raw.splits["test"]["idx"] == [0, 1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"sentence": ["a", "b"], "label": [0, None]}, "row 1: column 'label' is not a number"),
        ({"sentence": ["a", "b"], "label": [0, -1]}, "row 1: column 'label' is missing"),
        ({"sentence": ["a", "b"], "label": [2, 0]}, "row 0: column 'label' is 2, outside 0 to 1"),
        ({"sentence": ["a", "b"], "label": [0.5, 0.0]}, "row 0: column 'label' is 0.5"),
        ({"sentence": ["a", " "], "label": [0, 1]}, "row 1: column 'sentence' is empty"),
        ({"sentence": [None, "b"], "label": [0, 1]}, "row 0: column 'sentence' is not text"),
        ({"text": ["a", "b"], "label": [0, 1]}, "no column 'sentence'"),
        ({"sentence": ["a", "b"]}, "no column 'label'"),
        ({"sentence": [], "label": []}, "no rows"),
    ],
)
def test_bad_rows_are_named(write: Callable[..., Path], bad: dict[str, list[Any]], message: str) -> None:
    path = write("cola", train=GOOD, validation=bad)
    with pytest.raises(UserError, match=message) as caught:
        from_folder("cola", path)
    assert "cola/validation-00000-of-00001.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [5.1, -0.5, float("nan")])
def test_similarity_outside_its_range(write: Callable[..., Path], label: float) -> None:
    rows = {"sentence1": ["a"], "sentence2": ["b"], "label": [label]}
    with pytest.raises(UserError, match="outside 0 to 5"):
        from_folder("stsb", write("stsb", train=rows, validation=rows))


def test_published_empty_questions_are_accepted(write: Callable[..., Path]) -> None:
    rows = {"question1": ["how ?"], "question2": [""], "label": [0]}
    assert from_folder("qqp", write("qqp", train=rows, validation=rows)).splits["train"]["question2"] == [""]


def test_unreadable_file(write: Callable[..., Path]) -> None:
    path = write("cola", train=GOOD, validation=GOOD)
    (path / "cola" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet: unreadable"):
        from_folder("cola", path)


def test_required_splits_and_folders(write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="needs a path"):
        from_folder("cola", None)
    path = write("cola", train=GOOD)
    with pytest.raises(UserError, match="no split 'validation'"):
        from_folder("cola", path)
    with pytest.raises(UserError, match="no folder"):
        from_folder("rte", path)


def test_hub_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(*args: str, **kwargs: str) -> datasets.DatasetDict:
        asked.append((args, kwargs))
        return datasets.DatasetDict({split: datasets.Dataset.from_dict(GOOD) for split in ("train", "validation")})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    raw = load(task("cola"), "hub", None, None, 0, {})
    load(task("cola"), "hub", None, "abc", 0, {})
    assert asked[0] == (("nyu-mll/glue", "cola"), {"revision": GLUE_REVISION})
    assert asked[1][1] == {"revision": "abc"}
    assert raw.splits["validation"] == GOOD
    assert raw.missing == ("test",)


def test_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(*_: str, **__: str) -> None:
        raise ConnectionError("no network\nlong trace")

    monkeypatch.setattr(datasets, "load_dataset", fake)
    with pytest.raises(UserError, match=r"cannot load nyu-mll/glue rte at .*: no network$"):
        load(task("rte"), "hub", None, None, 0, {})


def test_sketch_needs_neither_datasets_nor_pyarrow() -> None:
    code = (
        "import sys; from bench.tasks.sources import load; from bench.tasks.catalogue import task;"
        "raw = load(task('mnli'), 'sketch', None, None, 0, dict(train=9, validation=9, test=9));"
        "assert raw.missing == () and len(raw.splits) == 5;"
        "assert not {'datasets', 'pyarrow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sketch_without_a_size() -> None:
    with pytest.raises(UserError, match="no size for 'test'"):
        load(task("rte"), "sketch", None, None, 0, {"train": 9, "validation": 9})


@pytest.mark.real
@pytest.mark.parametrize("name", TASKS)
def test_real_glue(name: str) -> None:
    folder = os.environ.get("GLUE_DIR")
    if not folder:
        pytest.skip("GLUE_DIR does not name a folder of GLUE parquet files")
    raw = from_folder(name, Path(folder))
    assert {"train", task(name).validation_splits[0]} <= set(raw.splits)
