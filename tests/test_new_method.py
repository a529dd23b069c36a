"""A contestant outside the repository's packages gets its row in every table and its line in every figure."""

import pandas as pd
import pytest

from bench.reporting.everything import write_everything
from bench.runs.clock import measure_latency
from bench.runs.collect import collect
from bench.runs.plan import runs
from bench.runs.produce import produce
from bench.settings import Settings, check
from bench.store import read_json, run_folder, write_parquet


@pytest.fixture(scope="module")
def settings(tiny_settings, tmp_path_factory) -> Settings:
    """The teacher, the newcomer, and a contestant whose training fails; all runs made, united and reported."""
    values = tiny_settings(tmp_path_factory.mktemp("results")).model_dump()
    teacher = values["contestants"]["teacher"]
    values["contestants"] = {
        "teacher": teacher,
        "every-other": {
            "method": "examples.every_other:EveryOther",
            "options": {"epochs": 2, "learning_rate": 2e-3},
        },
        "doomed": teacher | {"options": {"epochs": 1, "learning_rate": 1e30}},
    }
    settings = check(values | {"depth_reference": None, "latency": {"examples": 8, "rounds": 1}}, "test")
    for planned in runs(settings):
        produce(settings, planned.key)
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


def test_its_points_have_speedups_and_measured_latencies(settings):
    points = pd.read_parquet(settings.root / "all-points.parquet")
    own = points[(points["method"] == "every-other") & (points["split"] == "validation")]
    full = own[own["kind"] == "static"].iloc[0]
    assert full["speedup"] == pytest.approx(2, rel=0.05)  # two layers of four
    assert full["latency_1"] > 0 and full["latency_32"] > 0
    assert own[own["kind"] == "fixed_exit"]["speedup"].max() > 3  # one layer of four


def test_a_training_that_fails_is_a_row_with_its_reason(settings):
    points = pd.read_parquet(settings.root / "all-points.parquet")
    failed = points[points["status"] == "failed"]
    assert failed["method"].tolist() == ["doomed"] and "lower the learning rate" in failed["reason"].iloc[0]
    assert "lower the learning rate" in (settings.root / "tables" / "main.md").read_text()


def test_every_run_names_what_made_it(settings):
    for planned in runs(settings):
        facts = read_json(run_folder(settings, planned.key) / "run.json")
        for name in ("settings_hash", "data", "backbone", "code", "versions", "hardware", "wall_seconds"):
            assert facts[name], name
        assert len(facts["backbone"]["sha256"]) == 64
