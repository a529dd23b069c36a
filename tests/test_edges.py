"""Commands before there are results, impossible numbers, links in place of folders, and code that has changed."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.context import usable_cores
from bench.errors import UserError
from bench.provenance import fingerprint
from bench.reporting.everything import complete
from bench.reporting.tables.notes import common_notes
from bench.runs import plan
from bench.runs.collect import collect, made_by_other_code
from bench.runs.planning.checks import check_room
from bench.runs.replay import replay
from bench.runs.train_run import produce
from bench.settings import check
from bench.store import RunKey, read_json, run_folder, state_folder, write_json

ROOT = Path(__file__).parent.parent
KEY = RunKey("sst2", "teacher", "full", 0)


@pytest.fixture
def small(tiny_settings):
    """`small(results)`: one teacher that trains for a moment."""

    def build(results: Path, **changes):
        teacher = {"method": "baselines.finetuned:Finetuned", "options": {"epochs": 1, "learning_rate": 3e-3}}
        values = tiny_settings(results).model_dump() | {"contestants": {"teacher": teacher}, "depth_reference": None}
        values |= {"tasks": ["sst2"], "data": {"sketch": {"train": 96, "validation": 32}, "calibration": 32}}
        return check(values | changes, "test")

    return build


def script(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the console script of the package in a process of its own."""
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["costeff"].split(":")
    command = [sys.executable, "-c", f"from {module} import {function}; {function}()", *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables)


@pytest.mark.parametrize(("command", "code"), [("report --config sketch", 2), ("size --layers 2", 0)])
def test_the_console_script_ends_as_the_command_in_this_process(command, code, costeff, tmp_path):
    """The other tests run commands in this process, which saves the start of an interpreter."""
    here, there = costeff(*command.split()), script(*command.split(), folder=tmp_path)
    assert here.returncode == there.returncode == code
    assert (here.stdout, here.stderr) == (there.stdout, there.stderr)


@pytest.mark.parametrize(
    "command",
    [
        "wrap-up", "failures", "replay sst2", "collect out", "latency out", "report", "publish out",
        "take sst2 teacher out", "submit teacher out.zip", "compare teacher",
    ],
)  # fmt: skip
def test_a_command_without_results_reports_it_and_writes_nothing(command, costeff, tmp_path):
    done = costeff(*command.split(), "--config", "sketch")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "results/sketch" in done.stderr and "run the workflow" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    ["check --cores 0", "forecast --cores -1", "take sst2 teacher out --speedup -1", "compare teacher --speedup nan",
     "submit teacher out --speedup inf", "check sketch --config tiny",
     "forecast --cores 100000000", "size --layers 100000000", "size --hidden 100000000", "size --heads 100000000",
     "size --ffn 1000000000", "size --classes 1000000000", "size --vocabulary 100000000000", "size --length 0",
     "size --head-size 99999999", "size --positions 10000000000", "size --rank 1000"],
)  # fmt: skip
def test_an_impossible_number_is_one_line(command, costeff):
    done = costeff(*command.split())
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert command.split()[-1].lower() in done.stderr


@pytest.mark.parametrize(
    "command",
    ["run sst2 teacher full", "replay sst2", "take sst2 teacher out", "submit teacher out.zip"],
)
@pytest.mark.parametrize(("seed", "said"), [(99, "no seed 99 in this profile; its seeds are 3, 5"), (None, "")])
def test_a_seed_that_the_profile_does_not_have_is_refused(command, seed, said, costeff, small, tmp_path):
    """Nothing is trained or written; without a seed it is the first one of the task, not 0."""
    settings = small(tmp_path / "results", seeds=[3], more_seeds={"sst2": [5]})
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    asked = command.split() + ([] if seed is None else ["--seed", str(seed)])
    done = costeff(*asked, "--config", "p.yaml")
    if seed is None and command.startswith("run"):
        assert done.returncode == 0 and (settings.root / "runs/sst2/teacher/full/seed3/run.json").is_file(), done.stderr
        assert "finetune: done" in done.stderr, "the log is a part of stderr"
        return
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr and {path.name for path in tmp_path.iterdir()} == {"p.yaml"}


@pytest.mark.parametrize("command", ["run rte teacher full", "replay rte", "take rte teacher out"])
def test_a_task_that_the_profile_does_not_run_is_refused(command, costeff, small, tmp_path):
    settings = small(tmp_path / "results")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    done = costeff(*command.split(), "--config", "p.yaml")
    assert done.returncode == 2 and "no task 'rte' in this profile; choose from sst2" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"p.yaml"}


@pytest.mark.parametrize(
    "change",
    ["--config foo", "-C foo", "--config=foo", "--config", "--config =1", "--config 1x=3", "--config seeds=[0",
     "--config seeds=[0] foo", "--config a-=1", "--config thresholds={trials:"],
)  # fmt: skip
def test_a_change_of_another_form_is_one_line(change, costeff, tmp_path):
    """Snakemake alone ends with a traceback."""
    done = costeff("workflow", "tiny", "-n", *change.split(" "))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(("costeff: --config", "costeff: two profiles are given, tiny and foo"))
    assert not list(tmp_path.iterdir())


def test_only_the_cores_that_may_be_used_count():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)


def test_a_workflow_needs_no_home(tmp_path):
    """Snakemake alone ends with a traceback."""
    profile = {"extends": "tiny", "profile": "homeless", "tasks": ["sst2"]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(profile))
    done = script("workflow", "p.yaml", "--cores", "1", "-n", folder=tmp_path, HOME="/proc/nowhere", XDG_CACHE_HOME="")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("linked", ["root", "run", "model", "state"])
def test_a_link_to_another_disk_is_written_through(linked, small, tmp_path):
    settings = small(tmp_path / "results")
    folder, there = run_folder(settings, KEY), tmp_path / "other disk"
    link = {"root": settings.root, "run": folder, "model": folder / "model", "state": state_folder(settings, KEY)}[
        linked
    ]
    link.parent.mkdir(parents=True)
    link.symlink_to(there)
    with pytest.raises(UserError, match=r"is a link to .*other disk, which does not exist"):
        produce(settings, KEY)
    there.mkdir()
    (there / "old").write_text("of an earlier run")
    assert produce(settings, KEY) == ""
    assert link.is_symlink() and (folder / "model" / "model.safetensors").is_file()
    assert linked != "model" or {"model.safetensors"} <= {path.name for path in there.iterdir()}
    assert linked in ("root", "run") or not (there / "old").exists()
    write_json(folder / "run.json", read_json(folder / "run.json") | {"status": "gone"})
    assert produce(settings, KEY) == ""


def test_results_that_are_a_file_are_refused_before_anything_trains(small, tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="results is a file, where a folder is needed"):
        check_room(small(tmp_path / "results"), ())


def test_runs_of_other_code_are_named_and_never_taken_for_current_ones(small, tmp_path, monkeypatch):
    """A method in a file of the user's own, edited while its version stays; and then raised."""
    source = "from baselines.finetuned import Finetuned\n\nclass Mine(Finetuned):\n    version = 71\n"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_edited.py").write_text(source)
    mine = {"method": "my_edited:Mine", "options": {"epochs": 1, "learning_rate": 3e-3}}
    settings = small(tmp_path / "results", contestants={"teacher": mine})
    assert produce(settings, KEY) == ""
    replay(settings, KEY.task, KEY.seed)
    assert made_by_other_code(settings) == [] and not collect(settings)["other_code"].any()

    def edit(text: str) -> None:
        (tmp_path / "my_edited.py").write_text(text)
        sys.modules.pop("my_edited", None)
        fingerprint.cache_clear()

    edit(source + "    # a comment\n")
    assert made_by_other_code(settings) == []
    edit(source + "    more = 1\n")
    [line] = made_by_other_code(settings)
    assert "teacher (1 runs)" in line and "raise `version`" in line
    table = collect(settings)
    assert table["other_code"].all()
    assert any(note.startswith("Made by other code than the current one") for note in common_notes(complete(table), {}))
    edit(source.replace("71", "72") + "    more = 1\n")
    with pytest.raises(UserError, match=r"method.version was 71, now 72"):
        collect(settings)


@pytest.mark.parametrize(("depths", "said"), [([1, 2], "has 2 variants on cola: depth1, depth2"), ([1], "")])
def test_the_reference_is_one_model(depths, said, tiny_settings, tmp_path):
    cut = {"method": "baselines.finetuned:Finetuned", "options": {"depths": depths}}
    values = tiny_settings(tmp_path).model_dump() | {
        "contestants": {"first-layers": cut},
        "reference": "first-layers",
        "tasks": ["cola"],
    }
    settings = check(values | {"depth_reference": None}, "test")
    if said:
        with pytest.raises(UserError, match=f"reference: first-layers {said}"):
            plan.runs(settings)
    else:
        assert plan.reference_run(plan.methods(settings)["first-layers", "cola"], 3) == RunKey(
            "cola", "first-layers", "depth1", 3
        )


def test_published_tables_without_the_column_have_no_note_on_other_code(points: pd.DataFrame):
    assert not any("other code" in note for note in common_notes(points, {}))
