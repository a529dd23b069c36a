"""int8 models: products against integer arithmetic, what is saved and counted, the setting, and whole runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.conformance.checks import CHECKS, batch_size, engine_agrees
from bench.conformance.runs import Runs
from bench.encoder.early import engine
from bench.encoder.saved import load_model
from bench.errors import UserError
from bench.exit_policies.deciding import never
from bench.measuring import counting
from bench.measuring.recording import record
from bench.method import contestant
from bench.precision.int8 import Int8Linear, linears, quantised, rounded
from bench.runs.plan import runs
from bench.runs.replay import replay
from bench.runs.train_run import produce
from bench.runs.training.lineage import steps_in_all
from bench.settings import check
from bench.sharing.models import write_model
from bench.store import RunKey, points_file, run_folder
from family.compression.smile import routed

ROOT = Path(__file__).parents[2]


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(2, 40), st.integers(1, 9), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_layer_computes_products_of_rounded_numbers(seed, rows, inputs, outputs, bias):
    torch.manual_seed(seed)
    layer, values = torch.nn.Linear(inputs, outputs, bias=bias), torch.randn(rows, inputs)
    values[0] = 0
    made = Int8Linear(inputs, outputs, bias)
    made.fill(layer)
    x, w = values.double().numpy(), layer.weight.detach().double().numpy()
    sx, sw = (np.abs(each).max(axis=1, keepdims=True) / 127 for each in (x, w))
    near = made(values).detach().numpy()
    integers = np.rint(w / sw) @ np.rint(np.divide(x, sx, out=np.zeros_like(x), where=sx > 0)).T
    expected = (integers * sw).T * sx + (layer.bias.detach().numpy() if bias else 0)
    steps = (np.abs(w) / sw).sum(1) * sx * sw.T  # a value halfway between two integers may be rounded to either
    assert (np.abs(near - expected) <= 1e-5 + steps * 1.01).all()
    exact = np.abs((x / np.where(sx > 0, sx, 1)) % 1 - 0.5).min() > 1e-3 and np.abs((w / sw) % 1 - 0.5).min() > 1e-3
    if exact:
        np.testing.assert_allclose(near, expected, atol=1e-5, rtol=1e-5)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_rounding_is_within_half_a_step(seed):
    values = torch.randn(6, 11, generator=torch.Generator().manual_seed(seed))
    found, scale = rounded(values)
    assert found.abs().max() == 127
    assert ((found * scale - values).abs() <= scale * 0.501).all()


KINDS = {
    "encoder": lambda: toys.encoder(),
    "signal": lambda: toys.encoder(signal=True, rank=8),
    "shared": lambda: toys.encoder(heads=[4, 4, 4], ffn=[48, 48, 48], shared=True),
    "cascade": lambda: toys.cascade(),
    "routed": lambda: routed(*[toys.encoder(exits=[3])] * 2, [toys.encoder(1, exits=[3])], 1, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_near_and_the_saved_model_is_the_same(kind, tmp_path):
    model, some = KINDS[kind]().eval(), toys.examples(20)
    small = quantised(model)
    plain, found = record(model, some, 8), record(small, some, 8)
    assert np.abs(found.logits - plain.logits).max() < 0.1 * np.abs(plain.logits).max()
    assert (found.signal is None) == (plain.signal is None)
    small.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path, torch.device("cpu"))
    assert (record(again, some, 8).logits == found.logits).all()
    np.testing.assert_allclose(record(again, some, 1).logits, found.logits, atol=1e-6)
    np.testing.assert_allclose(engine.run(small, some, never, 4).logits, found.logits[-1], atol=1e-6)
    costs, theirs = counting.measure(small), counting.measure(model)
    assert (costs.coefficients, costs.parameters) == (theirs.coefficients, theirs.parameters)
    assert costs.layers == theirs.layers
    assert all(part.weight.dtype is torch.int8 for part in small.modules() if isinstance(part, Int8Linear))
    assert not linears(small)


@pytest.fixture
def build(tiny_settings, tmp_path):
    def build(**changes):
        values = tiny_settings(tmp_path / "results").model_dump()
        names = ("teacher", "pabee", "first-layers")
        there = {name: values["contestants"][name] for name in names}
        return check(values | {"contestants": there, "precision_axis": ["float32", "int8"]} | changes, "test")

    return build


def test_the_axis_adds_a_contestant_for_each_and_none_twice(build):
    settings = build(ablations={"first-layers": "teacher"}, depth_reference=None)
    names = ["teacher", "pabee", "first-layers", "teacher-int8", "pabee-int8"]
    assert list(settings.contestants) == names
    assert list(check(settings.model_dump(), "again").contestants) == names
    assert list(build(precision_axis=["float32"]).contestants) == names[:3]
    found = {run.key.method: run.needs for run in runs(settings)}
    assert [need.method for need in found["pabee-int8"]] == ["pabee"]
    for name, own in (("pabee", "patience"), ("teacher", "none")):
        one, other = (contestant(settings, each, "sst2") for each in (name, f"{name}-int8"))
        assert other.exit_policy() == one.exit_policy() and other.label("full") == f"int8 {one.label('full')}"
        assert one.exit_policy().name == own
        assert steps_in_all(other, "full", 100) == steps_in_all(one, "full", 100)
        assert [stage.steps for stage in other.stages("full", 100)] == [0]


def test_what_cannot_be_is_named(build, monkeypatch):
    with pytest.raises(UserError, match="int8 models are made from float32 ones; add float32"):
        build(precision_axis=["int8"])
    taken = {"teacher": build().contestants["teacher"].model_dump()}
    with pytest.raises(UserError, match=r"contestants.teacher-int8: precision_axis adds a contestant of this name"):
        build(contestants=taken | {"teacher-int8": taken["teacher"]}, depth_reference=None)
    with pytest.raises(UserError, match=r"precision_axis"):
        build(precision_axis=["float32", "int4"])
    with pytest.raises(UserError, match="int8 products need a CPU"):
        contestant(build(training={"device": "cuda"}), "teacher-int8", "sst2").check()


def test_an_int8_model_of_the_own_class_is_not_exported(build, tmp_path):
    """Its weights are sound, and a message must not advise to delete them."""
    settings = build()
    key = RunKey("sst2", "teacher-int8", "full", 0)
    for name in ("teacher", key.method):
        assert produce(settings, RunKey("sst2", name, "full", 0)) == ""
    replay(settings, "sst2", 0)
    row = pd.read_parquet(points_file(settings, "sst2", 0)).query("method == 'teacher-int8'").iloc[0]
    with pytest.raises(UserError, match=r"has a model class of its own \(costeff-int8\)"):
        write_model(settings, pd.DataFrame([row]), row, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    code = "import sys, pathlib, bench.encoder.saved as s; s.load_model(pathlib.Path(sys.argv[1]), 'cpu')"
    command = [sys.executable, "-c", code, str(run_folder(settings, key))]
    failed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert "import the module of its method first" in failed.stderr and "delete" not in failed.stderr


@pytest.mark.slow
def test_whole_runs_pass_the_checks_of_every_method(build):
    """All but those of one sum in another order: it may round a number of the next layer to another integer."""
    made = Runs(build())
    for name in ("teacher-int8", "pabee-int8"):
        key = RunKey("sst2", name, "full", 0)
        for each in CHECKS:
            strict = each.test in (batch_size, engine_agrees)
            if not each.twice and not strict and (not each.exits or name == "pabee-int8"):
                each.test(made, key)
        model, some = made.model(key), made.splits("sst2")["validation"]
        logits = made.trace(key).logits
        assert np.abs(record(model, some, 1).logits - logits).max() < 0.02 * np.abs(logits).max()
        assert np.abs(engine.run(model, some, never, 1).logits - logits[-1]).max() < 0.02 * np.abs(logits).max()
    facts, plain = (made.facts(RunKey("sst2", name, "full", 0)) for name in ("teacher-int8", "teacher"))
    assert facts["model_bytes"] < plain["model_bytes"]
    assert facts["training"]["trainable_parameters"] == 0 < plain["training"]["trainable_parameters"]
    assert facts["training"]["lineage_steps"] == plain["training"]["lineage_steps"]
