"""The forecast counts the work that is done; progress reports the runs that exist."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from toys import shortened

from bench.context import Context, task_data
from bench.encoder.backbones import tokenizer
from bench.method import contestant
from bench.runs.plan import runs
from bench.runs.planning import forecast as told
from bench.runs.planning.forecast import (
    REPORT_SECONDS,
    Forecast,
    Pace,
    Work,
    _together,
    duration,
    forecast,
    work_of,
)
from bench.runs.planning.progress import Progress, ahead
from bench.runs.train_run import produce
from bench.settings import load
from bench.store import RunKey, state_folder

TINY = load("conform")


@pytest.fixture(scope="module")
def settings(tiny_settings, tmp_path_factory):
    contestants = shortened(TINY)
    for entry in contestants.values():
        entry["tasks"] = {}
    return tiny_settings(tmp_path_factory.mktemp("planning"), contestants=contestants)


def data_of(settings):
    words = tokenizer(settings.backbone.name)
    return {task: task_data(settings, contestant(settings, "teacher", task).task, words) for task in settings.tasks}


@pytest.mark.slow
@pytest.mark.parametrize("key", [
    RunKey(task, name, variant, 0)
    for task in ("sst2",)
    for name in TINY.contestants
    for variant in contestant(TINY, name, task).variants()
], ids=lambda key: "-".join(map(str, (key.task, key.method, key.variant))))  # fmt: skip
def test_the_work_counted_is_the_work_done(settings, key, tmp_path):
    """Multiply-adds of all trainings and teachers of a run, within a quarter of what torch counts."""
    method = contestant(settings, key.method, key.task)
    made(settings, method, key)
    data = data_of(settings)[key.task]
    trained, read = work_of(settings, key, data)
    context = Context(settings, method.task, key, tmp_path)
    with FlopCounterMode(display=False) as counted:
        method.train(context, key.variant)
    traced = sum(len(examples) for split, examples in data.splits.items() if split != "train")
    assert traced  # what `train` does not read
    _, without = work_of(settings, key, replace(data, splits={k: data.splits[k] for k in ("train", "calibration")}))
    done = counted.get_total_flops() / 2
    if not done:
        assert not trained.macs  # it uses another's model as it is
        return
    assert 0.75 * done < 3 * trained.macs + without.macs < 1.3 * done
    assert read.macs >= without.macs


def made(settings, method, key):
    for need in method.needed(key):
        made(settings, contestant(settings, need.method, need.task), need)
        if not (settings.root / "runs" / need.path / "run.json").exists():
            assert not produce(settings, need)


@given(st.lists(st.floats(0.5, 2), min_size=3, max_size=3))
def test_coefficients_are_found_again(scales):
    truth = np.array([1e-10, 1e-6, 1e-9]) * scales
    work = [[3e9, 4e3, 3e6], [9e9, 8e3, 3e6], [5e8, 8e3, 3e5], [1e8, 3e2, 3e6]]
    found = told._coefficients(work, list(np.array(work) @ truth))
    assert np.allclose(found, truth, rtol=1e-6)


def test_a_forecast_of_a_plan(settings):
    planned = runs(settings)
    found = forecast(settings, [run.key for run in planned], data_of(settings), cores=1)
    assert set(found.runs) >= {run.key for run in planned}
    assert found.jobs == 1 and found.whole > sum(found.runs.values()) > 0
    text = list(found.lines())
    assert len(text) == len(settings.tasks) + 1 and all(task in "".join(text) for task in settings.tasks)


def test_a_pace_is_in_seconds_per_unit_of_work():
    pace = Pace(Work(1e-10, 1e-7, 1e-9), Work(1e-10, 1e-7))
    assert pace.seconds(Work(1e10, 1e5, 1e7), Work()) == pytest.approx(1 + 0.01 + 0.01)


def test_more_jobs_at_once_take_less():
    seconds = {RunKey("sst2", "teacher", "full", seed): 100.0 for seed in range(4)}
    one, two, four = (Forecast(seconds, 10.0, jobs, ()).whole - 10.0 - REPORT_SECONDS for jobs in (1, 2, 4))
    assert (one, two, four) == (400.0, 200.0, 100.0)


def of_two_threads() -> Pace:
    torch.set_num_threads(2)
    return Pace(Work((torch.ones(512, 512) @ torch.ones(512, 512)).sum().item()), Work())


def test_jobs_of_several_threads_are_timed_after_this_process_has_used_threads():
    before = torch.get_num_threads()
    try:
        expected = of_two_threads()
        assert _together(of_two_threads, 2, torch.device("cpu"), 2) == expected
    finally:
        torch.set_num_threads(before)


def test_progress_from_nothing_to_all(settings):
    planned = runs(settings)
    first = Progress(settings).line()
    assert f"of {len(planned)} runs" in first
    key = next(run.key for run in planned if not run.needs)
    log = settings.root / "logs" / "run" / key.path.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    (settings.root / "runs" / key.path / "run.json").unlink(missing_ok=True)
    state_folder(settings, key).mkdir(parents=True, exist_ok=True)
    log.write_text("12:00:00 finetune: steps 1 to 40\n12:00:30 finetune: step 7 of 40\n")
    assert f"{key.path.as_posix()} finetune, step 7 of 40" in Progress(settings).line()
    before = ahead(settings, 1)
    assert before is not None and " left" in Progress(settings).line()
    produce(settings, key)
    assert "finetune, step 7" not in Progress(settings).line()


def test_a_method_that_does_not_say_is_named(settings, monkeypatch):
    from baselines.pabee import Pabee
    from bench.method import Method

    monkeypatch.setattr(Pabee, "stages", Method.stages)
    found = forecast(settings, [run.key for run in runs(settings)], data_of(settings), cores=1)
    assert found.unknown == ("pabee",) and not any(key.method == "pabee" for key in found.runs)
    assert any("pabee has no `Method.stages`" in text for text in found.lines())


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (89, "89 s"), (120, "2 min"), (5300, "88 min"), (7200, "2.0 h")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
