"""A run whose answers are all the same is trained again with another seed, which is recorded."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from toys import cascade, encoder

from bench.analysis.roles import Roles
from bench.context import Context
from bench.method import Method, Options, Stage, contestant
from bench.reporting.tables.costs import OF_TEACHER, training
from bench.runs.collect import collect
from bench.runs.replay import replay
from bench.runs.train_run import produce
from bench.runs.training.collapse import collapsed
from bench.settings import check
from bench.store import RunKey, read_json, run_folder, write_parquet
from bench.trace import Trace


class Stuck(Method):
    """Answers with a constant in its first `stuck` attempts."""

    class Options(Options):
        stuck: int = 1
        scored: int = 0

    def train(self, context: Context, variant: str) -> nn.Module:
        model = context.backbone("pooler")
        if context.attempt < self.options.stuck:
            with torch.no_grad():
                for parameter in model.exit_heads.parameters():
                    parameter.zero_()
        return model


class Untrained(Stuck):
    """The same without training; another attempt gives the same model unless it scores other examples."""

    def stages(self, variant: str, examples: int) -> list[Stage]:
        return [Stage.untrained(self.backbone, examples, self.options.scored)]


@pytest.mark.parametrize(("stuck", "restarts", "attempts"), [(0, 2, 0), (1, 2, 1), (9, 2, 2), (9, 0, 0)])
def test_it_is_trained_again_at_most_as_often_as_the_settings_say(tiny_settings, tmp_path, stuck, restarts, attempts):
    values = tiny_settings(tmp_path).model_dump()
    entry = {"method": "runs.test_collapse:Stuck", "options": {"stuck": stuck}}
    training = values["training"] | {"restarts": restarts}
    settings = check(
        values | {"contestants": {"teacher": entry}, "depth_reference": None, "training": training}, "test"
    )
    key = RunKey("sst2", "teacher", "full", 0)
    assert produce(settings, key) == ""
    facts = read_json(run_folder(settings, key) / "run.json")
    assert (facts["restarts"], facts["collapsed"]) == (attempts, stuck > restarts)
    replay(settings, "sst2", 0)
    table = collect(settings)
    assert set(table["restarts"]) == {attempts} and set(table["collapsed"]) == {stuck > restarts}
    write_parquet(settings.root / "all-points.parquet", table)


@pytest.mark.parametrize("scored", [0, 8])
def test_a_model_without_training_is_made_once(tiny_settings, tmp_path, scored):
    values = tiny_settings(tmp_path).model_dump()
    entry = {"method": "runs.test_collapse:Untrained", "options": {"stuck": 9, "scored": scored}}
    training = values["training"] | {"restarts": 2}
    settings = check(
        values | {"contestants": {"teacher": entry}, "depth_reference": None, "training": training}, "test"
    )
    key = RunKey("sst2", "teacher", "full", 0)
    assert produce(settings, key) == ""
    facts = read_json(run_folder(settings, key) / "run.json")
    assert (facts["restarts"], facts["collapsed"]) == (2 if scored else 0, True)


def test_attempts_share_the_data_and_draw_another_seed(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    key = RunKey("sst2", "teacher", "full", 3)
    first = Context(settings, contestant(settings, "teacher", "sst2").task, key, tmp_path / "state")
    seeds = [first.seed, first.again().seed, first.again().again().seed]
    assert seeds[0] == 3 and len(set(seeds)) == 3 and all(0 <= seed < 2**32 for seed in seeds)
    assert first.again().data.fingerprint == first.data.fingerprint
    assert len({first.state, first.again().state, first.again().again().state}) == 3


@pytest.mark.parametrize("regression", [False, True])
def test_what_counts_as_collapsed(regression, task):
    some = task("stsb" if regression else "sst2")
    outputs = 1 if regression else 2
    different = np.linspace(0, 4, 10)[:, None] if regression else np.eye(2)[[0, 1] * 5]
    same = np.full((10, outputs), 2.0)
    for first, last, of_encoder, of_cascade in [
        (different, different, False, False),
        (same, different, False, True),
        (different, same, True, True),
    ]:
        logits = np.stack([first, last]).astype(np.float32)
        zeros = np.zeros(10, dtype=np.int64)
        trace = Trace(idx=np.arange(10), labels=zeros, lengths=zeros + 5, difficulty=None, logits=logits)
        assert collapsed(encoder(), trace, some) is of_encoder
        assert collapsed(cascade(), trace, some) is of_cascade


@pytest.fixture
def task():
    from bench.tasks.catalogue import task as named

    return named


def test_the_training_table_names_what_collapsed():
    row = {"task": "sst2", "method": "pabee", "variant": "full", "label": "PABEE", "status": "ok", "kind": "static"}
    cost = {"training_steps": 100.0, "training_flops": 3e12, "training_flops_in_all": 5e12, "training_seconds": 7.0}
    cost |= {"peak_memory_bytes": 2e9}
    first = row | cost | {"seed": 0, "restarts": 0, "collapsed": False}
    second = first | {"seed": 1, "restarts": 2, "collapsed": True, "training_steps": 102.0}
    table = training(pd.DataFrame([first, first, second]), [], Roles("pabee"))
    assert table is not None
    (line,) = table.values.to_dict("records")
    assert (line["Model"], line["Steps"], line["TFLOP"], line["TFLOP with sources"]) == ("PABEE", 101.0, 3.0, 5.0)
    assert (line["Restarts"], line["Collapsed"], line["Runs"]) == (2, 1, 2)
    assert table.notes[-1] == "Collapsed: PABEE on SST-2, seed 1."
    assert training(pd.DataFrame([row | {"seed": 0}]), [], Roles()) is None


def test_the_training_table_names_the_models_with_other_steps():
    row = {"variant": "full", "status": "ok", "kind": "static", "seed": 0, "restarts": 0, "collapsed": False}
    made = [
        row | {"task": task, "method": name, "label": name, "training_steps": share * steps, "cpu_seconds": seconds}
        for task, steps in (("sst2", 700.0), ("stsb", 200.0))
        for name, share, seconds in (("teacher", 1, 9.0), ("alike", 1.04, 1.0), ("long", 2, 2.0), ("none", 0, 3.0))
    ]
    table = training(pd.DataFrame(made), [], Roles())
    assert table is not None
    lines = table.values.set_index("Model")
    assert lines[OF_TEACHER].to_dict() == pytest.approx({"teacher": 1, "alike": 1.04, "long": 2, "none": 0})
    assert lines["CPU seconds"].to_dict() == {"teacher": 9, "alike": 1, "long": 2, "none": 3}
    assert "Seconds" not in lines
    assert table.notes[-1].endswith("than the teacher: long 2.00; none trains nothing.")


def test_a_pause_of_the_machine_does_not_change_the_seconds_of_training():
    row = {
        "variant": "full",
        "status": "ok",
        "method": "teacher",
        "label": "teacher",
        "restarts": 0,
        "collapsed": False,
    }
    made = [
        row | {"task": "sst2", "seed": seed, "training_steps": 9.0, "training_seconds": seconds}
        for seed, seconds in enumerate((50.0, 51.0, 4000.0))
    ]
    table = training(pd.DataFrame(made), [], Roles())
    assert table is not None and table.values["Seconds"].item() == 51
    assert any("the median over tasks" in note for note in table.notes)
