"""Readers lose no row: for any file, all rows are read, or one line states what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bench.errors import DataError, UserError
from bench.settings import Data, OwnTask, blank
from bench.tasks.catalogue import Task, task
from bench.tasks.sources import load

LABELS = ("bug", "question")
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Task]:
    """`written(".csv", content, ...)`: a task whose train file holds `content` (bytes or text)."""

    def make(suffix: str, content: bytes | str, **own: Any) -> Task:
        file = tmp_path / f"train{suffix}"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        usual = {"columns": ["text"], "labels": list(LABELS), "metrics": ["accuracy"], "files": {"train": str(file)}}
        return task("mine", {"mine": OwnTask.model_validate(usual | own)})

    return make


def train(each: Task) -> dict[str, list[Any]]:
    return load(each, Data()).splits["train"]


def rows_of(texts: list[str], label_first: bool, delimiter: str) -> str:
    pairs = [("text", "label"), *((text, LABELS[number % 2]) for number, text in enumerate(texts))]
    return "".join(delimiter.join(pair[::-1] if label_first else pair) + "\n" for pair in pairs)


@given(texts=st.lists(st.text('ab" ', min_size=1, max_size=5), min_size=1, max_size=6), label_first=st.booleans())
@quick
def test_a_stray_quotation_mark_takes_no_row_away(
    written: Callable[..., Task], texts: list[str], label_first: bool
) -> None:
    assume(not any(map(blank, texts)))
    kept = train(written(".tsv", rows_of(texts, label_first, "\t")))
    assert kept["text"] == [text.strip() for text in texts]
    try:
        kept = train(written(".csv", rows_of(texts, label_first, ",")))
    except UserError as error:
        assert "line " in str(error) and "\n" not in str(error)
    else:
        assert len(kept["text"]) == len(texts)


def test_a_quoted_text_of_several_lines_is_no_stray_mark(written: Callable[..., Task]) -> None:
    letter = '"Dear Sir,\nthe list, the page\nhelp, ""bug"",\nRegards, Tom"'
    for row, header in ((f"{letter},bug", "text,label"), (f"bug,{letter}", "label,text")):
        kept = train(written(".csv", f"{header}\n{row}\n"))
        assert kept["text"] == ['Dear Sir,\nthe list, the page\nhelp, "bug",\nRegards, Tom']


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiter_encoding_and_line_ends_change_nothing(
    written: Callable[..., Task], delimiter: str, name: str, encoding: str, end: str
) -> None:
    texts = ["a, b", "é", "x"]
    each = written(".csv", rows_of(texts, False, delimiter).replace("\n", end).encode(encoding))
    raw = load(each, Data())
    assert raw.splits["train"]["text"] == texts and raw.splits["train"]["label"] == [0, 1, 0]
    assert f"train.csv: columns are separated by {name} (guessed from the header)" in raw.notes
    assert ("train.csv: the file is UTF-16" in raw.notes) == (encoding == "utf-16")


def test_the_comma_needs_no_note_and_quotes_in_tsv_get_one(written: Callable[..., Task]) -> None:
    assert load(written(".csv", "text,label\na;b,bug\n"), Data()).notes == ()
    notes = load(written(".tsv", 'text\tlabel\n"a"\tbug\n"b\tbug\n'), Data()).notes
    assert len(notes) == 1 and notes[0].startswith("train.tsv: 1 rows have a cell in quotation marks")


@given(rows=st.lists(st.dictionaries(st.sampled_from(["text", "other"]), st.text("ab é\n"), min_size=1), min_size=1))
@quick
def test_a_json_array_is_read_like_json_lines(written: Callable[..., Task], rows: list[dict[str, str]]) -> None:
    rows = [row | {"text": row.get("text", "").strip() or "x", "label": "bug"} for row in rows]
    lines = written(".jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = train(lines)
    for suffix in (".json", ".jsonl"):
        assert train(written(suffix, "\n " + json.dumps(rows, indent=1))) == found
    assert len(found["text"]) == len(rows)


def parquet(**columns: Any) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), out)
    return out.getvalue().to_pybytes()


def test_columns_that_nothing_uses_are_not_read(written: Callable[..., Task]) -> None:
    far = pa.array([10**15]).cast(pa.timestamp("s"))
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    assert train(written(".parquet", parquet(text=["a"], label=["bug"], when=far, other=bad)))["text"] == ["a"]
    with pytest.raises(UserError, match=r"train\.parquet: row 0: column 'when': "):
        load(written(".parquet", parquet(text=["a"], label=["bug"], when=far), label="when"), Data())
    with pytest.raises(UserError, match=r"train\.parquet: row 0: column 'other': .*can't decode byte 0xff"):
        load(written(".parquet", parquet(text=["a"], label=["bug"], other=bad), columns=["other"]), Data())


def test_a_column_that_is_there_twice_is_refused_where_it_is_used(written: Callable[..., Task]) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["bug"]), pa.array(["b"])], names=["text", "label", "text"])
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    with pytest.raises(UserError, match=r"train\.parquet: column 'text' occurs twice"):
        load(written(".parquet", out.getvalue().to_pybytes()), Data())
    assert train(written(".csv", "text,label,,,x,x\na,bug,1,2,3,4\n"))["text"] == ["a"]


@pytest.mark.parametrize("nothing", [float("nan"), None, "", " "])
def test_rows_without_a_group_are_groups_of_their_own(written: Callable[..., Task], nothing: Any) -> None:
    rows = [{"text": f"text {i}", "label": "bug", "by": nothing if i % 2 else i // 4} for i in range(20)]
    each = written(".jsonl", "".join(json.dumps(row) + "\n" for row in rows), group="by")
    columns = train(each)
    groups = each.grouping(columns).ids
    assert len(set(groups[1::2])) == 10 and len(set(groups[::2])) == 5


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_empty_texts_are_all_named_at_once_or_dropped_and_counted(written: Callable[..., Task], suffix: str) -> None:
    texts, labels = ["a", "", "b", "  ", "c"], ["bug", "bug", "question", "wrong", "bug"]
    if suffix == ".parquet":
        content = parquet(text=texts, label=labels)
    elif suffix == ".csv":
        lines = [f"{text},{label}\n" for text, label in zip(texts, labels, strict=True)]
        content = "".join(["text,label\n", *lines]).encode()
    else:
        pairs = zip(texts, labels, strict=True)
        content = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs).encode()
    with pytest.raises(DataError) as caught:
        load(written(suffix, content), Data())
    first, *more = caught.value.problems
    assert "column 'text' is empty (in 2 rows; next: " in first and "own_tasks.mine.drop_empty: true" in first
    assert len(more) == 1 and "'wrong', none of bug, question; the nearest is 'question'" in more[0]
    raw = load(written(suffix, content, drop_empty=True), Data())  # a dropped row's label does not matter
    assert raw.splits["train"]["text"] == ["a", "b", "c"] and raw.dropped == {"train": 2}
    assert raw.splits["train"]["idx"] == [0, 2, 4]


def test_every_problem_of_every_file_is_in_one_error(written: Callable[..., Task], tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text("text,kind\na,bug\n")
    files = {"train": str(tmp_path / "train.csv"), "validation": str(tmp_path / "dev.csv")}
    each = written(".csv", "text,label\n,bug\nb,bgu\nc,Bug\nd,\ne,bgu\nf,bug\n", files=files)
    with pytest.raises(DataError) as caught:
        load(each, Data())
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "line 2: column 'text' is empty; fill it, or set own_tasks.mine.drop_empty: true",
        "line 3: column 'label' is 'bgu', none of bug, question; the nearest is 'bug' (in 2 rows; next: line 6)",
        "line 4: column 'label' is 'Bug', and the declared label is 'bug': use one form for both",
        "line 5: column 'label' is missing",
        "no column 'label'; there are text, kind",
    ]
    assert str(caught.value).endswith("(and 4 more problems: `costeff check` lists all)")


LABEL = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zl", "Zp"]), min_size=1, max_size=4)


@given(labels=st.lists(LABEL, min_size=2, max_size=5, unique=True))
@quick
def test_labels_are_kept_apart_as_written_or_refused(written: Callable[..., Task], labels: list[str]) -> None:
    content = "".join(json.dumps({"text": f"text {i}", "label": label}) + "\n" for i, label in enumerate(labels))
    try:
        each = written(".jsonl", content, labels=labels)
    except ValueError as error:
        assert "differ only in" in str(error) or "blank or not printable" in str(error)
    else:
        assume(not {"", "-1", "-1.0"} & {label.strip() for label in labels})
        assert train(each)["label"] == list(range(len(labels)))
