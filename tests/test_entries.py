"""Entries of shared results: every false number is found, points alone keep the tables, and the workflow runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_foreign_records import REFERENCE, part

from bench.analysis.budgets import POINT, at_budget
from bench.provenance import identity_of
from bench.reporting.everything import write_everything
from bench.sharing.entries.validating import validate, validate_all
from bench.sharing.folders import open_folder
from bench.sharing.points_only import BUDGETS, without_traces
from bench.sharing.results import merge, publish
from bench.store import RunKey

TASKS = ("wnli", "stsb")
ROOT = Path(__file__).parents[1]
HOME = ROOT / "examples" / "living-results"


def variants(method: str) -> list[str]:
    return sorted(path.name for path in (REFERENCE / "runs" / "wnli" / method).iterdir())


def entry(folder: Path, *methods: str) -> Path:
    """Write a published folder with all variants of some methods, seed 0."""
    keys = [RunKey(task, method, name, 0) for task in TASKS for method in methods for name in variants(method)]
    return part(folder, [key for key in keys if (REFERENCE / "runs" / key.path).is_dir()])


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> Path:
    """Three entries, `a` with the reference, `b` and `c`; the last one with points only."""
    base = tmp_path_factory.mktemp("the entries")
    entry(base / "a", "teacher", "pabee")
    entry(base / "b", "distilbert")
    whole = entry(base.parent / "whole" / "c", "costeff")
    publish(open_folder(whole).settings, base / "c", points_only=True)
    return base


@pytest.fixture
def own(entries, tmp_path) -> Path:
    return shutil.copytree(entries / "a", tmp_path / "a")


def states(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for check in validate(folder):
        assert "\n" not in check.line()
        found[check.name] = "failed" if found.get(check.name) == "failed" else check.state
    return found


def test_good_entries_pass_and_say_what_cannot_be_checked(entries):
    assert set(states(entries / "a").values()) == {"ok"}
    assert states(entries / "c")["replay"] == "not possible"
    *_, (together, merged) = validate_all([entries / name for name in "abc"])
    assert together is None and merged.state == "ok" and "3 folders" in merged.said


COLUMNS = ("score", "flops", "flops_128", "speedup", "speedup_128", "mean_exit", "mean_layers", "accuracy", "pearson")


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(column=st.sampled_from(COLUMNS), seed=st.integers(0, 999), size=st.floats(1e-8, 1e-2))
def test_any_number_that_is_not_that_of_its_trace_is_found(own, column, seed, size):
    file = own / "all-points.parquet"
    whole = file.read_bytes()
    try:
        points = pd.read_parquet(file)
        known = np.flatnonzero(points[column].notna() & (points["kind"] != "control"))
        at = points.index[known[seed % len(known)]]
        value = points.at[at, column]
        points.at[at, column] = value - size * max(1.0, abs(value))
        points.to_parquet(file)
        assert "failed" in states(own).values()
    finally:
        file.write_bytes(whole)


def edit(file: Path, change) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def points(file: Path, change) -> None:
    table = pd.read_parquet(file)
    change(table)
    table.to_parquet(file)


def exits_of_others(table: pd.DataFrame) -> None:
    rows = table.index[table["kind"] == "fixed_exit"]
    table.loc[rows, "exit"] = table.loc[rows, "exit"].to_numpy()[::-1]


def all_on_the_frontier(table: pd.DataFrame) -> None:
    table["on_frontier"] = True


def half_the_parameters(table: pd.DataFrame) -> None:
    table["parameters"] //= 2


def exits_by_the_labels(table: pd.DataFrame) -> None:
    """Record exits under the name of a policy that is computed from the traces."""
    chosen = table["policy"].isin(["patience", "entropy"]) & (table["kind"] == "uniform")
    assert chosen.any()
    counts = zip(chosen, table["examples"].fillna(0), strict=True)
    table["exits_taken"] = [bytes(int(count)) if use else None for use, count in counts]


def by_luck(table: pd.DataFrame) -> None:
    table["policy"] = table["policy"].replace("patience", "luck")


RUN = "runs/wnli/pabee/full/seed0"
BROKEN = {
    "identity": ("identity", lambda f: edit(f / RUN / "run.json", lambda run: run.update(identity="0" * 16))),
    "asked": ("identity", lambda f: edit(f / RUN / "run.json", lambda run: run["asked"]["method"].update(options={}))),
    "another seed": ("identity", lambda f: edit(f / RUN / "run.json", lambda run: run["asked"].update(seed=5))),
    "schema": ("schema", lambda f: edit(f / RUN / "run.json", lambda run: run.pop("where"))),
    "settings": ("schema", lambda f: (f / "settings.yaml").write_text("tasks: 3")),
    "no trace": ("records", lambda f: (f / RUN / "trace-validation.parquet").unlink()),
    "frontier": ("replay", lambda f: points(f / "all-points.parquet", all_on_the_frontier)),
    "other exits": ("replay", lambda f: points(f / "all-points.parquet", exits_of_others)),
    "parameters": ("replay", lambda f: points(f / "all-points.parquet", half_the_parameters)),
    "recorded exits": ("records", lambda f: points(f / "all-points.parquet", exits_by_the_labels)),
    "unknown policy": ("replay", lambda f: points(f / "all-points.parquet", by_luck)),
    "a program": ("content", lambda f: (f / "setup.py").write_text("print()")),
    "a workflow": (
        "content",
        lambda f: ((f / ".github" / "workflows").mkdir(parents=True), (f / ".github/workflows/x.yml").write_text("on")),
    ),
    "a link": ("content", lambda f: (f / "tables").symlink_to("/etc")),
    "weights": ("content", lambda f: (f / RUN / "model" / "model.safetensors").write_bytes(b"x")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_hostile_entries_fail_by_the_check_that_is_named(own, name):
    check, damage = BROKEN[name]
    damage(own)
    assert states(own)[check] == "failed"


def test_a_claim_to_have_no_traces_does_not_hide_the_points(own):
    """Rows marked as published without traces are shown as such, although there are traces."""
    points(own / "all-points.parquet", lambda table: table.insert(0, "tier", "points"))
    assert states(own)["replay"] == "not possible"


def test_needed_runs_that_are_missing_or_others_are_named(own, tmp_path):
    said = next(check.said for check in validate(entry(tmp_path / "alone", "tinybert")) if check.name == "identity")
    assert "not in the folder: stsb/teacher/full/seed0; wnli/teacher/full/seed0" in said

    def with_needs(name: str) -> str:
        def change(run: dict) -> None:
            run["asked"]["needs"] = {name: "0" * 16}
            run["identity"] = identity_of(run["asked"])

        edit(own / RUN / "run.json", change)
        return next(check.said for check in validate(own) if check.name == "identity")

    for name in ("pabee/full", "stsb/teacher/full/seed0"):  # also of another task
        assert f"it was made with another {name} than the one in the folder" in with_needs(name)
    assert "not in the folder: sst2/teacher/full/seed0" in with_needs("sst2/teacher/full/seed0")


@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_points_alone_keep_the_choice_at_every_budget_of_the_tables(split):
    every = pd.read_parquet(REFERENCE / "all-points.parquet")
    few = without_traces(every)
    assert len(few) < len(every) / 5
    for budget in BUDGETS:
        chosen = [at_budget(table, budget, split=split)[[*POINT, "score", "flops"]] for table in (every, few)]
        pd.testing.assert_frame_equal(*chosen)


def test_points_alone_are_small(tmp_path):
    """At most 100 kB for a method of 27 runs."""
    publish(open_folder(REFERENCE).settings, tmp_path / "small", points_only=True)
    size = sum(file.stat().st_size for file in (tmp_path / "small").rglob("*") if file.is_file())
    runs = len(list((tmp_path / "small").glob("runs/*/*/*/*")))
    assert 27 * size / runs < 100_000
    assert set(states(tmp_path / "small").values()) == {"ok", "not possible"}


def test_merged_entries_mark_what_has_no_traces(entries, tmp_path):
    settings = merge([entries / name for name in "cab"], tmp_path / "merged", lambda of: list(write_everything(of)))
    tables = {path.stem: path.read_text() for path in (settings.root / "tables").glob("*.md")}
    label = pd.read_parquet(entries / "c" / "all-points.parquet")["label"].iloc[0].split(" ")[0]
    assert "¶" in tables["main"] and label in tables["main"] and label in tables["frontier"]
    rows = [line for line in tables["verdicts"].splitlines() if line.startswith("|")]
    assert rows and not [line for line in rows if label in line]
    page = (settings.root / "index.html").read_text()
    assert "published without traces" in page


def test_a_run_with_traces_is_kept_before_the_same_one_without(entries, tmp_path):
    whole = open_folder(entries / "a").settings
    publish(whole, tmp_path / "small", points_only=True)
    for order in ("small", "a"), ("a", "small"):
        folders = [entries / name if name == "a" else tmp_path / name for name in order]
        merged = merge(folders, tmp_path / f"first-{order[0]}")
        table = pd.read_parquet(merged.root / "all-points.parquet")
        assert len(table) == len(pd.read_parquet(entries / "a" / "all-points.parquet"))
        assert set(states(merged.root).values()) == {"ok"}


def test_the_workflow_of_the_example_validates_merges_and_ranks(entries, tmp_path):
    """The steps that GitHub would run, in a repository with three entries; a broken one stops it."""
    home = shutil.copytree(HOME, tmp_path / "living results")
    for name in "abc":
        shutil.copytree(entries / name, home / "entries" / name)
    workflow = yaml.safe_load((home / ".github" / "workflows" / "results.yml").read_text())
    assert workflow[True].keys() == {"pull_request", "push"} and workflow["permissions"] == {"contents": "read"}
    steps = [step["run"] for step in workflow["jobs"]["results"]["steps"] if "pip" not in step.get("run", "pip")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    summary = tmp_path / "summary.md"
    own = os.environ | {"PATH": path, "GITHUB_STEP_SUMMARY": str(summary), "OMP_NUM_THREADS": "1"}

    def run() -> list[subprocess.CompletedProcess[str]]:
        done = []
        for step in steps:
            done.append(subprocess.run(["bash", "-e", "-c", step], cwd=home, env=own, capture_output=True, text=True))
            if done[-1].returncode:
                break
        return done

    done = run()
    assert [each.returncode for each in done] == [0] * len(steps), done[-1].stderr
    assert (home / "site" / "index.html").is_file() and "rank" in summary.read_text().lower()
    points(home / "entries" / "b" / "all-points.parquet", lambda table: table.update(table["score"] * 0.9))
    shutil.rmtree(home / "site")
    stopped = run()
    assert stopped[0].returncode == 2 and "b: failed" in stopped[0].stdout and len(stopped) == 1
