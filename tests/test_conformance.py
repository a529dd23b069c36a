"""What every contestant owes, whatever it does inside: each of tests/tiny.yaml, end to end."""

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import baselines
import costeff
from bench.artefacts import Costs, Trace
from bench.context import load_model, task_data
from bench.encoder.backbones import tokenizer
from bench.encoder.early import engine
from bench.measuring.recording import record
from bench.method import Method, contestant
from bench.rules.deciding import rule
from bench.rules.policies import Policy, policy_for, replay, replay_many
from bench.runs.produce import produce
from bench.runs.replay import points_of
from bench.settings import Settings, load
from bench.store import RunKey, read_json, run_folder, state_folder
from bench.tasks.examples import Examples

CONFIG = Path(__file__).parents[1] / "config"
TINY = Path(__file__).parent / "tiny.yaml"


def present(settings: Settings) -> list[str]:
    """The contestants whose code is there: one may be removed by deleting its file."""
    return [
        name for name, entry in settings.contestants.items() if importlib.util.find_spec(entry.method.partition(":")[0])
    ]


def variants(task: str, early_exit: bool = False) -> list:
    """One parameter a run; `early_exit`: only of the contestants that have an exit rule on this task."""
    settings = load(TINY)
    return [
        pytest.param(RunKey(task, name, variant, 0), id=f"{task}-{name}-{variant}")
        for name in present(settings)
        for variant in contestant(settings, name, task).variants()
        if not early_exit or contestant(settings, name, task).policy != "none"
    ]


everyone = pytest.mark.parametrize("key", variants("sst2"))
everyone_and_regression = pytest.mark.parametrize("key", variants("sst2") + variants("stsb"))
early_exits = pytest.mark.parametrize("key", variants("sst2", True) + variants("stsb", True))


@dataclass
class Runs:
    """A results folder that makes a run, and the runs it needs, when first asked for it."""

    settings: Settings
    made: set[RunKey] = field(default_factory=set)
    data: dict[str, Examples] = field(default_factory=dict)

    def __call__(self, key: RunKey) -> Path:
        if key not in self.made:
            for needed in self.method(key).needs(key.variant):
                self(RunKey(key.task, needed.contestant, needed.variant, key.seed))
            produce(self.settings, key)
            self.made.add(key)
        return run_folder(self.settings, key)

    def method(self, key: RunKey) -> Method:
        return contestant(self.settings, key.method, key.task)

    def policy(self, key: RunKey) -> Policy:
        method = self.method(key)
        return policy_for(method.policy, method.task.regression, method.exit_start())

    def validation(self, task: str) -> Examples:
        if task not in self.data:
            words = tokenizer(self.settings.backbone.name)
            found = task_data(self.settings, contestant(self.settings, "teacher", task).task, words)
            self.data[task] = found.splits["validation"]
        return self.data[task]

    def trace(self, key: RunKey) -> Trace:
        return Trace.load(self(key) / "trace-validation.parquet")

    def points(self, key: RunKey) -> pd.DataFrame:
        self(key)
        table, _ = points_of(self.settings, key)
        return table

    def knobs(self, key: RunKey) -> np.ndarray:
        """The uniform knobs of the policy, loosest first."""
        exits, _, outputs = self.trace(key).logits.shape
        return self.policy(key).knobs(self.settings.thresholds.grid, exits, outputs)


@pytest.fixture(scope="session")
def runs(tiny_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tiny_settings(tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="session")
def again(tiny_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tiny_settings(tmp_path_factory.mktemp("second")))


def test_every_method_has_a_tiny_setting():
    known = {entry.method for entry in load(TINY).contestants.values()}
    for package in (baselines, costeff):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(found, Method) and found.__module__ == module.name:
                    assert f"{module.name}:{name}" in known
    for profile in CONFIG.glob("*.yaml"):
        values = yaml.safe_load(profile.read_text()).get("contestants") or {}
        assert {entry["method"] for entry in values.values() if entry and "method" in entry} <= known, profile


@everyone
def test_leaves_a_whole_run(runs: Runs, key: RunKey):
    folder = runs(key)
    splits = {"calibration", "validation"}
    files = {"costs.json", "model", "run.json", *(f"trace-{split}.parquet" for split in splits)}
    assert files <= {path.name for path in folder.iterdir()}
    assert read_json(folder / "run.json")["status"] == "ok"
    assert not state_folder(runs.settings, key).exists()
    points = runs.points(key)
    assert set(points["split"]) == splits
    assert (points["kind"] == "static").sum() == len(splits)
    assert points["score"].notna().all()
    identity = {"task": key.task, "method": key.method, "variant": key.variant, "seed": key.seed}
    assert (points[list(identity)] == pd.Series(identity)).all(axis=None)


@everyone_and_regression
def test_the_saved_model_gives_the_kept_trace(runs: Runs, key: RunKey):
    model = load_model(runs(key), torch.device("cpu"))
    size = runs.settings.training.eval_batch_size
    np.testing.assert_array_equal(record(model, runs.validation(key.task), size).logits, runs.trace(key).logits)
    assert Costs.load(runs(key) / "costs.json").macs(-1, 20) == model.exit_macs(20)[-1]


@everyone_and_regression
def test_batch_size_changes_nothing(runs: Runs, key: RunKey):
    model, examples = load_model(runs(key), torch.device("cpu")), runs.validation(key.task).take(range(40))
    one, many = (record(model, examples, size).logits for size in (1, 32))
    np.testing.assert_allclose(one, many, atol=1e-5, rtol=1e-5)


@early_exits
def test_the_knob_goes_from_the_first_exit_to_full_depth(runs: Runs, key: RunKey):
    knobs, policy, trace = runs.knobs(key), runs.policy(key), runs.trace(key)
    left = replay_many(policy, trace.logits, knobs)
    assert (np.diff(left, axis=0) >= 0).all()
    assert (left[-1] == len(trace.logits) - 1).all()
    if policy.name == "patience":  # its loosest knob still asks two exits to agree
        assert left[0].min() == policy.earliest
    else:
        assert (left[0] == policy.earliest).all()


@early_exits
def test_points_cost_more_as_the_knob_tightens(runs: Runs, key: RunKey):
    points = runs.points(key)
    for _, split in points.groupby("split"):
        uniform = split[split["kind"] == "uniform"].sort_values("point")
        static = split[split["kind"] == "static"].iloc[0]
        assert (uniform["policy"] == runs.policy(key).name).all()
        assert uniform["flops"].is_monotonic_increasing
        columns = ["flops", "score", "mean_exit"]
        np.testing.assert_allclose(uniform.iloc[-1][columns].astype(float), static[columns].astype(float), rtol=1e-9)
        assert (uniform["flops"] <= static["flops"]).all()


@early_exits
def test_the_engine_decides_as_the_replay(runs: Runs, key: RunKey):
    knobs, policy, trace = runs.knobs(key), runs.policy(key), runs.trace(key)
    model, examples = load_model(runs(key), torch.device("cpu")), runs.validation(key.task)
    vectors = runs.points(key).query("kind == 'per_exit' and split == 'validation'")["thresholds"]
    for knob in map(np.asarray, [*knobs[[0, len(knobs) // 3, len(knobs) // 2, -1]], *vectors.iloc[:1]]):
        expected = replay(policy, trace.logits, knob)
        # Who lies on the threshold to within rounding may go either way.
        near = 0.0 if policy.name == "patience" else 1e-5
        sure = replay(policy, trace.logits, knob * (1 - near)) == replay(policy, trace.logits, knob * (1 + near))
        assert sure.mean() > 0.9
        answers = trace.logits[expected, np.arange(len(examples))]
        for size in (1, 32):
            found = engine.run(model, examples, rule(policy, knob), size)
            np.testing.assert_array_equal(found.exits[sure], expected[sure])
            np.testing.assert_allclose(found.logits[sure], answers[sure], atol=1e-5, rtol=1e-5)


@everyone
def test_the_same_seed_gives_the_same_points(runs: Runs, again: Runs, key: RunKey):
    pd.testing.assert_frame_equal(runs.points(key), again.points(key), check_exact=True)


@everyone
def test_learns_more_than_the_control_class(runs: Runs, key: RunKey):
    points = runs.points(key).query("kind == 'static' and split == 'validation'")
    labels = runs.trace(key).labels
    assert points["score"].iloc[0] > np.bincount(labels).max() / len(labels) + 0.1


def test_bfloat16_is_for_training_only(tiny_settings: Callable[..., Settings], tmp_path: Path):
    runs = Runs(tiny_settings(tmp_path, training={"precision": "bfloat16"}))
    key = RunKey("sst2", "teacher", "full", 0)
    model = load_model(runs(key), torch.device("cpu"))
    size = runs.settings.training.eval_batch_size
    np.testing.assert_array_equal(record(model, runs.validation("sst2"), size).logits, runs.trace(key).logits)
