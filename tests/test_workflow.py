"""The workflow as a person starts it: what it plans, and what it says of settings that cannot be."""

import subprocess
import sys
from pathlib import Path

from bench import settings
from bench.runs import plan

ROOT = Path(__file__).parent.parent


def dry_run(*config: str) -> subprocess.CompletedProcess[str]:
    """`snakemake -n` on the tiny profile."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--configfile", "config/tiny.yaml"]
    return subprocess.run([*command, "--config", *config], cwd=ROOT, capture_output=True, text=True)


def test_a_page_without_its_runs_is_not_a_finished_run(tmp_path):
    results = tmp_path / "tiny"
    (results / "tables").mkdir(parents=True)
    (results / "figures").mkdir()
    (results / "sweeps" / "sst2" / "search").mkdir(parents=True)
    for kept in ("index.html", "all-points.parquet", "sweeps/sst2/search/trials.parquet"):  # as in a fresh clone
        (results / kept).touch()
    planned = dry_run(f"results={tmp_path}", "tasks=[sst2]")
    assert planned.returncode == 0, planned.stderr
    jobs = dict(line.split() for line in planned.stdout.splitlines() if len(line.split()) == 2)
    runs = [run for run in plan.runs(settings.load(ROOT / "config" / "tiny.yaml")) if run.key.task == "sst2"]
    once = {"latency", "collect", "sweep_finish", "report"}
    assert int(jobs["run"]) == len(runs) and jobs["sweep_tell"] == "2" and all(jobs[rule] == "1" for rule in once)


def test_wrong_settings_are_named_in_one_line_before_any_job():
    refused = dry_run("tasks=[sst3]")
    assert refused.returncode != 0
    named = [line for line in (refused.stdout + refused.stderr).splitlines() if "sst3" in line]
    assert len(named) == 1 and "sst2" in named[0]
