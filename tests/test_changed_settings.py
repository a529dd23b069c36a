"""A changed setting is never ignored in a folder that has results: a stage that depends on it is made again."""

import json
from typing import Any

import pandas as pd
import pytest
from pydantic import BaseModel

from bench.runs import collect as collecting
from bench.runs import plan, replay
from bench.runs.identity import Identities
from bench.settings import Settings, check
from bench.store import write_parquet

# The last digits of results depend on the machine; these settings, and those of files and folders, choose it.
WITHOUT_EFFECT = {
    "folder", "reuse", "profile", "results",
    "training.gpu_share", "training.save_seconds",
    "training.eval_batch_size", "training.kept_gigabytes",
    "data.test",  # `costeff submit` traces the test split where a run has not
    "data.sketch.test",
    "data.revision",  # of the Hub, which this text is not from
    "data.path", "data.source", "data.tasks", "backbone.name", "backbone.revision",  # other text and weights
    "comparison.primary.contestant",
    "keep_models",  # which weights stay on disk
    "precision_axis",  # adds contestants, which are tested one by one
    "own_tasks", "contestants", "studies",  # tested one by one below
}  # fmt: skip
CHANGED: dict[str, Any] = {
    "tasks": ["sst2"], "seeds": [0, 1], "more_seeds": {"sst2": [5]}, "selection": "validation", "reference": "pabee",
    "depth_reference": "first-layers",
    "ablations": {"pabee": "teacher"}, "data.note": "another name", "data.calibration": 20,
    "data.max_train": 50, "data.max_eval": 16, "data.max_length": (30, 30), "training.precision": "bfloat16",
    "training.device": "auto", "training.budget": {"steps": 9}, "latency.speedups": [3.0], "backbone.pooling": "cls",
    "comparison.level": 0.9, "comparison.primary.speedups": [3.0], "backbone.layers": 2,
}  # fmt: skip
"""Another value of the settings for which twice the value and 1 is not one."""


def leaves(section: BaseModel, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings."""
    found = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [f"{prefix}{name}"]
    return found


def changed(values: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """Return the values with another one at a dotted name."""
    name, _, rest = place.partition(".")
    return values | {name: changed(values[name], rest, value) if rest else value}


def depended_on(settings: Settings) -> dict[str, Any]:
    """Return what the workflow compares to find the stages to repeat."""
    identities, planned = Identities(settings), plan.runs(settings)
    return {
        "runs": {run.key.path: identities.of(run.key).hash for run in planned},
        "replay": [replay.inputs(settings, task) for task in settings.tasks],
        "latency": collecting.latency_inputs(settings),
        "collect": collecting.collect_inputs(settings),
        "report": collecting.report_inputs(settings),
    }


@pytest.fixture(scope="module")
def base(tiny_settings, tmp_path_factory) -> Settings:
    values = tiny_settings(tmp_path_factory.mktemp("base")).model_dump()
    kept = {name: values["contestants"][name] for name in ("teacher", "first-layers", "pabee")}
    values |= {"contestants": kept, "depth_reference": None, "tasks": ["sst2", "stsb"]}
    values["data"]["sketch"] = {"train": 96, "validation": 32, "test": 8}
    return check(values | {"data": values["data"] | {"calibration": 24, "max_length": (32, 32)}}, "test")


def test_each_setting_is_something_that_a_stage_depends_on(base: Settings):
    values, before = base.model_dump(), depended_on(base)
    names = leaves(base)
    assert WITHOUT_EFFECT | set(CHANGED) <= {*names, *(name.partition(".")[0] for name in names)}
    ignored = []
    for name in names:
        if name in WITHOUT_EFFECT:
            continue
        now: Any = values
        for part in name.split("."):
            now = now[part]
        other = CHANGED[name] if name in CHANGED else (not now if isinstance(now, bool) else now * 2 + 1)
        if depended_on(check(changed(values, name, other), "test")) == before:
            ignored.append(name)
    assert ignored == []


@pytest.mark.parametrize(
    ("name", "value", "stage"),
    [
        ("comparison.margin", 3.0, "report"), ("comparison.primary.contestant", "pabee", "report"),
        ("reference", "pabee", "replay"), ("reference", "pabee", "latency"), ("reference", "pabee", "collect"),
        ("data.note", "another name", "collect"), ("strict", True, "collect"), ("thresholds.grid", 7, "replay"),
        ("contestants.pabee.options.epochs", 1, "runs"),
    ],
)  # fmt: skip
def test_a_stage_depends_on_what_it_reads(name, value, stage, base: Settings):
    after = depended_on(check(changed(base.model_dump(), name, value), "test"))
    assert after[stage] != depended_on(base)[stage]


def test_times_of_another_reference_or_of_other_examples_are_not_current(base: Settings):
    """Snakemake compares no params of a job whose ancient inputs are made again, so the file records them."""
    asked = json.dumps(collecting.latency_inputs(base), sort_keys=True)
    assert not collecting.latency_is_current(base)
    write_parquet(base.root / "latency.parquet", pd.DataFrame({"asked": [asked, asked]}))
    assert collecting.latency_is_current(base)
    for name, value in (("reference", "pabee"), ("latency.examples", 3)):
        assert not collecting.latency_is_current(check(changed(base.model_dump(), name, value), "test"))


def test_the_order_of_contestants_changes_tables_and_repeats_no_replay(base: Settings):
    values = base.model_dump()
    other = check(values | {"contestants": dict(reversed(values["contestants"].items()))}, "test")
    before, after = depended_on(base), depended_on(other)
    assert after["replay"] == before["replay"] and after["runs"] == before["runs"]
    assert after["collect"] != before["collect"]
