"""Files made from an older model of a run are removed when the run is made again, and are never read."""

import shutil

import numpy as np
import pandas as pd
import pytest
from toys import trace

from bench.errors import UserError
from bench.runs.clock import measure_latency
from bench.runs.collect import bring_up_to_date, collect
from bench.runs.replay import replay
from bench.runs.train_run import produce, trace_tests
from bench.settings import Settings, check
from bench.store import RunKey, read_points, record_failure, run_folder, weights_of, write_json, write_parquet
from bench.trace import Costs, Trace, is_current

KEY = RunKey("sst2", "teacher", "full", 0)
OLD, NEW = 1e-3, 3e-3


@pytest.fixture(scope="module")
def profile(tiny_settings):
    """`profile(results, learning_rate)`: the teacher alone, on one task."""

    def build(results, learning_rate) -> Settings:
        teacher = {"method": "baselines.finetuned:Finetuned", "options": {"epochs": 1, "learning_rate": learning_rate}}
        text = {"sketch": {"train": 96, "validation": 32, "test": 24}}
        values = tiny_settings(results, data=text, latency={"examples": 4, "rounds": 1}).model_dump()
        values |= {"contestants": {"teacher": teacher}, "tasks": ["sst2"], "depth_reference": None}
        return check(values, "test")

    return build


@pytest.fixture(scope="module")
def old(profile, tmp_path_factory) -> Settings:
    """Every artefact of a first model: test traces, points, times, their union."""
    settings = profile(tmp_path_factory.mktemp("old"), OLD)
    assert produce(settings, KEY) == ""
    trace_tests(settings, KEY)
    replay(settings, "sst2", 0)
    measure_latency(settings, settings.root / "latency.parquet")
    write_parquet(settings.root / "all-points.parquet", collect(settings))
    return settings


@pytest.fixture
def anew(old, profile, tmp_path) -> Settings:
    """A copy of these results whose run was then made again, with another learning rate."""
    shutil.copytree(old.root, tmp_path / old.profile)
    settings = profile(tmp_path, NEW)
    assert produce(settings, KEY) == ""
    return settings


def test_every_artefact_names_its_weights(old):
    folder = run_folder(old, KEY)
    weights = weights_of(folder)
    assert weights and len(weights) == 16
    assert all(is_current(file) for file in folder.glob("trace-*.parquet"))
    for file in ("latency.parquet", "all-points.parquet"):
        assert set(pd.read_parquet(old.root / file)["weights"]) == {weights}
    assert pd.read_parquet(old.root / "points" / "sst2" / "seed0.parquet")["replayed"].str.contains(weights).all()
    assert collect(old)["latency_1"].notna().any()


def test_a_run_made_anew_leaves_nothing_of_the_old_one(old, anew):
    before, now = ({file.name for file in run_folder(each, KEY).iterdir()} for each in (old, anew))
    assert before - now == {"trace-test.parquet"} and now <= before
    assert weights_of(run_folder(anew, KEY)) != weights_of(run_folder(old, KEY))


@pytest.mark.parametrize("name", ["trace-test.parquet", "trace-validation.parquet", "trace-calibration.parquet"])
def test_an_older_trace_is_not_read(old, anew, name):
    file = shutil.copy(run_folder(old, KEY) / name, run_folder(anew, KEY) / name)
    assert not is_current(run_folder(anew, KEY) / name)
    with pytest.raises(UserError, match=rf"{name}: made from other weights"):
        Trace.load(type(run_folder(anew, KEY))(file))
    with pytest.raises(UserError, match="made from other weights"):
        replay(anew, "sst2", 0)


def test_older_costs_are_not_read(old, anew):
    shutil.copy(run_folder(old, KEY) / "costs.json", run_folder(anew, KEY) / "costs.json")
    with pytest.raises(UserError, match=r"costs\.json: made from other weights"):
        Costs.load(run_folder(anew, KEY) / "costs.json")


def test_older_points_are_not_read(anew):
    """Neither those of the task, nor their union, which `compare`, `take`, `submit` and `report` read."""
    with pytest.raises(UserError, match="has not been replayed"):
        collect(anew)
    with pytest.raises(UserError, match="was trained again after its points were collected"):
        read_points(anew)


def test_older_times_are_not_read(old, anew):
    assert bring_up_to_date(anew)
    points = read_points(anew)
    assert points["latency_1"].isna().all() and points["score"].notna().any()
    measure_latency(anew, anew.root / "latency.parquet")
    assert collect(anew)["latency_1"].notna().any()


def test_the_same_training_gives_the_same_weights(old, profile, tmp_path):
    """So results that are made again where they were lost still fit."""
    again = profile(tmp_path, OLD)
    assert produce(again, KEY) == ""
    assert weights_of(run_folder(again, KEY)) == weights_of(run_folder(old, KEY))


def test_a_run_that_now_fails_leaves_no_trace_of_the_tests(old, tmp_path, profile):
    shutil.copytree(old.root, tmp_path / old.profile)
    failing = profile(tmp_path, OLD)
    record_failure(failing, KEY, "why", again=False)
    files = {file.name for file in run_folder(failing, KEY).iterdir() if file.is_file() and file.stat().st_size}
    assert files == {"run.json"}
    with pytest.raises(UserError, match="was trained again"):
        read_points(failing)


def test_a_trace_that_names_no_weights_is_not_of_a_run_that_does(tmp_path):
    file = tmp_path / "trace-test.parquet"
    trace(np.ones((2, 3, 2))).save(file)
    assert is_current(file)  # no run beside it
    for weights in ("", "0123456789abcdef"):
        write_json(tmp_path / "run.json", {"status": "ok", "weights": weights})
        assert not is_current(file)
    with pytest.raises(UserError, match="made from other weights"):
        Trace.load(file)
    write_json(tmp_path / "run.json", {"status": "ok"})  # of a version that recorded none
    assert len(Trace.load(file).idx) == 3
