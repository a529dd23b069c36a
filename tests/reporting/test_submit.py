import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import synthetic

from bench.errors import UserError
from bench.reporting.submit import write_submission
from bench.store import RunKey
from bench.tasks.catalogue import TASKS
from bench.trace import Trace

FILES = ["CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX"]
WORDS = {
    "RTE": {"entailment", "not_entailment"},
    "QNLI": {"entailment", "not_entailment"},
    "MNLI-mm": {"entailment", "neutral", "contradiction"},
    **{name: {"0", "1"} for name in ("CoLA", "SST-2", "MRPC", "QQP", "WNLI")},
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    return synthetic.write_results(folder, tasks=tuple(TASKS), seeds=(2,), examples=60, source="GLUE")


@pytest.fixture
def glue(kept, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(kept, tmp_path / "glue")


def unzip(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode().splitlines() for name in archive.namelist()}


def test_the_zip_is_what_the_server_wants(glue, tmp_path):
    out = tmp_path / "submission.zip"
    chosen = write_submission(synthetic.read_points(glue), glue / "runs", out, "costeff", speedup=2)
    assert set(chosen["task"]) == set(TASKS) and (chosen["selected_speedup"] >= 2).all()
    files = unzip(out)
    assert set(files) == {f"{name}.tsv" for name in FILES}
    for name, lines in files.items():
        rows = [line.split("\t") for line in lines]
        assert rows[0] == ["index", "prediction"]
        count = 1104 if name == "AX.tsv" else 60
        assert [row[0] for row in rows[1:]] == [str(i) for i in range(count)]
        answers = {row[1] for row in rows[1:]}
        if name == "STS-B.tsv":
            assert all(len(a.split(".")[1]) == 3 and 0 <= float(a) <= 5 for a in answers)
            assert answers & {"0.000", "5.000"}  # the made-up predictions overshoot
        else:
            assert answers <= WORDS.get(name.removesuffix(".tsv"), WORDS["MNLI-mm"])


def test_words_follow_the_predictions_and_the_order_of_the_index(glue, tmp_path):
    path = glue / "runs" / "rte" / "teacher" / "base" / "seed2" / "trace-test.parquet"
    trace = Trace.load(path)
    shuffled = np.random.default_rng(0).permutation(len(trace.idx))
    Trace(trace.idx[shuffled], trace.labels, trace.lengths, trace.difficulty, trace.logits[:, shuffled]).save(path)
    write_submission(synthetic.read_points(glue), glue / "runs", tmp_path / "a.zip", "teacher")
    expected = [["entailment", "not_entailment"][label] for label in trace.logits[-1].argmax(-1)]
    assert [line.split("\t")[1] for line in unzip(tmp_path / "a.zip")["RTE.tsv"][1:]] == expected


def test_tasks_of_ones_own_stay_out(glue, tmp_path):
    points = synthetic.read_points(glue)
    own = points[points["task"] == "rte"].assign(task="tickets", source="own files")
    both = pd.concat([points, own], ignore_index=True)
    write_submission(both, glue / "runs", tmp_path / "a.zip", "pabee")
    assert set(unzip(tmp_path / "a.zip")) == {f"{name}.tsv" for name in FILES}
    with pytest.raises(UserError, match="no task of GLUE"):
        write_submission(own, glue / "runs", tmp_path / "b.zip", "pabee")


def test_the_same_predictions_are_the_same_file(glue, tmp_path):
    points = synthetic.read_points(glue)
    for name in ("a.zip", "b.zip"):
        write_submission(points, glue / "runs", tmp_path / name, "pabee")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_run_without_test_traces_is_traced_then_and_no_other(glue, tmp_path):
    points, made = synthetic.read_points(glue), []
    folder = glue / "runs" / "mnli" / "teacher" / "base" / "seed2"
    kept = {file: file.read_bytes() for file in folder.glob("trace-test*.parquet")}
    write_submission(points, glue / "runs", tmp_path / "a.zip", "teacher", make_traces=made.append)
    assert made == []
    for file in kept:
        file.unlink()

    def make(key):
        made.append(key)
        for file, content in kept.items():
            file.write_bytes(content)

    write_submission(points, glue / "runs", tmp_path / "b.zip", "teacher", make_traces=make)
    assert made == [RunKey("mnli", "teacher", "base", 2)]
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_what_is_missing_is_named_and_nothing_is_written(glue, tmp_path):
    points, out = synthetic.read_points(glue), tmp_path / "submission.zip"
    (glue / "runs" / "qnli" / "teacher" / "base" / "seed2" / "trace-test.parquet").unlink()
    with pytest.raises(UserError, match=r"^qnli: no trace of the test split"):
        write_submission(points, glue / "runs", out, "teacher")
    with pytest.raises(UserError, match=r"^wnli: .*no run of seed 2"):
        write_submission(points[points["task"] != "wnli"], glue / "runs", out, "pabee")
    with pytest.raises(UserError, match=r"^cola: .*no point at 19x"):
        write_submission(points, glue / "runs", out, "pabee", speedup=19.0)
    with pytest.raises(UserError, match="no method 'nobody'"):
        write_submission(points, glue / "runs", out, "nobody")
    with pytest.raises(UserError, match=r"the text of rte is not GLUE's"):
        write_submission(points, glue / "runs", out, "teacher", glue=set(TASKS) - {"rte"})
    assert not out.exists()


def test_a_test_trace_of_an_older_model_is_traced_anew_and_never_sent(glue, tmp_path):
    folder = glue / "runs" / "rte" / "teacher" / "base" / "seed2"
    (folder / "run.json").write_text('{"status": "ok", "weights": "new"}')
    path, points, made = folder / "trace-test.parquet", synthetic.read_points(glue), []
    trace = Trace.load(shutil.copy(path, tmp_path / "trace.parquet"))
    trace.save(path, "old")
    with pytest.raises(UserError, match="made from other weights"):
        write_submission(points, glue / "runs", tmp_path / "a.zip", "teacher")
    assert not (tmp_path / "a.zip").exists()

    def make(key):
        made.append(key)
        Trace(trace.idx, trace.labels, trace.lengths, trace.difficulty, -trace.logits).save(path, "new")

    for _ in range(2):  # the second finds a trace of these weights
        write_submission(points, glue / "runs", tmp_path / "a.zip", "teacher", make_traces=make)
    assert made == [RunKey("rte", "teacher", "base", 2)]
    expected = [["entailment", "not_entailment"][label] for label in (-trace.logits[-1]).argmax(-1)]
    assert [line.split("\t")[1] for line in unzip(tmp_path / "a.zip")["RTE.tsv"][1:]] == expected
