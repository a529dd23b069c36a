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

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bench.method import contestant
from bench.runs.produce import produce
from bench.settings import Settings
from bench.store import RunKey, run_folder, state_folder

LONG = {
    "teacher": {"epochs": 4},
    "costeff": {"sizes": {"small": {"heads": 0.25, "ffn": 0.25, "rank": 0.5}}, "rate": 2},
    "cascadebert": {"epochs": 4, "fold_epochs": 1},
}


def saved_at(stage: str, step: int) -> Callable[[Path], bool]:
    """Whether a complete checkpoint of that stage at or after that step is there."""

    def reached(state: Path) -> bool:
        checkpoints = state.glob(f"{stage}/checkpoint-*/complete")
        return any(int(path.parent.name.split("-")[1]) >= step for path in checkpoints)

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

    def make(key: RunKey) -> None:
        for needed in contestant(unbroken, key.method, key.task).needs(key.variant):
            make(RunKey(key.task, needed.contestant, needed.variant, key.seed))
        produce(unbroken, key)

    make(key)
    for needed in unbroken.root.glob("runs/sst2/*"):
        if needed.name != name:
            shutil.copytree(needed, broken.root / "runs/sst2" / needed.name)

    kill_when(broken, key, saved_at(stage, step), tmp_path / "broken.yaml")
    assert not (state_folder(broken, key) / stage / "final.safetensors").exists()
    with caplog.at_level(logging.INFO):
        produce(settings_with(tiny_settings, tmp_path / "broken", save_seconds=600), key)
    resumed_at = [int(found[1]) for found in re.finditer(rf"{stage}: steps (\d+) to", caplog.text)]
    assert len(resumed_at) == 1
    assert resumed_at[0] > step

    whole, resumed = run_folder(unbroken, key), run_folder(broken, key)
    weights, expected = (load_file(folder / "model" / "model.safetensors") for folder in (resumed, whole))
    assert all(torch.equal(weights[parameter], value) for parameter, value in expected.items())
    for file in ("trace-calibration.parquet", "trace-validation.parquet"):
        tables = [pd.read_parquet(folder / file) for folder in (resumed, whole)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
