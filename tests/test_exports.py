"""Exports are accepted by the validators and readers of the formats themselves, and hold the table's numbers."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from huggingface_hub import ModelCard
from test_foreign_records import KEYS, REFERENCE, part
from urllib3 import HTTPResponse

from bench.analysis.budgets import at_budget
from bench.errors import UserError
from bench.exports.formats import export
from bench.settings import Settings, check
from bench.sharing.folders import ResultsFolder, open_folder
from bench.sharing.results import publish

TEXTS = ['a "quoted", long text', "naïve\tand odd", "0012", "a line\nand another"]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A teacher and PABEE, on a classification and a regression, in a folder with a space."""
    return part(tmp_path_factory.mktemp("a folder") / "results of others", KEYS)


def expected(folder: Path, method: str, task: str, budget: float, metric: str) -> float:
    rows = at_budget(pd.read_parquet(folder / "all-points.parquet"), budget)
    return float(rows[(rows["method"] == method) & (rows["task"] == task)][metric].mean())


def test_every_eval_ever(published, tmp_path):
    validator = pytest.importorskip(
        "every_eval_ever.validator.validation_core", reason="every-eval-ever is not installed (Python 3.12)"
    )
    records = export(published, "every-eval-ever", tmp_path / "out")
    assert len(records) == 2
    for path in records:
        place = path.relative_to(tmp_path / "out").as_posix()
        report = validator.validate_aggregate(path, repo_path=place, run_semantic_checks=True)
        assert report.valid and not report.errors and not report.warnings, (report.errors, report.warnings)


def test_records_of_every_eval_ever_hold_the_numbers_of_the_points(published, tmp_path):
    for path in export(published, "every-eval-ever", tmp_path / "out"):
        record = json.loads(path.read_text())
        assert record["evaluation_results"]
        for result in record["evaluation_results"]:
            task, metric, budget = result["evaluation_result_id"].split("/")
            value = expected(published, path.parent.name, task, float(budget.removesuffix("x")), metric)
            assert result["score_details"]["score"] == pytest.approx(value, abs=1e-12)


def test_points_without_traces_are_exported_as_reported_numbers(published, tmp_path):
    publish(open_folder(published).settings, tmp_path / "small", points_only=True)
    for path in export(tmp_path / "small", "every-eval-ever", tmp_path / "out"):
        assert json.loads(path.read_text())["source_metadata"]["source_type"] == "documentation"


def test_model_index_is_read_by_the_hub(published, tmp_path):
    cards = export(published, "model-index", tmp_path / "out")
    assert len(cards) >= 2
    for path in cards:
        method, budget = re.fullmatch(r"(.+)-([0-9.]+)x", path.stem).groups()
        results = ModelCard.load(path).data.eval_results
        assert len({(result.unique_identifier, result.metric_type) for result in results}) == len(results) > 0
        for result in results:
            metric = {"pearsonr": "pearson", "spearmanr": "spearman"}.get(result.metric_type, result.metric_type)
            value = expected(published, method, result.dataset_type, float(budget), metric)
            assert result.metric_value == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("to", ["model-index", "every-eval-ever"])
def test_a_method_that_costs_more_than_the_reference_is_exported(published, tmp_path, monkeypatch, to):
    points = open_folder(published).points()
    dear = points["speedup"].where(points["method"] != "pabee", points["speedup"] / points["speedup"].max() / 2)
    monkeypatch.setattr(ResultsFolder, "points", lambda _: points.assign(speedup=dear))
    texts = [path.read_text() for path in export(published, to, tmp_path / "out") if "pabee" in str(path)]
    assert len(texts) == 1 and "at any cost" in texts[0] and "at least" not in texts[0]


@pytest.fixture
def offline_context(monkeypatch):
    """Serve the JSON-LD context of RO-Crate from the package rocrate, and nothing else of the network."""
    rocrate = pytest.importorskip("rocrate", reason="rocrate is not installed: pip install 'costeff-bench[exports]'")
    text = (Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text(encoding="utf-8")
    # The package has the context of version 1.3, in which the terms of Bioschemas have other addresses than in 1.1.
    content = text.replace("https://bioschemas.org/terms/", "https://bioschemas.org/").encode()

    def send(self, request, **_):
        if not request.url.startswith("https://w3id.org/ro/crate/1.1/context"):
            raise requests.ConnectionError(request.url)
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.headers["Content-Type"] = "application/ld+json"
        response.raw = HTTPResponse(content, status=200, headers=dict(response.headers), preload_content=False)
        response._content = content
        return response

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)


def test_ro_crate_is_a_workflow_run_crate(published, tmp_path, offline_context):
    services = pytest.importorskip("rocrate_validator.services", reason="roc-validator is not installed")
    from rocrate.rocrate import ROCrate
    from rocrate_validator.models import Severity, ValidationSettings

    export(published, "ro-crate", tmp_path / "crate")
    settings = ValidationSettings(
        rocrate_uri=str(tmp_path / "crate"),
        profile_identifier="workflow-run-crate",
        requirement_severity=Severity.REQUIRED,
        no_cache=True,  # of documents that another process may have fetched
    )
    result = services.validate(settings)
    assert result.passed(), [issue.message for issue in result.get_issues()]
    crate = ROCrate(tmp_path / "crate")
    run = crate.dereference("#run")
    assert {each.id for each in run["result"]} >= {"all-points.parquet"} and run["instrument"].id == "Snakefile"
    for entity in crate.data_entities:
        assert (tmp_path / "crate" / entity.id).exists()


def test_croissant_of_own_text_is_read_back(tiny_settings, tmp_path):
    """Every text, label and row comes back, odd characters included."""
    mlc = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed: costeff-bench[exports]")
    settings = own_results(tiny_settings, tmp_path / "with a space")
    (path,) = export(settings.root, "croissant", tmp_path / "out")
    dataset = mlc.Dataset(jsonld=path)
    assert not dataset.metadata.ctx.issues.errors
    read = [row["train/text"].decode() for row in dataset.records("train")]
    assert read == TEXTS * 20
    labels = [row["train/label"].decode() for row in dataset.records("train")]
    assert labels == ["bad, very", "good"] * 40
    publish_like = tmp_path / "elsewhere" / "published"
    publish_like.mkdir(parents=True)
    (publish_like / "settings.yaml").write_bytes((settings.root / "settings.yaml").read_bytes())
    with pytest.raises(UserError, match="has no text"):
        export(publish_like, "croissant", tmp_path / "not")


def own_results(tiny_settings, home: Path) -> Settings:
    """Write the settings of a profile with an own task into its results folder."""
    home.mkdir()
    for split, times in (("train", 20), ("validation", 5)):
        table = pd.DataFrame({"text": TEXTS * times, "label": ["bad, very", "good"] * (2 * times)})
        table.to_csv(home / f"{split}.csv", index=False)
    files = {split: str(home / f"{split}.csv") for split in ("train", "validation")}
    task = {"columns": ["text"], "labels": ["bad, very", "good"], "metrics": ["accuracy"], "files": files}
    values = tiny_settings(home / "results").model_dump() | {"tasks": ["mail"], "own_tasks": {"mail": task}}
    settings = check(values | {"studies": []}, "test")
    settings.root.mkdir(parents=True)
    (settings.root / "settings.yaml").write_text(json.dumps(settings.model_dump(mode="json")))
    return settings


def test_croissant_of_generated_text(tiny_settings, tmp_path):
    mlc = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed: costeff-bench[exports]")
    values = tiny_settings(tmp_path / "results").model_dump()
    settings = check(
        values | {"data": values["data"] | {"test": True, "sketch": {"train": 96, "validation": 48, "test": 16}}},
        "test",
    )
    settings.root.mkdir(parents=True)
    (settings.root / "settings.yaml").write_text(json.dumps(settings.model_dump(mode="json")))
    paths = export(settings.root, "croissant", tmp_path / "out")
    assert {path.parent.name for path in paths} == set(settings.tasks)
    hidden = pd.read_csv(tmp_path / "out" / "sst2" / "test.csv")
    assert len(hidden) == settings.data.sketch.test and "label" not in hidden
    for path in paths:
        dataset = mlc.Dataset(jsonld=path)
        assert not dataset.metadata.ctx.issues.errors
        rows = list(dataset.records("train"))
        assert len(rows) == settings.data.sketch.train and np.all([len(row) >= 3 for row in rows])


@pytest.mark.parametrize("to", ["every-eval-ever", "model-index", "ro-crate", "croissant"])
def test_nothing_is_overwritten(published, tmp_path, to):
    (tmp_path / "there").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        export(published, to, tmp_path)


def test_an_export_that_fails_leaves_nothing(tiny_settings, tmp_path):
    """The second of two files is missing."""
    pytest.importorskip("mlcroissant", reason="mlcroissant is not installed: costeff-bench[exports]")
    settings = own_results(tiny_settings, tmp_path / "own")
    (tmp_path / "own" / "validation.csv").unlink()
    with pytest.raises(UserError, match=r"validation\.csv"):
        export(settings.root, "croissant", tmp_path / "exported" / "out")
    assert not list((tmp_path / "exported").iterdir())


def test_the_text_of_glue_is_not_exported(tmp_path):
    with pytest.raises(UserError, match="text of GLUE"):
        export(REFERENCE, "croissant", tmp_path / "out")
