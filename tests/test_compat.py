"""Files of version 0.2 are read under today's names."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toys import cascade, encoder, examples
from transformers import AutoModelForSequenceClassification

from baselines.finetuned import supervised
from bench import compat
from bench.encoder import Cascade, EarlyExitClassifier, Encoder
from bench.encoder.early.classifier import EarlyExitConfig
from bench.encoder.saved import load_model
from bench.exit_policies import operating
from bench.sharing.folders import open_folder
from bench.store import read_points, write_parquet
from bench.training.loop import Machine, Plan, fit
from bench.training.saving import CHECKPOINT

REFERENCE = Path(__file__).parent / "data" / "results-0.2"


def exported() -> EarlyExitClassifier:
    return EarlyExitClassifier.of(encoder(), {"kind": "fixed_exit", "exit": 2}, ("no", "maybe", "yes"))


def old(name: str) -> str:
    return re.sub(r"\bexit_heads\.", "heads.", name)


def age(file: Path) -> None:
    """Give the weights of a file the names of version 0.2."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({old(name): value for name, value in load_file(file).items()}, file, metadata)
    assert re.search(rb'"([\w.]+\.)?heads\.0\.classifier\.weight', file.read_bytes())


@pytest.mark.parametrize("make", [encoder, cascade, exported])
def test_a_model_saved_under_old_names_loads_with_every_weight(make: Callable[[], Encoder | Cascade], tmp_path: Path):
    model, ids = make().eval(), torch.randint(1, 60, (4, 9))
    model.save_pretrained(tmp_path / "model")
    age(tmp_path / "model" / "model.safetensors")
    read: list = [AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")]
    if make is not exported:
        read.append(load_model(tmp_path, torch.device("cpu")))
    read[0].save_pretrained(tmp_path / "again")
    read.append(AutoModelForSequenceClassification.from_pretrained(tmp_path / "again"))
    fresh = make()
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    fresh.load_state_dict({old(name): value for name, value in model.state_dict().items()})
    expected = model(ids).logits
    for loaded in (*read, fresh):
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(loaded.eval()(ids).logits, expected)


def test_a_stage_goes_on_from_a_checkpoint_with_old_names(tmp_path: Path):
    """The optimizer's state is read too: the weights are those of an unbroken stage, bit for bit."""
    data, plan, made = examples(), Plan(3, 1e-2, 8), []

    class Killed(Exception):
        pass

    def stage(name: str, loss=supervised, save_seconds: float = 600) -> None:
        machine = Machine(cpu=True, bfloat16=False, save_seconds=save_seconds)
        made.append(fit(encoder(), loss, data, plan, state=tmp_path / name, seed=0, machine=machine).state_dict())

    steps = iter(range(100))

    def dies(*given) -> torch.Tensor:
        if next(steps) == 7:
            raise Killed
        return supervised(*given)

    stage("unbroken")
    with pytest.raises(Killed):
        stage("resumed", dies, 0)
    age(tmp_path / "resumed" / CHECKPOINT)
    stage("resumed")
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())


def test_an_operating_point_of_0_2_has_todays_field_names():
    published = open_folder(REFERENCE)
    assert "knob" in pd.read_parquet(REFERENCE / "all-points.parquet").columns
    assert "threshold" in published.points().columns and "knob" not in published.points().columns
    config = EarlyExitConfig(
        leaving={"kind": "uniform", "policy": "entropy", "exit_start": 1, "knob": 0.5, "thresholds": []}
    )
    assert config.leaving["threshold"] == 0.5
    assert operating.decision(config.leaving) is not None


def test_exits_of_an_own_policy_are_read_under_the_earlier_column_name(tmp_path: Path):
    """Exits of a policy of the contestant's own were stored in the column `left`."""
    settings = open_folder(REFERENCE).settings.model_copy(update={"results": tmp_path})
    exits = np.array([0, 2, 1], dtype=np.uint8)
    written = (
        pd.read_parquet(REFERENCE / "all-points.parquet").iloc[:1].assign(policy="learned", left=[exits.tobytes()])
    )
    write_parquet(settings.root / "all-points.parquet", written.drop(columns="weights", errors="ignore"))
    points = read_points(settings)
    assert "left" not in points and operating.has_own_policy(points.iloc[0])
    config = EarlyExitConfig(leaving={"kind": "fixed_exit", "exit": 2, "left": None})
    assert "exits_taken" in config.leaving


def test_labels_of_old_tables_are_those_of_today() -> None:
    old = ["cut at depth 3", "finetuned-long", "COST-EFF's assistant", "COST-EFF 8x", "COST-EFF 2x, squat", "PABEE"]
    new = ["first k layers: 3", "teacher, long training", "COST-EFF assistant (full width)", "COST-EFF 8x model"]
    new += ["COST-EFF 2x model, fewer layers, same parameters", "PABEE"]
    rows = pd.DataFrame({"label": old, "knob": 0.5})
    assert list(compat.table(rows)["label"]) == new
    pd.testing.assert_frame_equal(compat.table(compat.table(rows)), compat.table(rows))
