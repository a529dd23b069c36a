"""Requirements that every contestant meets: each of the profile `conform` runs end to end."""

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import baselines
import costeff
import family
from bench.conformance.backbone import make_backbone
from bench.conformance.checks import CHECKS, Check
from bench.conformance.runs import Runs
from bench.errors import UserError
from bench.measuring.recording import record
from bench.method import Method, contestant
from bench.settings import Settings, load
from bench.store import RunKey

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "config"


def present(settings: Settings) -> list[str]:
    """The contestants whose code is there: one may be removed by deleting its file."""
    return [
        name for name, entry in settings.contestants.items() if importlib.util.find_spec(entry.method.partition(":")[0])
    ]


def cases() -> list:
    """Return a parameter for each check and run; those of a run follow each other, so that one worker trains it."""
    settings = load("conform")
    return [
        pytest.param(check, RunKey(task, name, variant, 0), id=f"{task}-{name}-{variant}-{check.test.__name__}")
        for task in sorted({task for check in CHECKS for task in check.tasks})
        for name in present(settings)
        for method in [contestant(settings, name, task)]
        for variant in method.variants()
        for check in CHECKS
        if task in check.tasks and (not check.exits or method.policy != "none")
    ]


@pytest.fixture(scope="session")
def runs(tiny_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tiny_settings(tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="session")
def again(tiny_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tiny_settings(tmp_path_factory.mktemp("second")))


@pytest.mark.parametrize(("check", "key"), cases())
def test_a_method_of_the_suite_conforms(runs: Runs, again: Runs, check: Check, key: RunKey):
    check.test(runs, again, key) if check.twice else check.test(runs, key)


@pytest.fixture(scope="session")
def modern_runs(tiny_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    backbone = make_backbone(tmp_path_factory.mktemp("modern"), "modernbert")
    return Runs(tiny_settings(tmp_path_factory.mktemp("on modern"), backbone={"name": str(backbone)}))


OF_BERT = {"tinybert", "kcm", "shared", "lesa", "apollo", "smile", "arithmetic", "ast", "sherl", "soups"}
"""Methods that need BERT's layout."""


@pytest.mark.parametrize("name", sorted(OF_BERT & set(load("conform").contestants)))
def test_a_method_that_needs_berts_layout_refuses_others(modern_runs: Runs, name: str):
    with pytest.raises(UserError, match=f"contestants.{name}: .*modernbert's layout"):
        contestant(modern_runs.settings, name, "sst2").check()


@pytest.mark.parametrize("name", [name for name in present(load("conform")) if name not in OF_BERT])
def test_a_method_of_the_suite_conforms_on_modernberts_layout(modern_runs: Runs, name: str):
    """On one task."""
    for variant in contestant(modern_runs.settings, name, "sst2").variants():
        key = RunKey("sst2", name, variant, 0)
        for check in CHECKS:
            if not check.twice and not (check.exits and modern_runs.rule(key).name == "none"):
                check.test(modern_runs, key)


def test_every_method_has_a_tiny_setting():
    known = {entry.method for entry in load("conform").contestants.values()}
    for package in (baselines, costeff, family):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(found, Method) and found.__module__ == module.name:
                    assert f"{module.name}:{name}" in known
    for profile in CONFIG.glob("*.yaml"):
        values = yaml.safe_load(profile.read_text()).get("contestants") or {}
        assert {entry["method"] for entry in values.values() if entry and "method" in entry} <= known, profile


def test_bfloat16_is_for_training_only(tiny_settings: Callable[..., Settings], tmp_path: Path):
    runs = Runs(tiny_settings(tmp_path, training={"precision": "bfloat16"}))
    key = RunKey("sst2", "teacher", "full", 0)
    size = runs.settings.training.eval_batch_size
    again = record(runs.model(key), runs.splits("sst2")["validation"], size)
    np.testing.assert_array_equal(again.logits, runs.trace(key).logits)
