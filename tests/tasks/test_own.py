"""Tasks of a profile's own: what may be declared, every file format, and bad rows by file, row and column."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from bench.analysis.metrics import METRICS, hidden, scores
from bench.errors import DataError, UserError
from bench.settings import CLASS_METRICS, SCORE_METRICS, Data, OwnTask, blank, check, explain
from bench.tasks.catalogue import Task, task
from bench.tasks.prepare import prepare, survey
from bench.tasks.sources import Raw, load

Rows = dict[str, list[Any]]
ROWS: Rows = {
    "text": ["it, crashed", 'how "so" ?', "thanks\nall", "é"],
    "label": ["bug", "question", "praise", "bug"],
    "customer": ["x", "y", "x", "z"],
}


def save(file: Path, rows: Rows) -> None:
    table = pd.DataFrame(rows)
    if file.suffix == ".parquet":
        table.to_parquet(file)
    elif file.suffix in (".jsonl", ".json"):
        file.write_text("".join(json.dumps(row) + "\n\n" for row in table.to_dict("records")), encoding="utf-8")
    elif file.suffix == ".tsv":  # no quoting, as GLUE's
        lines = [table.columns, *table.astype(str).to_numpy()]
        file.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    else:
        table.to_csv(file, index=False)


@pytest.fixture
def tickets(tmp_path: Path) -> Callable[..., Task]:
    """`tickets(train=rows, ..., suffix=".csv", metrics=[...])`: a declared task whose files are written."""

    def make(suffix: str = ".csv", train: Rows = ROWS, validation: Rows = ROWS, test: Rows | None = None, **own: Any):
        given = {"train": train, "validation": validation} | ({"test": test} if test else {})
        for split, rows in given.items():
            save(tmp_path / f"{split}{suffix}", rows)
        files = {split: f"{split}{suffix}" for split in given}
        usual = {"columns": ["text"], "labels": ["bug", "question", "praise"], "metrics": ["f1_macro", "accuracy"]}
        declared = OwnTask.model_validate(usual | {"files": files} | own)
        return task("tickets", {"tickets": declared.within(tmp_path)})

    return make


def read(each: Task) -> Raw:
    return load(each, Data(test=True))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_rows(tickets: Callable[..., Task], suffix: str) -> None:
    rows = ROWS if suffix != ".tsv" else ROWS | {"text": ["it, crashed", '"so" ?', '"thanks', 'é"']}
    raw = read(tickets(suffix, train=rows, validation=rows, test={"text": ["one", "two"]}, group="customer"))
    assert raw.splits["train"]["text"] == rows["text"]
    assert raw.splits["train"]["label"] == [0, 1, 2, 0]
    assert raw.splits["train"]["group"] == ["x", "y", "x", "z"]
    assert raw.splits["test"]["label"] == [-1, -1] and raw.missing == ()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda t: not blank(t)), min_size=2))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_any_format(tickets: Callable[..., Task], suffix: str, texts: list[str]) -> None:
    if suffix in (".csv", ".tsv"):
        texts = [text.replace("\r", "").replace("\x00", "") or "x" for text in texts]
    if suffix == ".tsv":
        texts = [text.replace("\t", " ").replace("\n", " ") for text in texts]
    texts = ["x" if blank(text) else text for text in texts]
    rows = {"text": texts, "label": ["bug"] * len(texts)}
    assert read(tickets(suffix, rows, rows)).splits["train"]["text"] == [text.strip() for text in texts]


@pytest.mark.parametrize(
    ("labels", "written", "ids"),
    [
        ([1, 2, 3], [3, 1, 2], [2, 0, 1]),
        ([1, 2, 3], ["3", "1.0", 2], [2, 0, 1]),
        ([-1, 1], [1, -1], [1, 0]),
        (["no", "yes"], ["yes ", "no"], [1, 0]),
        (["true", "false"], [True, False], [0, 1]),
        (["True", "False"], [True, False], [0, 1]),
        (["+", "++", "-", "c_1", "c-1"], ["++", "c-1", "+", "-", "c_1"], [1, 4, 0, 2, 3]),
        (["pos", "positive"], ["positive", "pos"], [1, 0]),
        (["01", "1"], ["1", "01"], [1, 0]),
    ],
)
def test_labels_are_words_or_numbers(
    tickets: Callable[..., Task], labels: list[Any], written: list[Any], ids: list[int]
) -> None:
    rows = {"text": ["a"] * len(written), "label": written}
    assert read(tickets(".jsonl", train=rows, validation=rows, labels=labels)).splits["train"]["label"] == ids


def test_a_regression_may_reach_below_zero(tickets: Callable[..., Task], tokenizer: PreTrainedTokenizerFast) -> None:
    rows = {"text": [f"a {i}" for i in range(40)], "label": list(np.linspace(-1, 1, 40))}
    each = tickets(".jsonl", rows, rows, {"text": ["a"]}, labels=None, range=[-1, 1], metrics=["spearman"])
    data = prepare(each, tokenizer, Data(test=True, calibration=8))
    labels = data.splits["validation"].labels
    assert labels.dtype == np.float32 and not hidden(labels) and hidden(data.splits["test"].labels)
    assert scores(each, labels, labels) == {"spearman": pytest.approx(1.0)}


BAD = [
    ({"text": ["a", ""], "label": ["bug", "bug"]}, "line 3: column 'text' is empty"),
    ({"text": ["a", "b\nc", "d"], "label": ["bug", "bug", "bog"]}, "line 5: column 'label' is 'bog', none of bug, que"),
    ({"text": ["a", "b"], "label": ["bug", ""]}, "line 3: column 'label' is missing"),
    ({"text": ["a"]}, "no column 'label'; there are text"),
    ({"words": ["a"], "label": ["bug"]}, "no column 'text'; there are words, label"),
]


@pytest.mark.parametrize(("rows", "line"), BAD)
def test_bad_rows_are_named_by_file_line_and_column(tickets: Callable[..., Task], rows: Rows, line: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tickets(train=rows))
    assert f"train.csv: {line}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_column_is_called_as_the_file_calls_it(tickets: Callable[..., Task]) -> None:
    rows = {"said": ["a"], "kind": ["bog"], "extra": [1]}
    with pytest.raises(UserError, match="line 2: column 'kind' is 'bog'"):
        read(tickets(train=rows, columns=["said"], label="kind"))
    with pytest.raises(UserError, match="no column 'sort'; there are said, kind, extra"):
        read(tickets(train=rows, columns=["said"], label="sort"))
    with pytest.raises(UserError, match="no column 'customer'; there are said, kind, extra"):
        read(tickets(train=rows, columns=["said"], label="kind", group="customer"))


@pytest.mark.parametrize("content", [b"text , label\na, bug\n", b"\xef\xbb\xbftext,label\r\na,bug\r\n"])
def test_blanks_and_byte_order_marks_are_no_part_of_a_name(
    tickets: Callable[..., Task], tmp_path: Path, content: bytes
) -> None:
    each = tickets()
    (tmp_path / "train.csv").write_bytes(content)
    assert read(each).splits["train"]["text"] == ["a"]


@pytest.mark.parametrize(("value", "what"), [("high", "not a number"), (True, "not a number"), (11, "outside")])
def test_a_missing_score_differs_from_one_out_of_range(tickets: Callable[..., Task], value: Any, what: str) -> None:
    rows = {"text": ["a"], "label": [value]}
    with pytest.raises(UserError, match=f"line 1: column 'label' is .*{what}"):
        read(tickets(".jsonl", rows, rows, labels=None, range=[0, 10], metrics=["pearson"]))


@pytest.mark.parametrize(
    ("suffix", "content", "line"),
    [
        (".csv", b"text,label\na,bug\nb,bug,more\n", "line 3: 3 columns, where the header has 2"),
        (".csv", b'text,label\n"a\n,bug\n', "line 2: unexpected end of data"),
        (".csv", b"text,label\n\xff\xfe,bug\n", "line 2: byte 11 is not valid UTF-8"),
        (".csv", "text,label\na,bug\n".encode("utf-16-le"), "line 1: a NUL character, as in UTF-16 without"),
        (".csv", "text,label\na,bug\n".encode("utf-16") + b"x", "line 3: byte 36 is not valid UTF-16"),
        (".csv", b"text,label\ra,bug\r\xe9,bug\r", "line 3: byte 17 is not valid UTF-8"),
        (".tsv", b"text\tlabel\na\tbug\tmore\n", "line 2: 3 columns, where the header has 2"),
        (".tsv", b"text\ttext\tlabel\na\tb\tbug\n", "line 1: column 'text' occurs twice in the header"),
        (".csv", b"text,label,text\na,bug,b\n", "line 1: column 'text' occurs twice in the header"),
        (".csv", b"text:label\na:bug\n", "no column 'text'; there are text:label"),
        (".jsonl", b'{"text": "a", "text": "b", "label": "bug"}\n', "line 1: column 'text' occurs twice"),
        (".csv", b"", "the file is empty"),
        (".jsonl", b"\n", "the file is empty"),
        (".parquet", b"", "unreadable"),
        (".csv", b"text,label\n", "no "),
        (".jsonl", b'{"text": "a", "label": "bug"}\n{"text"\n', "line 2: not JSON"),
        (".jsonl", b'["a"]\n', "element 1: an object with the columns' names is needed"),
        (".json", b'[{"text": "a"}, 3]\n', "element 2: an object with the columns' names is needed, not 3"),
        (".json", b'[{"text": "a"},\n]', "not a JSON array: Expecting value: line 2"),
        (".jsonl", b'"a"\n', "line 1: an object with the columns' names is needed"),
        (".jsonl", b'{"text": "a\\ud83d", "label": "bug"}\n', "line 1: column 'text' holds half of a surrogate pair"),
        (".jsonl", b'{"text": 3, "label": "bug"}\n', "line 1: column 'text' is not text (3)"),
        (
            ".jsonl",
            b'{"text": "a", "label": "bug"}\n{"label": "bug"}\n',
            "line 2: column 'text' is empty; fill",
        ),
        (".jsonl", b'{"text": "a", "label": {"b": 1}}\n', "line 1: column 'label' is {'b': 1}, none of"),
        (".parquet", b"PAR1", "unreadable"),
    ],
)
def test_broken_files_are_one_line(
    tickets: Callable[..., Task], tmp_path: Path, suffix: str, content: bytes, line: str
):
    each = tickets(suffix)
    (tmp_path / f"train{suffix}").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(each)
    assert f"train{suffix}: {line}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_one_line(tickets: Callable[..., Task], tmp_path: Path) -> None:
    each = tickets()
    (tmp_path / "validation.csv").unlink()
    with pytest.raises(UserError, match=r"validation\.csv: .*No such file"):
        read(each)


def test_a_long_text_is_no_error(tickets: Callable[..., Task]) -> None:
    rows = {"text": ["word " * 60_000], "label": ["bug"]}
    assert csv.field_size_limit() and len(read(tickets(train=rows)).splits["train"]["text"][0]) == 299_999


def test_groups_are_not_parted(tickets: Callable[..., Task], tokenizer: PreTrainedTokenizerFast) -> None:
    rows = {
        "text": [f"number {i}" for i in range(200)],
        "label": [ROWS["label"][i % 3] for i in range(200)],
        "customer": [f"c{i // 5}" for i in range(200)],
    }
    data = prepare(tickets(train=rows, group="customer"), tokenizer, Data(calibration=20))
    held_out = {row // 5 for row in data.splits["calibration"].idx}
    assert len(data.splits["calibration"]) == 20 and len(held_out) >= 8
    assert not held_out & {row // 5 for row in data.splits["train"].idx}
    assert data.left_out == 200 - 20 - len(data.splits["train"])


def test_validation_is_set_apart_where_there_is_none(tickets: Callable[..., Task], tmp_path: Path) -> None:
    rows = {"text": [f"number {i}" for i in range(100)], "label": ROWS["label"] * 25}
    each = tickets(train=rows)
    declared = each.own.model_copy(update={"files": {"train": each.own.files["train"]}})
    known = survey(task("tickets", {"tickets": declared}), Data(test=True, calibration=15))
    assert known.sizes == {"train": 75, "calibration": 15, "validation": 10} and known.missing == ("test",)
    chosen = survey(task("tickets", {"tickets": declared}), Data(calibration=15), "validation")
    assert chosen.sizes == {"train": 90, "validation": 10}


def test_the_hubs_names_are_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["World", "Sports", "Business", "Sci/Tech"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = {"text": ["a", "b", "c", "d"], "label": [0, 1, 2, 3]}
    made = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)})
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or made)
    labels = ["Sci/Tech", "World", "Sports", "Business"]
    own = {"columns": ["text"], "metrics": ["accuracy"], "hub": "fancyzhx/ag_news"}
    raw = read(task("news", {"news": OwnTask(labels=labels, **own)}))
    assert raw.splits["train"]["label"] == [1, 2, 3, 0] and asked == [(("fancyzhx/ag_news",), {"revision": None})]
    for other in (["a", "b", "c", "World"], ["sci/tech", "world", "sports", "business"]):
        with pytest.raises(UserError, match=r"calls the labels World, Sports, Business, Sci/Tech; news has the labels"):
            read(task("news", {"news": OwnTask(labels=other, **own)}))
    assert read(task("news", {"news": OwnTask(labels=[0, 1, 2, 3], **own)})).splits["train"]["label"] == [0, 1, 2, 3]


WRONG = [
    ({"labels": None}, "exactly one of labels (classes) and range (a regression) is required"),
    ({"labels": None, "range": [5, 0], "metrics": ["pearson"]}, "range = [5.0, 0.0]: the least label must come first"),
    ({"labels": None, "range": [0, 5]}, "there is no 'accuracy' here; choose from pearson, spearman"),
    ({"metrics": ["f2"]}, "there is no 'f2' here; choose from accuracy, balanced_accuracy, f1, f1_macro, matthews"),
    ({"labels": ["a", "b", "c"], "metrics": ["f1"]}, "f1 needs two classes; use f1_macro for more"),
    ({"labels": ["a", "a"]}, "labels = ['a', 'a']: a value is named twice"),
    ({"labels": ["US", "us"]}, "labels: 'US' and 'us' differ only in case, blanks, decimal zeros or Unicode form"),
    ({"labels": ["a", " a"]}, "labels: 'a' and ' a' differ only in"),
    ({"labels": ["1", "1.0"]}, "labels: '1' and '1.0' differ only in"),
    ({"labels": ["caf\u00e9", "cafe\u0301"]}, r"labels: 'caf\xe9' and 'cafe\u0301' differ only in"),
    ({"labels": ["a", "a\u200b"]}, r"labels: 'a' and 'a\u200b' differ only in"),
    ({"labels": ["a", " "]}, "labels: ' ' is blank or not printable"),
    ({"labels": ["a", "b\n"]}, r"labels: 'b\n' is blank or not printable"),
    ({"labels": None, "range": [0, float("inf")], "metrics": ["pearson"]}, "should be a finite number"),
    ({"labels": [True, False]}, "put them in quotes"),
    ({"files": {}}, "exactly one of files and hub is required"),
    ({"hub": "a/b"}, "exactly one of files and hub is required"),
    ({"files": {"validation": "a.csv"}}, "files: train is missing"),
    ({"files": {"train": "a.xlsx"}}, "files.train: a.xlsx: its name must end in .csv, .tsv, .jsonl, .json or .parquet"),
    ({"columns": ["a", "b", "c"]}, "columns: List should have at most 2 items"),
    ({"columns": ["label"]}, "columns, label and group must be different columns"),
    ({"columns": ["idx"]}, "columns: 'idx' is a name that the suite uses"),
    ({"columns": ["label"], "label": "y"}, "columns: 'label' is a name that the suite uses"),
    ({"validation": 0}, "validation = 0"),
    ({"validation": 1.5}, "validation = 1.5"),
    ({"colour": 1}, "colour: no such key; there are columns, labels"),
]


@pytest.mark.parametrize(("changes", "line"), WRONG)
def test_what_cannot_be_declared_is_one_line(changes: dict[str, Any], line: str) -> None:
    usual = {"columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy"], "files": {"train": "a.csv"}}
    with pytest.raises(ValidationError) as caught:
        OwnTask.model_validate(usual | changes)
    told = explain(caught.value, OwnTask)
    assert line in told and "\n" not in told


def profile(**changes: Any) -> dict[str, Any]:
    own = {"columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy"], "files": {"train": "a.csv"}}
    return {
        "profile": "p",
        "backbone": {"name": "b"},
        "contestants": {"teacher": {"method": "m:M", "tasks": {"tickets": {}}}},
        "own_tasks": {"tickets": own},
        "tasks": ["tickets", "rte"],
        "more_seeds": {"tickets": [1]},
        "data": {"tasks": {"tickets": {"calibration": 20}}},
        "studies": [{"method": "teacher", "tasks": ["tickets"]}],
    } | changes


def test_own_tasks_are_known_everywhere_in_a_profile() -> None:
    known = check(profile(), "mine.yaml")
    assert known.data.of("tickets").calibration == 20
    assert [known.source_of(name) for name in known.tasks] == ["own files", "sketch (generated)"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tasks": ["ticket"]}, "tasks: unknown task 'ticket'; the tasks are cola, "),
        ({"data": {"tasks": {"ticket": {}}}}, "data.tasks: unknown task 'ticket'"),
        ({"data": {"tasks": {"rte": {"calibratoin": 3}}}}, "data.tasks.rte.calibratoin: no such key; there are source"),
        ({"data": {"tasks": {"rte": {"calibration": 0}}}}, "data.calibration = 0: needed for choices on rte"),
        ({"more_seeds": {"x": [1]}}, "more_seeds: unknown task 'x'"),
        (
            {"contestants": {"teacher": {"method": "m:M", "tasks": {"x": {}}}}},
            "contestants.teacher.tasks: unknown",
        ),
        ({"studies": [{"method": "teacher", "tasks": ["x"]}]}, "studies.0.tasks: unknown task 'x'"),
        ({"own_tasks": profile()["own_tasks"] | {"rte": profile()["own_tasks"]["tickets"]}}, "own_tasks.rte: the name"),
    ],
)
def test_a_wrong_name_in_a_profile_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        check(profile(**{"tasks": ["rte"], "more_seeds": {}, "studies": [], "data": {}} | changes), "mine.yaml")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_the_metrics_that_may_be_named_are_those_that_there_are() -> None:
    assert sorted((*CLASS_METRICS, *SCORE_METRICS)) == sorted(METRICS)


def test_a_text_that_joins_all_rows_is_reported(tickets: Callable[..., Task]) -> None:
    rows = {"text": ["thanks", "hello"] * 20, "label": ["praise", "bug"] * 20, "customer": [i // 3 for i in range(40)]}
    with pytest.raises(UserError, match=r"8 of 40 rows cannot be held out, .* \(1 groups\); rows of one customer"):
        survey(tickets(train=rows, group="customer"), Data(calibration=8))


@pytest.mark.parametrize(
    "declared", [{"labels": ["0", "1"]}, {"labels": None, "range": (0.0, 5.0), "metrics": ["pearson"]}]
)
def test_a_label_of_minus_one_in_train_is_named_as_it_is(tickets, declared):
    rows = [{"text": f"text {i}", "label": str(i % 2)} for i in range(40)]
    task_of = tickets(train=[*rows, {"text": "last", "label": "-1"}], validation=rows, **declared)
    with pytest.raises(UserError, match=r"column 'label' is '?-1"):
        survey(task_of, Data(calibration=8))


INVISIBLE = st.text(
    st.sampled_from("\u200b\u0001\u00ad\u2060\ufeff\u3164\u2800\u115f\u0301\ufe0f\u00a0\u3000\u2028 \t"), max_size=4
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=INVISIBLE, drops=st.booleans())
def test_a_text_without_a_visible_character_is_empty(tickets, text, drops):
    rows = {"text": ["one", text, "two", "three"], "label": ["bug", "bug", "question", "praise"]}
    each = tickets(".jsonl", train=rows, drop_empty=drops)
    if drops:
        raw = read(each)
        assert raw.splits["train"]["text"] == ["one", "two", "three"] and raw.dropped["train"] == 1
        return
    with pytest.raises(DataError, match=r"column 'text' is empty.*drop_empty: true"):
        read(each)


WRITTEN = st.sampled_from(["1_0", "\uff13", "\u0663", "0x3", "three", "True", "1e", "3,5"]) | st.just(True)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=WRITTEN)
def test_only_decimal_digits_are_numbers_in_files(tickets, suffix, value):
    rows = {"text": ["one", "two", "three"], "label": ["3", value if suffix == ".jsonl" else str(value), " 2.5e0"]}
    good = {"text": ["four", "five"], "label": [1, 2]}
    each = tickets(suffix, train=rows, validation=good, labels=None, range=[0, 20], metrics=["pearson"])
    with pytest.raises(DataError, match=r"not a number from 0 to 20"):
        read(each)
    fine = rows | {"label": ["3", "+4.", " 2.5e0"]}
    each = tickets(suffix, train=fine, validation=good, labels=None, range=[0, 20], metrics=["pearson"])
    assert read(each).splits["train"]["label"] == [3.0, 4.0, 2.5]
