"""A contestant outside the repository's packages gets its row in every table and its line in every figure."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from bench.context import load_model, task_data
from bench.encoder import backbones
from bench.encoder.early.engine import run
from bench.errors import UserError
from bench.exit_policies.operating import decision, exits_taken
from bench.reporting.everything import write_everything
from bench.runs.clock import measure_latency, spread
from bench.runs.collect import collect, operated
from bench.runs.plan import runs
from bench.runs.replay import points_of, replay
from bench.runs.train_run import produce
from bench.settings import Settings, check
from bench.store import RunKey, read_json, run_folder, write_parquet
from bench.tasks.catalogue import TASKS
from bench.tasks.examples import Examples
from bench.trace import Costs, Trace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tiny_settings, tmp_path_factory) -> Settings:
    """The teacher, the added contestant, and a contestant whose training fails; all runs made, united and reported."""
    values = tiny_settings(tmp_path_factory.mktemp("results")).model_dump()
    teacher = values["contestants"]["teacher"]
    values["contestants"] = {
        "teacher": teacher,
        "every-other": {
            "method": "examples.every_other:EveryOther",
            "options": {"epochs": 2, "learning_rate": 2e-3},
        },
        "diverging": {"method": "failing:Diverging", "options": {"epochs": 1, "learning_rate": 1.0}},
    }
    settings = check(values | {"depth_reference": None, "latency": {"examples": 8, "rounds": 1}}, "test")
    for planned in runs(settings):
        produce(settings, planned.key)
    replay(settings, "sst2", 0)
    measure_latency(settings, settings.root / "latency.parquet")
    write_parquet(settings.root / "all-points.parquet", collect(settings))
    list(write_everything(settings))
    return settings


def test_it_is_in_every_table_and_on_the_page(settings):
    for table in ("main", "frontier", "per-exit"):
        text = (settings.root / "tables" / f"{table}.md").read_text()
        assert "Every other layer" in text or "every-other" in text, table
    page = (settings.root / "index.html").read_text()
    assert "Every other layer" in page
    assert (settings.root / "figures" / "frontier-sst2.png").is_file()


def validation(settings: Settings) -> Examples:
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    return task_data(settings, TASKS["sst2"], tokenizer).splits["validation"]


def test_its_points_have_speedups_and_measured_latencies(settings):
    points = pd.read_parquet(settings.root / "all-points.parquet")
    own = points[(points["method"] == "every-other") & (points["split"] == "validation")]
    full = own[own["kind"] == "static"].iloc[0]
    assert full["speedup"] == pytest.approx(2, rel=0.05)  # two layers of four
    for size in (1, 32):
        low, middle, high = (full[f"latency_{size}{end}"] for end in ("_low", "", "_high"))
        assert 0 < low <= middle <= high and full[f"promised_{size}"] == pytest.approx(2, rel=0.05)
    assert full["p95_1"] > 0 and full["reference_p95_1"] > 0 and np.isnan(full["p95_32"])
    assert own[own["kind"] == "fixed_exit"]["speedup"].max() > 3  # one layer of four


def test_measured_and_expected_speedups_are_of_the_same_examples(settings):
    timed = pd.read_parquet(settings.root / "latency.parquet")
    assert (timed["noise_low"] <= timed["noise_high"]).all() and (timed["noise_low"] > 0).all()
    assert timed.groupby(["task", "batch_size"])["noise_low"].nunique().eq(1).all()
    assert timed["hardware"].nunique() == 1 and timed["hardware"].str.contains("thread").all()
    assert set(timed["method"]) == {"teacher", "every-other"}  # and not the one that failed
    lengths = validation(settings).lengths
    for _, row in timed.iterrows():
        chosen = spread(lengths, {1: 2, 32: 8}[row["batch_size"]])
        assert row["examples"] == len(chosen)
        key = RunKey("sst2", row["method"], row["variant"], 0)
        folder = run_folder(settings, key)
        teacher = Costs.load(run_folder(settings, RunKey("sst2", "teacher", "full", 0)) / "costs.json")
        points = points_of(settings, key)[0]
        same = (operated(points) == row["operated"]) & (points["split"] == "validation")
        trace = Trace.load(folder / "trace-validation.parquet")
        exits = exits_taken(points[same].iloc[0].to_dict(), trace)[chosen]
        spent = Costs.load(folder / "costs.json").mean_flops(exits, lengths[chosen])
        assert row["promised"] == pytest.approx(teacher.flops(lengths[chosen])[-1].mean() / spent)
        if row["method"] == "teacher":
            assert row["speedup"] == row["promised"] == 1


def test_the_engine_exits_where_the_points_were_replayed(settings):
    """Static, fixed exits, uniform and per-exit thresholds alike."""
    key = RunKey("sst2", "every-other", "half", 0)
    folder = run_folder(settings, key)
    points = points_of(settings, key)[0].query("split == 'validation'")
    trace = Trace.load(folder / "trace-validation.parquet")
    model = load_model(folder, torch.device("cpu"))
    for kind, rows in points.groupby("kind"):
        for point in rows.iloc[[0, len(rows) // 2, -1]].to_dict("records"):
            for size in (1, 32):
                found = run(model, validation(settings), decision(point), size).exits
                assert (found != exits_taken(point, trace)).mean() < 0.02, kind  # a near tie may round either way


def test_a_missing_run_is_left_out_and_one_without_its_weights_is_refused(settings, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(settings.root, results / settings.profile)
    fewer = settings.model_copy(update={"results": results})
    shutil.rmtree(run_folder(fewer, RunKey("sst2", "every-other", "half", 0)) / "model")
    with pytest.raises(UserError, match="no trained model in"):
        measure_latency(fewer, tmp_path / "one.parquet")
    shutil.rmtree(run_folder(fewer, RunKey("sst2", "every-other", "half", 0)))
    measure_latency(fewer, tmp_path / "one.parquet")
    assert set(pd.read_parquet(tmp_path / "one.parquet")["method"]) == {"teacher"}
    shutil.rmtree(run_folder(fewer, RunKey("sst2", "teacher", "full", 0)))
    measure_latency(fewer, tmp_path / "none.parquet")
    assert len(pd.read_parquet(tmp_path / "none.parquet")) == 0


def test_times_of_two_machines_are_refused(settings, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(settings.root, results / settings.profile)
    elsewhere = settings.model_copy(update={"results": results})
    timed = pd.read_parquet(elsewhere.root / "latency.parquet")
    timed.loc[0, "hardware"] = "another"
    write_parquet(elsewhere.root / "latency.parquet", timed)
    with pytest.raises(UserError, match="different machines"):
        collect(elsewhere)


def test_a_training_that_fails_is_a_row_with_its_reason(settings):
    points = pd.read_parquet(settings.root / "all-points.parquet")
    failed = points[points["status"] == "failed"]
    assert failed["method"].tolist() == ["diverging"] and "lower the learning rate" in failed["reason"].iloc[0]
    assert "lower the learning rate" in (settings.root / "tables" / "main.md").read_text()


def test_every_run_names_what_made_it(settings):
    for planned in runs(settings):
        facts = read_json(run_folder(settings, planned.key) / "run.json")
        if facts["status"] == "failed":
            continue
        for name in ("identity", "asked", "where", "data", "backbone", "code", "versions", "hardware", "wall_seconds"):
            assert facts[name], name
        assert len(facts["backbone"]["sha256"]) == 64
