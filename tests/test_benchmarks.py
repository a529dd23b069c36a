"""The measurements of the suite itself run: every script of benchmarks/, and what `make bench` calls."""

import runpy
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.planning.coming import coming
from bench.runs.train_run import produce
from bench.settings import check, load
from bench.store import read_json, run_folder

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def called(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # as `python benchmarks/<script>` does
    runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")


@pytest.fixture(scope="module")
def profile(tiny_settings, tmp_path_factory) -> Path:
    """A profile whose runs are finished: a model with exits, the reference, and a cut one."""
    folder = tmp_path_factory.mktemp("benchmarks")
    values = tiny_settings(folder / "results").model_dump(mode="json")
    chosen = {name: values["contestants"][name] for name in ("teacher", "first-layers", "assistant")}
    for entry in chosen.values():
        entry["options"] |= {"epochs": 1}
    chosen["first-layers"]["options"]["depths"] = [1]
    values |= {"contestants": chosen, "tasks": ["sst2"], "studies": [], "depth_reference": None}
    values["data"]["sketch"] |= {"train": 96, "validation": 48}
    settings = check(values, "test")
    for planned in runs(settings):
        assert produce(settings, planned.key) == ""
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return folder / "mine.yaml"


@pytest.mark.parametrize("script", [path.name for path in SCRIPTS])
def test_every_script_documents_its_usage(script, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        called(monkeypatch, script, "--help")
    assert ended.value.code == 0 and "usage: " in capsys.readouterr().out


def test_make_bench_calls_scripts_that_are_there_with_options_that_they_take():
    said = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [shlex.split(line) for line in said.splitlines() if "benchmarks/" in line]
    assert len(lines) == 3
    for _, script, *options in lines:
        text = (ROOT / script).read_text()
        assert all(f'"{option}"' in text for option in options if option.startswith("--"))


@pytest.mark.parametrize(
    ("script", "arguments", "printed"),
    [
        ("clock.py", [], "all within 10 %"),
        ("thresholds.py", ["--splits", "1"], "direct search"),
        ("layer_latency.py", ["--length", "8"], "ffn: {floor: "),
        ("gpu.py", ["--layers", "1", "--hidden", "16", "--heads", "1", "--steps", "1", "--task", ""], "TFLOP/s"),
    ],
)
def test_a_finished_run_is_measured(profile, script, arguments, printed, monkeypatch, capsys):
    config = [] if script == "gpu.py" else ["--config", str(profile)]
    called(monkeypatch, script, *config, *arguments)
    assert printed in capsys.readouterr().out


def test_runs_that_are_there_are_packed_and_reused_and_not_trained_again(profile, tmp_path, monkeypatch):
    settings, out, before = load(profile), tmp_path / "out", {}
    for planned in runs(settings):
        file = run_folder(settings, planned.key) / "run.json"
        before[file] = file.read_bytes()
    called(monkeypatch, "glue_gpu.py", str(out), "--profile", str(profile), "--device", "cpu", "--workers", "1",
           "--no-bert-base")  # fmt: skip
    summary = read_json(out / "summary.json")
    assert len(summary["finished"]) == len(before) and not summary["missing"] and not summary["failed"]
    assert all(file.read_bytes() == content for file, content in before.items())
    for part in out.glob("runs-*.tar"):
        with tarfile.open(part) as archive:
            archive.extractall(tmp_path / "packed", filter="data")
    elsewhere = load(profile, {"results": str(tmp_path / "elsewhere"), "reuse": [str(tmp_path / "packed")]})
    found = coming(elsewhere, Identities(elsewhere))
    assert not found.runs and len(found.reusable_runs) == len(before)
    assert all(produce(elsewhere, key) == "" for key in found.reusable_runs)
    copied = [read_json(run_folder(elsewhere, key) / "run.json") for key in found.reusable_runs]
    assert {facts["taken_from"] for facts in copied} == {"packed"}


def test_a_trial_is_scored_at_the_budgets_that_its_exits_meet():
    at_budgets = runpy.run_path(str(ROOT / "benchmarks" / "tuning.py"))["at_budgets"]
    assert at_budgets([(0.8, 100.0)], 100.0) == 0.8
    assert at_budgets([(0.8, 100.0), (0.6, 50.0)], 100.0) == pytest.approx((0.8 + 0.6) / 2)
    assert at_budgets([(0.7, 100.0), (0.9, 12.5)], 100.0) == 0.9, "a cheaper exit counts at every larger budget"
    assert at_budgets([(0.8, 100.0), (0.1, 30.0)], 100.0) == pytest.approx((0.8 + 0.1) / 2)
    assert at_budgets([], 100.0) != at_budgets([], 100.0), "without exits: not a number"
