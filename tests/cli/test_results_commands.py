"""Commands that read the results of a real run: each option of the command line reaches what it is for."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from bench.cli import app
from bench.runs.collect import collect
from bench.runs.plan import runs
from bench.runs.replay import replay
from bench.runs.train_run import produce
from bench.settings import Settings, check
from bench.sharing.folders import open_folder
from bench.store import write_parquet
from bench.tasks.sketch.generator import generate

TEXTS = ["a fine and moving film", "a dull film", "the plot is thin"]


@pytest.fixture(scope="module")
def results(tiny_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """settings.yaml of a finished profile: a teacher and PABEE on SST-2 in the Hub's layout, with hidden test rows."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "glue" / "sst2").mkdir(parents=True)
    for split, count in {"train": 96, "validation": 32, "test": 16}.items():
        rows = pd.DataFrame(generate("sst2", split, count, 0))[["sentence", "label", "idx"]]
        rows.to_parquet(folder / "glue" / "sst2" / f"{split}-00000-of-00001.parquet")
    values = tiny_settings(folder / "results").model_dump()
    brief = {"epochs": 1, "learning_rate": 3e-3}
    values["contestants"] = {
        name: values["contestants"][name] | {"options": values["contestants"][name]["options"] | brief, "tasks": {}}
        for name in ("teacher", "pabee")
    }
    values |= {"tasks": ["sst2"], "depth_reference": None, "studies": []}
    values["data"] |= {"source": "folder", "path": str(folder / "glue"), "calibration": 24, "max_length": (24, 24)}
    settings = check(values, "test")
    for planned in runs(settings):
        assert produce(settings, planned.key) == ""
    replay(settings, "sst2", 0)
    write_parquet(settings.root / "all-points.parquet", collect(settings))
    file = settings.root / "settings.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return file


def costeff(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def taken(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("taken") / "model"
    said = costeff("take", "sst2", "pabee", out, "--speedup", "1.5", "--config", results)
    points = pd.read_parquet(results.parent / "all-points.parquet")
    cheaper = float(said.split("x cheaper")[0].split()[-1])
    assert cheaper >= 1.4 and cheaper < points["speedup"].max() + 0.01
    return out


def test_take_writes_the_form_that_is_asked_for(results, taken, tmp_path):
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= {
        path.name for path in taken.iterdir()
    }
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: costeff-bench[onnx]")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: costeff-bench[onnx]")
    said = costeff("take", "sst2", "teacher", tmp_path / "graphs", "--format", "onnx", "--int8", "--config", results)
    assert "int8" in said and list((tmp_path / "graphs").glob("*.onnx"))


def test_load_and_runtimes_read_what_take_wrote(taken, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    out = tmp_path / "load.csv"
    options = ("--rate", "20", "--seconds", "1", "--batch", "2", "--window", "5", "--threads", "1")
    costeff("load", taken, "--texts", tmp_path / "texts.txt", "--out", out, *options)
    table = pd.read_csv(out)
    assert set(table["rate"]) == {20.0} and set(table["early_exit"]) == {True, False}
    assert (table["p50_ms"] > 5).all()  # a text waits for another one, of which few come
    assert "torch" in costeff("runtimes", taken, "--rounds", "1")


def test_publish_without_traces_is_smaller_and_valid(results, tmp_path):
    profile = ("--config", results)
    costeff("publish", tmp_path / "whole", *profile)
    costeff("publish", tmp_path / "few", "--points-only", *profile)
    few, whole = (
        sum(file.stat().st_size for file in (tmp_path / name).rglob("*") if file.is_file()) for name in ("few", "whole")
    )
    assert few < whole and not list((tmp_path / "few").rglob("trace-*"))
    assert len(open_folder(tmp_path / "few").points()) <= len(open_folder(tmp_path / "whole").points())
    costeff("validate", tmp_path / "whole")
    costeff("export", tmp_path / "whole", tmp_path / "index", "--to", "model-index")
    assert any(file.is_file() for file in (tmp_path / "index").rglob("*"))


def test_nothing_is_left_to_forecast(results):
    assert "all runs have results" in costeff("forecast", "--config", results)
    assert "2 of 2 runs" in costeff("progress", "--config", results)
