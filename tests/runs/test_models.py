"""Weights are kept while a run to come needs them; deleted ones are trained again, bit for bit, where needed."""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from bench.cli import app
from bench.encoder.saved import has_weights, load_model
from bench.errors import UserError
from bench.runs.collect import failures
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.planning.coming import coming
from bench.runs.ratios import ask, tell
from bench.runs.train_run import produce, trace_tests
from bench.runs.training.models import release
from bench.sharing.models import write_model
from bench.store import RunKey, read_json, record_failure, run_folder, state_folder, weights_file, write_json
from bench.trace import is_current

BRIEF = {"epochs": 1, "learning_rate": 3e-3}
FINETUNED = {"method": "baselines.finetuned:Finetuned", "options": BRIEF}
ASSISTANT = {"method": "costeff.recipe:Assistant", "options": BRIEF}
SMALL = {"sizes": {"half": {"heads": "1/2", "ffn": "1/2", "rank": "1/2"}}}
COSTEFF = {"method": "costeff.recipe:CostEff", "options": BRIEF | SMALL | {"hidden_epochs": 1, "rate": 0.5}}
DATA = {"sketch": {"train": 96, "validation": 32, "test": 16}, "calibration": 32}


def keys(settings):
    return [run.key for run in runs(settings)]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a run without times."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "run.json"
    }


@pytest.fixture
def build(tiny_settings, tmp_path):
    def build(*, folder="results", keep_models=False, **contestants):
        there = {"teacher": FINETUNED, "assistant": ASSISTANT, **contestants}
        settings = tiny_settings(tmp_path / folder, data=DATA)
        values = settings.model_dump() | {"contestants": there, "depth_reference": None, "keep_models": keep_models}
        return type(settings).model_validate(values)

    return build


def kept(settings):
    return {key.method for key in keys(settings) if has_weights(run_folder(settings, key))}


@pytest.mark.parametrize("order", range(2))
def test_weights_stay_while_a_run_to_come_needs_them(build, order):
    """At each moment: what is planned, is not there yet, and reads a model finds that model."""
    settings = build(costeff=COSTEFF, alone={**FINETUNED, "options": BRIEF | {"depths": [2]}})
    planned = runs(settings)
    for run in planned if order else [planned[0], planned[-1], *planned[1:-1]]:
        assert produce(settings, run.key) == ""
        release(settings, run.key.task, run.key.seed)
        missing = [each for each in planned if not (run_folder(settings, each.key) / "run.json").exists()]
        needed = {need.method for each in missing for need in each.needs}
        there = {each.key.method for each in planned if each not in missing}
        assert kept(settings) == needed & there
    assert kept(settings) == set()
    assert all((run_folder(settings, key) / "model" / "config.json").stat().st_size for key in keys(settings))


def test_nothing_is_deleted_with_keep_models_or_for_a_person(build):
    settings = build(keep_models=True)
    for key in keys(settings):
        produce(settings, key)
        release(settings, key.task, key.seed)
    assert kept(settings) == {"teacher", "assistant"}


def test_a_study_to_come_keeps_what_its_trials_need(build):
    values = build(search={**COSTEFF, "options": COSTEFF["options"] | {"sizes": {}}})
    study = {"method": "search", "tasks": ["sst2"], "generations": 1, "population": 2}
    settings = type(values).model_validate(values.model_dump() | {"studies": [study]})
    for key in keys(settings):
        produce(settings, key)
        release(settings, key.task, key.seed)
    assert kept(settings) >= {"assistant"}


def test_a_run_that_crashed_keeps_what_its_repetition_needs(build):
    settings = build()
    teacher, assistant = keys(settings)
    produce(settings, teacher)
    state_folder(settings, assistant).mkdir(parents=True)
    write_json(
        state_folder(settings, assistant) / "identity.json", {"identity": Identities(settings).of(assistant).hash}
    )
    for again in (True, False):
        record_failure(settings, assistant, "out of memory", again=again)
        release(settings, "sst2", 0)
        assert kept(settings) == ({"teacher"} if again else set())


@pytest.mark.parametrize("change", [{"seed": 5}, {"population": 3}, {"generations": 2}])
def test_files_of_an_earlier_study_do_not_release_what_the_trials_of_this_one_need(build, change):
    values = build(search={**COSTEFF, "options": COSTEFF["options"] | {"sizes": {}}})
    study = {"method": "search", "tasks": ["sst2"], "generations": 1, "population": 2}
    before = type(values).model_validate(values.model_dump() | {"studies": [study]})
    for key in [
        *keys(before),
        *(RunKey("sst2", "search", trial.variant, 0) for trial in ask(before, "sst2", "search", 0)),
    ]:
        assert produce(before, key) == ""
    tell(before, "sst2", "search", 0)
    assistant = RunKey("sst2", "assistant", "full", 0)
    now = type(values).model_validate(values.model_dump() | {"studies": [study | change]})
    release(now, "sst2", 0)
    assert has_weights(run_folder(now, assistant))
    release(before, "sst2", 0)
    assert not has_weights(run_folder(now, assistant))


def test_a_trial_that_crashed_is_named_and_repeated_and_one_that_diverged_is_not(build, costeff, tmp_path):
    """Even if the finished runs cannot be merged, here since one has another learning rate."""
    values = build(search={**COSTEFF, "options": COSTEFF["options"] | {"sizes": {}}})
    study = {"method": "search", "tasks": ["sst2"], "generations": 1, "population": 2}
    settings = type(values).model_validate(values.model_dump() | {"studies": [study]})
    assert produce(settings, RunKey("sst2", "teacher", "full", 0)) == ""
    crashed, diverged = (RunKey("sst2", "search", trial.variant, 0) for trial in ask(settings, "sst2", "search", 0))
    record_failure(settings, crashed, "out of memory", again=True)
    record_failure(settings, diverged, "the loss is not finite", again=False)
    assert f"{crashed.path}: out of memory" in failures(settings)
    assert not any(str(diverged.path) in line for line in failures(settings))
    file, other = tmp_path / "settings.yaml", settings.model_dump(mode="json")
    other["contestants"]["teacher"]["options"]["learning_rate"] = 1e-4
    file.write_text(yaml.safe_dump(other))
    assert "was made with other settings" in costeff("wrap-up", "--config", file).stderr
    assert [(run_folder(settings, key) / "run.json").exists() for key in (crashed, diverged)] == [False, True]
    assert f"{crashed.path}: out of memory" in failures(settings)


def test_a_trial_that_must_be_made_again_keeps_what_it_needs(build):
    values = build(search={**COSTEFF, "options": COSTEFF["options"] | {"sizes": {}}})
    study = {"method": "search", "tasks": ["sst2"], "generations": 1, "population": 2}
    settings = type(values).model_validate(values.model_dump() | {"studies": [study]})
    trials = [RunKey("sst2", "search", trial.variant, 0) for trial in ask(settings, "sst2", "search", 0)]
    for key in [*keys(settings), *trials]:
        assert produce(settings, key) == ""
    tell(settings, "sst2", "search", 0)
    (run_folder(settings, trials[0]) / "run.json").unlink()
    release(settings, "sst2", 0)
    assert kept(settings) == {"assistant"}


def test_a_deleted_model_that_a_new_contestant_needs_is_trained_again_bit_for_bit(build):
    """A chain of two: the assistant learns from the teacher, COST-EFF continues the assistant."""
    whole = build(folder="whole", costeff=COSTEFF, keep_models=True)
    for key in keys(whole):
        assert produce(whole, key) == ""
    before = build()
    for key in keys(before):
        produce(before, key)
        release(before, key.task, key.seed)
    assert kept(before) == set()
    old = {key: contents(run_folder(before, key)) for key in keys(before)}
    stamps = {key: read_json(run_folder(before, key) / "run.json") for key in keys(before)}
    after = build(costeff=COSTEFF)
    assert {key.method for key in coming(after, Identities(after)).runs} == {"teacher", "assistant", "costeff"}
    new = RunKey("sst2", "costeff", "half", 0)
    assert produce(after, new) == ""
    assert contents(run_folder(after, new)) == contents(run_folder(whole, new))
    for key, files in old.items():
        now = contents(run_folder(after, key))
        assert {name: now[name] for name in files} == files and stamps[key] == read_json(
            run_folder(after, key) / "run.json"
        )
        assert weights_file(run_folder(after, key)).read_bytes() == weights_file(run_folder(whole, key)).read_bytes()
    release(after, "sst2", 0)
    assert kept(after) == set()


def test_runs_whose_weights_were_deleted_are_still_to_come_if_all_are_kept(build):
    settings, keeping = build(), build(keep_models=True)
    for key in keys(settings):
        produce(settings, key)
        release(settings, key.task, key.seed)
    assert len(coming(settings, Identities(settings))) == 0
    assert list(coming(keeping, Identities(keeping)).runs) == keys(keeping)
    for key in keys(keeping):
        assert produce(keeping, key) == ""
    assert len(coming(keeping, Identities(keeping))) == 0


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_weights_are_restored_on_another_disk(build, tmp_path):
    settings = build()
    teacher, assistant = keys(settings)
    produce(settings, teacher)
    before = weights_file(run_folder(settings, teacher)).read_bytes()
    weights_file(run_folder(settings, teacher)).unlink()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as disk:
        model = run_folder(settings, teacher) / "model"
        shutil.copytree(model, disk, dirs_exist_ok=True)
        shutil.rmtree(model)
        model.symlink_to(disk)
        assert produce(settings, assistant) == ""
        assert weights_file(run_folder(settings, teacher)).read_bytes() == before and model.is_symlink()


def test_weights_that_come_out_otherwise_are_refused(build):
    settings = build()
    teacher, assistant = keys(settings)
    produce(settings, teacher)
    weights_file(run_folder(settings, teacher)).unlink()
    facts = run_folder(settings, teacher) / "run.json"
    facts.write_text(facts.read_text().replace(read_json(facts)["weights"], "0" * 16))
    why = produce(settings, assistant)
    assert "gives other weights" in why and "delete" in why and "\n" not in why
    assert not has_weights(run_folder(settings, teacher))


def test_a_copied_run_without_weights_is_made_anew_for_a_later_contestant_on_another_machine(build):
    """Its teacher, copied too, comes out otherwise as well; the files of both then belong to the new weights."""
    first = build(folder="first")
    for key in keys(first):
        produce(first, key)
        release(first, key.task, key.seed)
    copied = build(folder="copied").model_copy(update={"reuse": [first.root]})
    for key in keys(copied):
        assert produce(copied, key) == ""
        facts = run_folder(copied, key) / "run.json"
        write_json(facts, read_json(facts) | {"weights": "0" * 16})
    later = build(folder="copied", costeff=COSTEFF)
    assert produce(later, RunKey("sst2", "costeff", "half", 0)) == ""
    for key in keys(later):
        folder = run_folder(later, key)
        assert "taken_from" not in read_json(folder / "run.json") and has_weights(folder)
        assert all(is_current(trace) for trace in folder.glob("trace-*.parquet"))
    assert len(coming(later, Identities(later))) == 0


def test_commands_that_need_weights_say_what_to_do(build):
    settings = build()
    for key in keys(settings):
        produce(settings, key)
        release(settings, key.task, key.seed)
    key = keys(settings)[0]
    attempts = (
        lambda: load_model(run_folder(settings, key), torch.device("cpu")),
        lambda: trace_tests(settings, key),
        lambda: write_model(settings, None, {**key.facts}, settings.root / "out"),
    )
    for attempt in attempts:
        with pytest.raises(UserError, match=r"no weights.*keep_models: true and run again") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_only_a_job_of_the_workflow_deletes(build, tmp_path):
    settings = build()
    file, folder = tmp_path / "settings.yaml", run_folder(settings, RunKey("sst2", "teacher", "full", 0))
    file.write_text(yaml.safe_dump(build(assistant=FINETUNED).model_dump(mode="json")))  # no run needs the teacher
    for options, there in (([], True), (["--as-job"], False)):
        done = CliRunner().invoke(app, ["run", "sst2", "teacher", "full", "--config", str(file), *options])
        assert done.exit_code == 0, done.output
        assert has_weights(folder) == there


def test_a_run_whose_weights_are_gone_is_reused_where_no_run_needs_them(build):
    """Copied as it is; where a run must be trained that needs the model, the model is trained too."""
    first = build(folder="first")
    for key in keys(first):
        produce(first, key)
        release(first, key.task, key.seed)
    again = build(folder="again").model_copy(update={"reuse": [first.root]})
    assert not coming(again, Identities(again)).runs
    for key in keys(again):
        assert produce(again, key) == ""
        folder = run_folder(again, key)
        assert "taken_from" in read_json(folder / "run.json") and not has_weights(folder)
    more = build(folder="more", costeff=COSTEFF).model_copy(update={"reuse": [first.root]})
    assert {key.method for key in coming(more, Identities(more)).runs} == {"costeff", "assistant", "teacher"}
    for key in keys(more):
        assert produce(more, key) == ""
