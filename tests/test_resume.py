"""A killed run goes on and ends as the unbroken one, bit for bit."""

import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bench.method import contestant
from bench.runs.train_run import produce
from bench.settings import Settings
from bench.store import RunKey, run_folder, state_folder
from bench.training import saving
from bench.training.saving import CHECKPOINT, FINAL

pytestmark = pytest.mark.slow

LONG = {
    "teacher": {"epochs": 4},
    "costeff": {"sizes": {"small": {"heads": 0.25, "ffn": 0.25, "rank": 0.5}}, "rate": 2},
    "cascadebert": {"epochs": 4, "fold_epochs": 1},
}


def saved_at(stage: str, step: int) -> Callable[[Path], bool]:
    """Whether a checkpoint of that stage at or after that step is there."""

    def reached(state: Path) -> bool:
        file = state / stage / CHECKPOINT
        return file.is_file() and saving.read(file)[1]["step"] >= step

    return reached


def settings_with(tiny_settings: Callable[..., Settings], results: Path, save_seconds: float) -> Settings:
    settings = tiny_settings(results)
    contestants = settings.model_dump()["contestants"]
    for name, options in LONG.items():
        contestants[name]["options"] |= options
    training = {"save_seconds": save_seconds}
    return tiny_settings(results, contestants=contestants, training=training)


def kill_when(settings: Settings, key: RunKey, reached: Callable[[Path], bool], config: Path) -> None:
    """Starts the run in a process of its own and kills it without a warning at that moment."""
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    command = [sys.executable, "-m", "bench.cli", "run", key.task, key.method, key.variant]
    log = config.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen([*command, "--config", str(config)], stdout=output, stderr=output)
        try:
            while not reached(state_folder(settings, key)):
                assert process.poll() is None, log.read_text()
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (run_folder(settings, key) / "run.json").exists()


def make(settings: Settings, key: RunKey) -> None:
    """The run and what it needs."""
    for needed in contestant(settings, key.method, key.task).needs(key.variant):
        make(settings, RunKey(key.task, needed.contestant, needed.variant, key.seed))
    produce(settings, key)


def copy_needed(settings: Settings, key: RunKey, to: Settings) -> None:
    for needed in settings.root.glob("runs/sst2/*"):
        if needed.name != key.method:
            shutil.copytree(needed, to.root / "runs/sst2" / needed.name)


def assert_equal_runs(whole: Path, resumed: Path) -> None:
    weights, expected = (load_file(folder / "model" / "model.safetensors") for folder in (resumed, whole))
    assert all(torch.equal(weights[parameter], value) for parameter, value in expected.items())
    for file in ("trace-calibration.parquet", "trace-validation.parquet"):
        tables = [pd.read_parquet(folder / file) for folder in (resumed, whole)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize(
    ("name", "variant", "stage", "step"),
    [
        ("teacher", "full", "finetune", 20),  # after the first choice of a best epoch
        ("costeff", "small", "period-2", 3),  # while slenderising, with one width behind it
        ("cascadebert", "full", "small", 20),  # with the random pairs of its loss
    ],
)
def test_a_killed_run_ends_as_the_unbroken_one(tiny_settings, tmp_path, caplog, name, variant, stage, step):
    key = RunKey("sst2", name, variant, 0)
    unbroken = settings_with(tiny_settings, tmp_path / "unbroken", save_seconds=600)
    broken = settings_with(tiny_settings, tmp_path / "broken", save_seconds=1e-6)
    make(unbroken, key)
    copy_needed(unbroken, key, broken)

    kill_when(broken, key, saved_at(stage, step), tmp_path / "broken.yaml")
    assert not (state_folder(broken, key) / stage / "final.safetensors").exists()
    with caplog.at_level(logging.INFO):
        produce(settings_with(tiny_settings, tmp_path / "broken", save_seconds=600), key)
    resumed_at = [int(found[1]) for found in re.finditer(rf"{stage}: steps (\d+) to", caplog.text)]
    assert len(resumed_at) == 1
    assert resumed_at[0] > step
    assert_equal_runs(run_folder(unbroken, key), run_folder(broken, key))


def saved_anew(state: Path, pid: int) -> bool:
    """Whether this process has written to the state: its own file is newer than itself."""
    began = Path(f"/proc/{pid}").stat().st_mtime
    try:
        return any(path.stat().st_mtime > began for path in state.glob("*/*.safetensors"))
    except FileNotFoundError:
        return False


def test_up_to_ten_kills_at_random_moments(tiny_settings, tmp_path):
    """One command, repeated after each kill, wherever it struck: while importing, training, saving or tracing."""
    key = RunKey("sst2", "costeff", "small", 0)
    unbroken = settings_with(tiny_settings, tmp_path / "unbroken", save_seconds=600)
    broken = settings_with(tiny_settings, tmp_path / "broken", save_seconds=0.05)
    make(unbroken, key)
    copy_needed(unbroken, key, broken)
    config = tmp_path / "broken.yaml"
    config.write_text(yaml.safe_dump(broken.model_dump(mode="json")))
    command = [sys.executable, "-m", "bench.cli", "run", key.task, key.method, key.variant, "--config", str(config)]
    generator = np.random.default_rng(0)
    killed = 0
    while not (run_folder(broken, key) / "run.json").exists():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = state_folder(broken, key)
        while killed < 10 and process.poll() is None and not saved_anew(state, process.pid):
            time.sleep(0.01)
        if killed < 10 and process.poll() is None:
            time.sleep(generator.uniform(0, 0.3))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        assert process.wait() in (0, -signal.SIGKILL)
    assert killed >= 3  # a fast machine finishes before the tenth
    assert_equal_runs(run_folder(unbroken, key), run_folder(broken, key))


@pytest.mark.parametrize("name", ["teacher", "costeff", "cascadebert"])
def test_a_young_run_writes_no_more_than_it_keeps(tiny_settings, tmp_path, monkeypatch, name):
    """Its stages leave nothing on the disk while it is younger than `save_seconds`; an old run writes them."""
    written: dict[str, int] = {}

    def counted(tensors, path, facts=None):
        real(tensors, path, facts)
        written[path.name] = written.get(path.name, 0) + path.stat().st_size

    real = saving.write
    monkeypatch.setattr(saving, "write", counted)
    settings = settings_with(tiny_settings, tmp_path / "young", save_seconds=600)
    key = RunKey("sst2", name, contestant(settings, name, "sst2").variants()[0], 0)
    make(settings, key)
    assert written == {}
    old = settings_with(tiny_settings, tmp_path / "old", save_seconds=1e-6)
    copy_needed(settings, key, old)
    produce(old, key)
    assert set(written) == {CHECKPOINT, FINAL}
    assert_equal_runs(run_folder(settings, key), run_folder(old, key))
