"""The workflow as a person starts it: in any folder, with a contestant beside the profile, changed, broken, killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock

from bench import settings
from bench.runs import plan
from bench.store import read_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PIPED: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

MINE = '''
"""A contestant in a folder of one's own."""
from pydantic import Field

from baselines.pabee import Pabee, PabeeOptions


class MineOptions(PabeeOptions):
    raises: bool = Field(False, description="Whether it is broken.")


class Mine(Pabee):
    Options = MineOptions

    def label(self, variant):
        return "Mine"

    def train(self, context, variant):
        if self.options.raises:
            raise KeyError("a fault of mine")
        return super().train(context, variant)
'''

BRIEF = {"epochs": 1, "learning_rate": 3e-3}
PROFILE = {
    "profile": "mini",
    "results": "${MINI_RESULTS}/with a space",
    "tasks": ["sst2", "rte"],
    "data": {"source": "sketch", "sketch": {"train": 96, "validation": 32, "test": 0}, "calibration": 32},
    "training": {"device": "cpu", "threads": 1},
    "thresholds": {"grid": 6, "trials": 4},
    "latency": {"examples": 4, "rounds": 1},
    "depth_reference": None,
    "contestants": {
        "teacher": {"method": "baselines.finetuned:Finetuned", "options": BRIEF},
        "assistant": {"method": "costeff.recipe:Assistant", "options": BRIEF},
        "mine": {"method": "mine:Mine", "options": BRIEF},
    },
}


def dry_run(*config: str, options: tuple[str, ...] = ("--cores", "1")) -> subprocess.CompletedProcess[str]:
    """`snakemake -n` on the tiny profile."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", *options, "--configfile", "config/tiny.yaml"]
    return subprocess.run([*command, "--config", *config], cwd=ROOT, capture_output=True, text=True)


def jobs(planned: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Rule -> jobs of a dry run."""
    assert planned.returncode == 0, planned.stdout + planned.stderr
    lines = [line.split() for line in planned.stdout.splitlines()]
    return {
        name: int(count)
        for name, count in (words for words in lines if len(words) == 2)
        if count.isdigit() and name.isidentifier()
    }


def test_a_page_without_its_runs_is_not_a_finished_run(tmp_path):
    results = tmp_path / "tiny"
    (results / "tables").mkdir(parents=True)
    (results / "figures").mkdir()
    (results / "sweeps" / "sst2" / "search").mkdir(parents=True)
    for kept in ("index.html", "all-points.parquet", "sweeps/sst2/search/trials.parquet"):
        (results / kept).touch()
    found = jobs(dry_run(f"results={tmp_path}", "tasks=[sst2]"))
    runs = [run for run in plan.runs(settings.load(ROOT / "config" / "tiny.yaml")) if run.key.task == "sst2"]
    assert found["run"] == len(runs) and found["sweep_tell"] == 2
    assert all(found[rule] == 1 for rule in ("replay", "collect", "sweep_finish", "report", "complete"))


@pytest.mark.parametrize(("options", "threads"), [((), 8), (("--jobs", "4"), 3)])
def test_the_clock_has_a_machine_s_cores_and_on_a_cluster_a_run_s_threads(tmp_path, options, threads):
    planned = dry_run(
        f"results={tmp_path}", "tasks=[sst2]", "training={threads: 3}", options=("--cores", "8", *options)
    )
    assert planned.returncode == 0, planned.stderr
    [clock] = [job for job in planned.stdout.split("\nrule ") if job.startswith("latency:")]
    assert f"threads: {threads}\n" in clock


def test_wrong_settings_are_named_in_one_line_before_any_job():
    refused = dry_run("tasks=[sst3]")
    assert refused.returncode != 0
    named = [line for line in (refused.stdout + refused.stderr).splitlines() if "sst3" in line]
    assert len(named) == 1 and "sst2" in named[0]


@dataclass(frozen=True)
class Person:
    """A workflow run in a folder outside the repository, with a profile and a contestant in another folder."""

    home: Path

    @property
    def results(self) -> Path:
        return self.home / "results" / "with a space" / "mini"

    def command(self, *arguments: str, config: tuple[str, ...] = ()) -> list[str]:
        profile = str(self.home / "own" / "mini.yaml")
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2"]
        return [*command, *arguments, "--configfile", profile, *(["--config", *config] if config else [])]

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "MINI_RESULTS": str(self.home / "results"), "OMP_NUM_THREADS": "1"}
        return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | own

    def costeff(self, *options: str, **how: Any) -> subprocess.Popen[str]:
        """`costeff workflow` on this profile, started."""
        program = [str(Path(sys.executable).parent / "costeff"), "workflow", str(self.home / "own" / "mini.yaml")]
        where = self.home / "elsewhere"
        return subprocess.Popen([*program, *options], cwd=where, env=self.environment, text=True, **PIPED, **how)

    def snakemake(self, *arguments: str, config: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        where = self.home / "elsewhere"
        return subprocess.run(
            self.command(*arguments, config=config), cwd=where, env=self.environment, capture_output=True, text=True
        )


def person(home: Path, backbone: Path) -> Person:
    (home / "own").mkdir(parents=True)
    (home / "elsewhere").mkdir()
    (home / "own" / "mine.py").write_text(MINE)
    (home / "own" / "mini.yaml").write_text("extends: base.yaml\n")
    values = PROFILE | {"backbone": {"name": str(backbone), "pooling": "mean"}}
    (home / "own" / "base.yaml").write_text(yaml.safe_dump(values))
    return Person(home)


@pytest.fixture(scope="module")
def finished(tiny_backbone, tmp_path_factory) -> Person:
    """A profile whose benchmark is complete."""
    run = person(tmp_path_factory.mktemp("a person"), tiny_backbone)
    done = run.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def test_it_runs_from_any_folder_with_a_contestant_beside_the_profile(finished):
    assert (finished.results / "complete").is_file()
    assert "Mine" in (finished.results / "index.html").read_text()
    points = pd.read_parquet(finished.results / "all-points.parquet")
    assert set(points["method"]) == {"teacher", "assistant", "mine"} and set(points["status"]) == {"ok"}
    assert points["latency_32"].notna().any()
    for run in finished.results.glob("runs/*/*/*/*/run.json"):
        assert read_json(run)["identity"]


def test_a_finished_benchmark_does_nothing(finished):
    again = finished.snakemake()
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


def test_snakemake_writes_its_report_of_it(finished, tmp_path):
    written = tmp_path / "report.html"
    done = finished.snakemake("--report", str(written))
    assert done.returncode == 0, done.stdout + done.stderr
    text = written.read_text()
    assert "all contestants share one encoder" in text and "index.html" in text


def test_other_thresholds_train_and_time_nothing(finished):
    found = jobs(finished.snakemake("-n", config=("thresholds={trials: 9}",)))
    assert found == {"all": 1, "replay": 2, "collect": 1, "report": 1, "complete": 1, "total": 6}


@pytest.mark.parametrize(
    ("change", "jobs_again"),
    [
        ("comparison={margin: 2}", {"report": 1}),
        ("data={note: another name}", {"collect": 1, "report": 1}),
        ("reference=mine", {"replay": 2, "latency": 1, "collect": 1, "report": 1}),
    ],
)
def test_a_changed_setting_repeats_the_stages_that_read_it(change, jobs_again, finished):
    found = jobs(finished.snakemake("-n", config=(change,)))
    assert found == jobs_again | {"complete": 1, "all": 1, "total": sum(jobs_again.values()) + 2}


def test_another_learning_rate_trains_that_and_what_depends_on_it(finished):
    found = jobs(finished.snakemake("-n", config=("contestants={teacher: {options: {learning_rate: 0.001}}}",)))
    assert found["run"] == 4  # the teacher and the assistant that learns from it, on two tasks


@pytest.mark.parametrize("what", ["trace-validation.parquet", "costs.json", "run.json", "model"])
def test_what_is_deleted_is_made_again(finished, what):
    file = finished.results / "runs" / "sst2" / "teacher" / "full" / "seed0" / what
    aside = file.with_name("aside")
    file.replace(aside)
    try:
        found = jobs(finished.snakemake("-n"))
    finally:
        aside.replace(file)
    # The teacher's model is among what is made again, and the assistant starts from it.
    assert found["run"] == 2 and found["replay"] == 1


COSTEFF = "{half: {heads: 1/2, ffn: 1/2, rank: 1/2}}"
EXTRA = (
    f"contestants={{extra: {{method: 'costeff.recipe:CostEff', options: {{epochs: 1, rate: 0.5, sizes: {COSTEFF}}}}}}}"
)


def test_deleted_weights_are_made_again_where_they_are_needed(finished, tmp_path):
    """A new contestant continues the assistant, which learned from the teacher: its job makes both weights again."""
    runs = finished.results / "runs"
    assert list(runs.glob("*/*/*/*/model/config.json")) and not list(runs.glob("*/*/*/*/model/model.safetensors"))
    assert jobs(finished.snakemake("-n", config=("keep_models=true",)))["run"] == 6
    shutil.copytree(finished.home, tmp_path / "copy")
    copy = Person(tmp_path / "copy")
    assert jobs(copy.snakemake("-n", config=(EXTRA,)))["run"] == 2  # on two tasks
    done = copy.snakemake(config=(EXTRA,))
    assert done.returncode == 0, done.stdout + done.stderr
    for file in runs.glob("*/*/*/*/trace-*.parquet"):
        assert (copy.results / "runs" / file.relative_to(runs)).read_bytes() == file.read_bytes()
    assert not list(copy.results.glob("runs/*/*/*/*/model/model.safetensors"))
    points = pd.read_parquet(copy.results / "all-points.parquet")
    assert "extra" in set(points["method"]) and set(points["status"]) == {"ok"}


def test_the_command_prints_findings_and_snakemake_s_text_is_in_a_file(finished):
    again = finished.costeff("--cores", "2")
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert "Nothing to be done" not in said
    assert any(
        "Nothing to be done" in log.read_text()
        for log in (finished.home / "elsewhere").glob(".snakemake/log/costeff-*")
    )
    dry = finished.costeff("--cores", "2", "--forcerun", "report", "-n")
    said = dry.communicate()[0]
    assert dry.returncode == 0 and "rule report" in said and "dry-run" in said
    redone = finished.costeff("--cores", "2", "--forcerun", "report")
    lines = redone.communicate()[0].splitlines()
    assert redone.returncode == 0
    findings = (finished.results / "findings.txt").read_text().splitlines()
    place = lines.index(findings[0])
    assert lines[place : place + len(findings)] == findings and 0 < len(findings) <= 6
    assert lines[place + len(findings)] == f"page:  {finished.results / 'index.html'}"


def test_ctrl_c_stops_all_processes_and_the_same_command_resumes(finished, tiny_backbone, tmp_path):
    run = person(tmp_path / "stopped", tiny_backbone)
    process = run.costeff("--cores", "2", start_new_session=True)
    until = time.monotonic() + 600
    while not list(run.results.glob("runs/*/*/*/*/run.json")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=300)[0]
    assert process.returncode not in (0, None) and "run the same command to resume" in said
    assert "Traceback" not in said
    done = run.costeff("--cores", "2")
    said = done.communicate()[0]
    assert done.returncode == 0, said
    for file in finished.results.glob("runs/*/*/*/*/trace-*.parquet"):
        assert (run.results / file.relative_to(finished.results)).read_bytes() == file.read_bytes()


def test_a_second_workflow_on_a_profile_is_refused(finished):
    with FileLock(finished.results / ".workflow.lock"):
        refused = finished.snakemake("--forcerun", "report")
    assert refused.returncode != 0
    assert "is locked by another workflow" in refused.stdout + refused.stderr


def test_a_failure_is_a_row_and_an_exit_code(tiny_backbone, tmp_path):
    run = person(tmp_path / "failing", tiny_backbone)
    (run.home / "own" / "failing.py").write_text((ROOT / "tests" / "failing.py").read_text())
    diverges = "{method: 'failing:Diverging', tasks: {rte: {learning_rate: 1.0, epochs: 4}}}"
    raises = "{tasks: {sst2: {raises: true}}}"
    broken = f"contestants={{teacher: {diverges}, mine: {raises}}}"
    done = run.costeff("--cores", "2", "--config", broken)
    said = done.communicate()[0]
    assert done.returncode == 1, said
    failures = {line.split(":")[1].strip() for line in said.splitlines() if line.startswith("failed: ")}
    assert failures >= {"rte/teacher/full/seed0", "rte/assistant/full/seed0", "sst2/mine/full/seed0"}, said
    assert not (run.results / "complete").exists()
    points = pd.read_parquet(run.results / "all-points.parquet")
    failed = points[points["status"] == "failed"].set_index(["task", "method"])["reason"].to_dict()
    assert set(failed) == {("rte", "teacher"), ("rte", "assistant"), ("sst2", "mine")}
    assert "lower the learning rate" in failed["rte", "teacher"]
    assert failed["rte", "assistant"].startswith("its teacher failed: ")
    assert failed["sst2", "mine"] == "KeyError: 'a fault of mine'"
    page = (run.results / "index.html").read_text()
    assert "a fault of mine" in page and "lower the learning rate" in page
    measured = points[(points["task"] == "sst2") & (points["method"] == "assistant")]
    assert measured["latency_32"].notna().any(), "what did not fail is timed"
    # A crash is tried again by the same command, a loss that is not finite is not: it would end in the same way.
    assert jobs(run.snakemake("-n", config=(broken,)))["run"] == 1


def test_after_a_kill_of_all_processes_the_same_command_resumes(finished, tiny_backbone, tmp_path):
    run = person(tmp_path / "killed", tiny_backbone)
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        run.command(), cwd=tmp_path / "killed" / "elsewhere", env=run.environment,
        stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 300
    while not list(run.results.glob("runs/*/*/*/*/run.json")):
        assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    for file in finished.results.glob("runs/*/*/*/*/trace-*.parquet"):
        ours = run.results / file.relative_to(finished.results)
        assert ours.read_bytes() == file.read_bytes()
