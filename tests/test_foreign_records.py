"""Traces and costs of others: what contradicts points, task or another run is refused by name, never left out."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.sharing.folders import open_folder
from bench.sharing.results import merge
from bench.store import RunKey
from bench.trace import Trace

REFERENCE = Path(__file__).parent / "data" / "results-0.2"
TASKS = ("wnli", "stsb")
METHODS = (("teacher", "full"), ("pabee", "full"))
KEYS = [RunKey(task, *method, 0) for task in TASKS for method in METHODS]
NAMES = ("trace-validation.parquet", "trace-calibration.parquet", "costs.json")


def part(to: Path, keys: list[RunKey]) -> Path:
    """Return a published folder with some runs of a committed one."""
    points = pd.read_parquet(REFERENCE / "all-points.parquet", filters=[("seed", "==", 0)])
    rows = [RunKey(*key) in keys for key in points[["task", "method", "variant", "seed"]].itertuples(index=False)]
    for key in keys:
        shutil.copytree(REFERENCE / "runs" / key.path, to / "runs" / key.path)
    shutil.copyfile(REFERENCE / "settings.yaml", to / "settings.yaml")
    points[rows].to_parquet(to / "all-points.parquet")
    return to


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    return part(tmp_path_factory.mktemp("a folder") / "published", KEYS)


@pytest.fixture
def folder(intact, tmp_path) -> Path:
    return shutil.copytree(intact, tmp_path / "of others")


def file_of(folder: Path, key: RunKey, name: str = NAMES[0]) -> Path:
    return folder / "runs" / key.path / name


def change(file: Path, **values) -> None:
    """Replace arrays of a trace."""
    trace = Trace.load(file)
    changed = {name: value(trace) if callable(value) else value for name, value in values.items()}
    dataclasses.replace(trace, **changed).save(file)


def at_first(name: str, value: float):
    """Return a function that sets the first value of an array of a trace."""

    def made(trace: Trace) -> np.ndarray:
        array = getattr(trace, name).copy()
        array[(0,) * array.ndim] = value
        return array

    return made


def costs(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def fewer_exits(file: Path) -> None:
    content = json.loads(file.read_text())
    costs(file, exits=content["exits"][:-1])


def no_rows(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table[:0].replace_schema_metadata(table.schema.metadata), file)


def with_metadata(file: Path, **shape) -> None:
    table = pq.read_table(file)
    old = json.loads(table.schema.metadata[b"bench.trace"])
    pq.write_table(table.replace_schema_metadata({b"bench.trace": json.dumps(old | shape).encode()}), file)


TRACES = {
    "missing": (lambda file: file.unlink(), "no trace"),
    "shortened": (lambda file: file.write_bytes(file.read_bytes()[:-20]), "not a readable trace"),
    "empty": (lambda file: file.write_bytes(b""), "not a readable trace"),
    "other bytes": (lambda file: file.write_bytes(b"PAR1" * 99), "not a readable trace"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "trace"),
    "no examples": (no_rows, "no examples"),
    "fewer examples": (
        lambda file: change(
            file,
            **{name: lambda trace, name=name: getattr(trace, name)[:-1] for name in ("idx", "labels", "lengths")},
            logits=lambda trace: trace.logits[:, :-1],
            difficulty=None,
        ),
        "examples, other than in all-points.parquet",
    ),
    "one example twice": (lambda file: change(file, idx=lambda trace: trace.idx * 0), "two rows of one example"),
    "one exit less": (lambda file: change(file, logits=lambda trace: trace.logits[:-1]), "exits"),
    "one exit more": (
        lambda file: change(file, logits=lambda trace: np.concatenate([trace.logits, trace.logits[-1:]])),
        "exits, and",
    ),
    "promised exits": (lambda file: with_metadata(file, exits=10**9), "not a readable trace"),
    "exits as text": (lambda file: with_metadata(file, exits="6"), "not a readable trace"),
    "negative outputs": (lambda file: with_metadata(file, outputs=-1), "trace"),
    "an output more": (
        lambda file: change(file, logits=lambda trace: np.concatenate([trace.logits, trace.logits[..., :1]], axis=-1)),
        "outputs of each exit",
    ),
    "nan": (lambda file: change(file, logits=at_first("logits", np.nan)), "logits that are not finite"),
    "infinity": (lambda file: change(file, logits=at_first("logits", -np.inf)), "logits that are not finite"),
    "no tokens": (lambda file: change(file, lengths=at_first("lengths", 0)), "impossible number of tokens"),
    "endless text": (lambda file: change(file, lengths=at_first("lengths", 2**60)), "impossible number of tokens"),
}
COSTS = {
    "missing": (lambda file: file.unlink(), "not a readable costs file"),
    "shortened": (lambda file: file.write_bytes(file.read_bytes()[:-20]), "not a readable costs file"),
    "fewer exits": (fewer_exits, "exits|not a readable costs file"),
    "parameters as text": (lambda file: costs(file, parameters="many"), "not a readable costs file"),
    "a power": (
        lambda file: costs(file, exits=[{"layers": 6, "multiply_adds": ["1e999999999", "0", "0"]}]),
        "not a readable costs file",
    ),
    "negative": (
        lambda file: costs(
            file, exits=[each | {"multiply_adds": ["-9", "0", "0"]} for each in json.loads(file.read_text())["exits"]]
        ),
        "costs.json has impossible costs",
    ),
}
LABELS = {
    "another class": (RunKey("wnli", "pabee", "full", 0), lambda trace: trace.labels * 0 + 2, "one of the 2 classes"),
    "a hidden class": (RunKey("wnli", "pabee", "full", 0), lambda trace: trace.labels * 0 - 1, "one of the 2 classes"),
    "half a class": (RunKey("wnli", "pabee", "full", 0), lambda trace: trace.labels * 0.5, "one of the 2 classes"),
    "no score": (RunKey("stsb", "pabee", "full", 0), at_first("labels", np.nan), "not a finite number"),
    "endless score": (RunKey("stsb", "pabee", "full", 0), at_first("labels", np.inf), "not a finite number"),
    "turned round": (RunKey("wnli", "pabee", "full", 0), lambda trace: 1 - trace.labels, "other labels than in"),
    "another score": (RunKey("stsb", "pabee", "full", 0), at_first("labels", 2.345), "other labels than in"),
}


def refused(folder: Path, file: Path, reason: str, tmp_path: Path) -> None:
    """Check that no reader of folders of others accepts a folder, and that each names the file."""
    with pytest.raises(UserError, match=reason) as refusal:
        open_folder(folder).points()
    assert str(file.relative_to(folder)) in str(refusal.value) and "\n" not in str(refusal.value)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=reason):
        merge([folder], tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_intact_folder_is_read(folder, tmp_path):
    assert set(open_folder(folder).points()["task"]) == set(TASKS)
    assert merge([folder], tmp_path / "out").root == tmp_path / "out"


@pytest.mark.parametrize("split", ["validation", "calibration"])
@pytest.mark.parametrize("name", TRACES)
def test_an_unusable_trace_is_refused_by_name(folder, tmp_path, name, split):
    damage, reason = TRACES[name]
    file = file_of(folder, KEYS[1], f"trace-{split}.parquet")
    damage(file)
    refused(folder, file, reason, tmp_path)


@pytest.mark.parametrize("name", COSTS)
def test_unusable_costs_are_refused_by_name(folder, tmp_path, name):
    damage, reason = COSTS[name]
    file = file_of(folder, KEYS[1], "costs.json")
    damage(file)
    refused(folder, file if name != "negative" else file_of(folder, KEYS[1]), reason, tmp_path)


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_those_of_the_task_and_of_the_other_runs(folder, tmp_path, name):
    key, labels, reason = LABELS[name]
    file = file_of(folder, key)
    change(file, labels=labels)
    others = [each for each in KEYS if each.task == key.task]
    with pytest.raises(UserError, match=reason) as refusal:
        open_folder(folder).points()
    assert any(str(each.path) in str(refusal.value) for each in others)


def test_labels_agree_between_folders_that_are_merged(tmp_path):
    """One run each: alone, each folder is consistent."""
    a, b = (part(tmp_path / name, [RunKey("wnli", name, "full", 0)]) for name in ("teacher", "pabee"))
    change(file_of(b, RunKey("wnli", "pabee", "full", 0)), labels=lambda trace: 1 - trace.labels)
    assert len(open_folder(a).points()) and len(open_folder(b).points())
    with pytest.raises(UserError, match="other labels than in"):
        merge([a, b], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("status", ["failed", "ok"])
def test_points_and_runs_agree_on_what_has_finished(folder, status):
    """A finished run that points call failed, or the reverse, would be left out of all comparisons."""
    file = folder / "all-points.parquet"
    if status == "failed":
        run = file_of(folder, KEYS[1], "run.json")
        run.write_text(json.dumps(json.loads(run.read_text()) | {"status": "failed", "reason": "none"}))
    else:
        points = pd.read_parquet(file)
        points.loc[points["method"] == "pabee", "status"] = "failed"
        points.to_parquet(file)
    with pytest.raises(UserError, match=r"differs from all-points\.parquet"):
        open_folder(folder).points()


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(KEYS), name=st.sampled_from(NAMES), data=st.data())
def test_bytes_of_a_record_are_used_as_they_are_or_refused_by_name(folder, key, name, data):
    """Any part of any record lost or overwritten: no row of the points is ever left out."""
    file = file_of(folder, key, name)
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    lost = data.draw(st.booleans())
    changed = b"" if lost else bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    file.write_bytes(whole[:at] + changed)
    try:
        rows = len(open_folder(folder).points())
        assert not lost or at == len(whole) - 1  # the newline at the end of costs.json
        assert rows == len(pd.read_parquet(folder / "all-points.parquet"))
    except UserError as error:
        assert str(key.path) in str(error) and "\n" not in str(error)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("command", [["compare", "pabee", "--results"], ["merge", "--out", "new"]])
def test_the_commands_end_with_one_line(costeff, folder, tmp_path, command):
    file = file_of(folder, KEYS[1])
    file.write_bytes(file.read_bytes()[:-20])
    done = costeff(*(tmp_path / each if each == "new" else each for each in command), folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert str(file.relative_to(folder)) in done.stderr
