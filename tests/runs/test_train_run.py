"""Outputs of a run: test traces on demand only, and the arithmetic that it records."""

import pytest
import torch

from bench.context import machine_of
from bench.errors import UserError
from bench.runs.identity import Identities, where
from bench.runs.plan import runs
from bench.runs.planning.checks import _untested
from bench.runs.planning.coming import coming
from bench.runs.train_run import produce, tf32, trace_tests
from bench.store import RunKey, run_folder
from bench.trace import Trace

KEY = RunKey("sst2", "teacher", "full", 0)
DATA = {"sketch": {"train": 96, "validation": 32, "test": 24}}


def test_hidden_tests_are_traced_for_a_submission_and_are_the_same_then(tiny_settings, tmp_path):
    brief = {"contestants": {"teacher": {"method": "baselines.finetuned:Finetuned", "options": {"epochs": 1}}}}
    later = tiny_settings(tmp_path / "later", data=DATA, **brief)
    with pytest.raises(UserError, match="no trained model"):
        trace_tests(later, KEY)
    assert produce(later, KEY) == ""
    file = run_folder(later, KEY) / "trace-test.parquet"
    assert not file.exists()
    with_tests = later.model_copy(update={"data": later.data.model_copy(update={"test": True})})
    planned, identities = [run for run in runs(later) if run.key == KEY], Identities(with_tests)
    [line] = _untested(with_tests, planned, identities, coming(with_tests, identities))
    assert line.startswith("data.test: no effect on 1 finished or copied runs")
    assert not [*_untested(later, planned, identities, coming(later, identities))]
    trace_tests(later, KEY)
    assert not [*_untested(with_tests, planned, identities, coming(with_tests, identities))]
    at_once = tiny_settings(tmp_path / "at once", data=DATA | {"test": True}, **brief)
    assert produce(at_once, KEY) == ""
    assert file.read_bytes() == (run_folder(at_once, KEY) / "trace-test.parquet").read_bytes()
    assert len(Trace.load(file).idx) == 24


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_needs_a_gpu_and_is_recorded(tiny_settings, tmp_path, monkeypatch, wanted):
    settings = tiny_settings(tmp_path, training={"device": "auto", "precision": "float32", "tf32": wanted})
    assert where(settings)["precision"] == "float32" and not machine_of(settings, torch.device("cpu")).tf32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert where(settings)["device"] == "cuda"
    assert where(settings)["precision"] == ("float32, TF32" if wanted else "float32")


def test_tf32_ends_where_training_ends():
    with tf32(True):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"
