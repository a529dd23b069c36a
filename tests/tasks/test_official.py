"""GLUE as its own site ships it: recognised, read with its quirks, and the same text as the Hub's files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import UserError
from bench.settings import Data
from bench.tasks.catalogue import TASKS, Task, task
from bench.tasks.prepare import survey
from bench.tasks.sources import Columns, Raw, load

FOLDERS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qqp": "QQP",
    "stsb": "STS-B",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
}
PARSES = ["sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"]
SOURCES = ["source1", "source2"]
TRAIN: dict[str, list[str]] = {
    "cola": ["source", "label", "mark", "sentence"],
    "sst2": ["sentence", "label"],
    "mrpc": ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    "qqp": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    "stsb": ["index", "genre", "filename", "year", "old_index", *SOURCES, "sentence1", "sentence2", "score"],
    "mnli": ["index", "promptID", "pairID", "genre", *PARSES, "sentence1", "sentence2", "label1", "gold_label"],
    "qnli": ["index", "question", "sentence", "label"],
    "rte": ["index", "sentence1", "sentence2", "label"],
    "wnli": ["index", "sentence1", "sentence2", "label"],
}
"""The header of each train file of the site (CoLA's is not written)."""
TEST = {"cola": ["index", "sentence"], "sst2": ["index", "sentence"], "qqp": ["id", "question1", "question2"]}
RENAMED = {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label", "is_duplicate": "label"}
RENAMED |= {"score": "label", "gold_label": "label"}


def write_site(folder: Path, each: Task, splits: dict[str, Columns]) -> None:
    """Writes checked rows as the site would: one TSV file a split, nothing quoted."""
    site = folder / FOLDERS[each.name]
    site.mkdir(parents=True)
    for split, columns in splits.items():
        test = split in each.test_splits
        header = TRAIN[each.name]
        if test:
            header = TEST.get(each.name, [name for name in header if RENAMED.get(name, name) != "label"])
        lines = [] if each.name == "cola" and not test else ["\t".join(header)]
        for row in range(len(columns["label"])):
            lines.append("\t".join(_field(each, name, columns, row) for name in header))
        name = split.replace("validation", "dev")
        (site / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _field(each: Task, name: str, columns: Columns, row: int) -> str:
    ours = RENAMED.get(name, name)
    if each.name == "mnli" and name.startswith("sentence") and "parse" not in name:
        ours = {"sentence1": "premise", "sentence2": "hypothesis"}[name]
    if name in ("index", "id"):
        return str(columns["idx"][row])
    if ours == "label":
        label = columns["label"][row]
        words = each.labels if each.name in ("mnli", "qnli", "rte") else [str(i) for i in range(each.outputs)]
        return str(np.float32(label)) if each.regression else words[label]
    return columns[ours][row] if ours in columns else f"{name} of {row}"


@pytest.mark.real
@pytest.mark.parametrize("name", TASKS)
def test_the_same_text_has_the_same_fingerprint_in_both_layouts(name: str, glue: Path, tmp_path: Path) -> None:
    hub = Data(test=True, source="folder", path=glue)
    write_site(tmp_path, task(name), load(task(name), hub).splits)
    one, two = survey(task(name), hub), survey(task(name), Data(test=True, source="folder", path=tmp_path))
    assert one == two


QUIRKS: dict[str, list[Any]] = {
    "one": ['"Quoted', 'He said "no".', "tab-free, 'quoted'", '5" and 6"', "caf\u00e9 \u2028 \x85 end"],
    "two": ['He said "no"', "\u201cOdd\u201d", '"', "x", "y"],
}


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], Raw]:
    """`site("rte")`: what is read back of a few odd rows written in the site's layout."""

    def make(name: str) -> Raw:
        each = task(name)
        labels = [float(i) for i in range(5)] if each.regression else [i % each.outputs for i in range(5)]
        texts = dict(zip(each.columns, QUIRKS.values(), strict=False))
        rows = {**texts, "label": labels, "idx": list(range(5))}
        splits = ("train", *each.validation_splits, *each.test_splits)
        write_site(tmp_path, each, dict.fromkeys(splits, rows))
        return load(each, Data(test=True, source="folder", path=tmp_path))

    return make


@pytest.mark.parametrize("name", TASKS)
def test_quotes_headers_words_and_splits(site: Callable[[str], Raw], name: str) -> None:
    raw, each = site(name), task(name)
    assert raw.missing == ()
    for split, columns in raw.splits.items():
        assert [columns[name] for name in each.columns] == list(QUIRKS.values())[: len(each.columns)]
        assert columns["idx"] == list(range(5))
        if split in each.test_splits:
            assert all(label == -1 or label != label for label in columns["label"])
        else:
            assert columns["label"] == ([0, 1, 2, 3, 4] if each.regression else [i % each.outputs for i in range(5)])


def test_rows_that_break_off(site: Callable[[str], Raw], tmp_path: Path) -> None:
    site("qqp"), site("qnli")
    for folder in ("QQP", "QNLI"):
        with (tmp_path / folder / "train.tsv").open("a") as file:
            file.write("9\tcut\n\n")
    assert len(load(task("qqp"), Data(test=True, source="folder", path=tmp_path)).splits["train"]["label"]) == 5
    with pytest.raises(UserError, match=r"QNLI/train\.tsv: line 7: the row is truncated after 'cut'"):
        load(task("qnli"), Data(test=True, source="folder", path=tmp_path))


def test_bad_rows_are_named_by_line(site: Callable[[str], Raw], tmp_path: Path) -> None:
    site("rte"), site("stsb")
    with (tmp_path / "RTE" / "dev.tsv").open("a") as file:
        file.write("9\ta\tb\tmaybe\n")
    with pytest.raises(UserError, match=r"RTE/dev\.tsv: line 7: column 'label' is 'maybe', none of entailment, "):
        load(task("rte"), Data(test=True, source="folder", path=tmp_path))
    text = (tmp_path / "STS-B" / "train.tsv").read_text().replace("score", "points")
    (tmp_path / "STS-B" / "train.tsv").write_text(text)
    with pytest.raises(UserError, match=r"STS-B/train\.tsv: no column 'score'; the columns are index, .*points$"):
        load(task("stsb"), Data(test=True, source="folder", path=tmp_path))


def test_microsofts_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "MRPC"
    folder.mkdir()
    header = "\ufeff" + "\t".join(TRAIN["mrpc"])
    rows = [f'{i % 2}\t{i}\t{i + 100}\t"One {i}\tTwo {i}' for i in range(6)]
    for name in ("train", "test"):
        (folder / f"msr_paraphrase_{name}.txt").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"dev_ids\.tsv is missing"):
        load(task("mrpc"), Data(test=True, source="folder", path=tmp_path))
    (folder / "dev_ids.tsv").write_text("1\t101\n4\t104\n")
    raw = load(task("mrpc"), Data(test=True, source="folder", path=tmp_path))
    assert raw.splits["validation"]["sentence1"] == ['"One 1', '"One 4']
    assert raw.splits["train"]["sentence2"] == ["Two 0", "Two 2", "Two 3", "Two 5"]
    assert raw.splits["train"]["label"] == [0, 0, 1, 1] and len(raw.splits["test"]["label"]) == 6
