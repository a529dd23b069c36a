"""`costeff compare` reads any results folder, and groups of its tasks, without text."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.statistics import select_tasks
from bench.errors import UserError
from bench.tasks.catalogue import tasks_of

REFERENCE = Path(__file__).parent / "data" / "results-0.2"
TASKS = ["cola", "wnli"]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """Two tasks of a committed folder, under a name that no profile could have."""
    folder = tmp_path_factory.mktemp("compare") / "of others (2)"
    points = pd.read_parquet(REFERENCE / "all-points.parquet", filters=[("task", "in", TASKS), ("seed", "==", 0)])
    points = points[points["method"].isin(["teacher", "costeff", "pabee"])]
    for run in points[["task", "method", "variant"]].drop_duplicates().itertuples(index=False):
        shutil.copytree(REFERENCE / "runs" / "/".join(run) / "seed0", folder / "runs" / "/".join(run) / "seed0")
    points.to_parquet(folder / "all-points.parquet")
    shutil.copyfile(REFERENCE / "settings.yaml", folder / "settings.yaml")
    return folder


@pytest.fixture(autouse=True)
def no_text(monkeypatch) -> None:
    monkeypatch.delenv("GLUE_DIR", raising=False)


@pytest.mark.parametrize(
    ("tasks", "shown"), [("pairs", {"WNLI"}), ("single", {"CoLA"}), ("wnli, cola", {"WNLI", "CoLA"}), (None, {"WNLI"})]
)
def test_any_folder_is_compared_from_anywhere(costeff, published, tasks, shown):
    done = costeff("compare", "costeff", "--results", published, "--speedup", 4, *(("--tasks", tasks) if tasks else ()))
    out = done.stdout
    assert done.returncode == 0 and "PABEE" in out and all(f"| {name} " in out for name in shown)
    assert not tasks or not [name for name in {"WNLI", "CoLA"} - shown if f"| {name} " in out]
    answer, table = out.split("\n\n", 1)
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    place = {name.strip(): at for at, name in enumerate(rows[0])}
    average = f"selected: {tasks}" if tasks else "all tasks"
    several = any(row[place["Tasks"]].strip() == average for row in rows)
    assert several is (len(shown) > 1 or not tasks)
    assert answer.startswith("Verdicts are corrected for the comparisons printed here (") and "primary)" in answer
    assert f"({average if several else 'single tasks'} 2" in answer
    assert not any("primary" in field for row in rows for field in row), "the tables have another family"
    whole = [row for row in rows[2:] if several is (row[place["Tasks"]].strip() == average)]
    whole = [row for row in whole if row[place["Verdict"]].strip() != "–"]
    assert whole
    for row in whole:
        verdict = row[place["Verdict"]].strip()
        line = next(line for line in answer.splitlines() if f"{row[place['B']].strip()} (" in line)
        assert line.startswith("COST-EFF at least 4x") and verdict.split()[0] in line.lower()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nobody", "--results", "{}"), "no method 'nobody'"),
        (("costeff", "nobody", "--results", "{}"), "no method 'nobody'"),
        (("costeff", "costeff", "--results", "{}"), "cannot be compared with itself"),
        (("costeff", "--results", "{}", "--tasks", "sst3"), "no task 'sst3'; choose from cola, wnli, pairs"),
        (("costeff", "--results", "{}", "--tasks", "learned"), "--tasks learned: no such task here"),
        (("costeff", "--results", "{}", "--tasks", ""), "no such task here"),
        (("costeff", "--results", "{}", "--speedup", "-1"), "--speedup -1.0: a number above 0"),
        (("costeff", "--results", "{}", "--speedup", "nan"), "--speedup nan: a number above 0"),
        (("costeff", "--results", "nowhere"), "nowhere has no runs"),
        (("costeff", "--results", "."), "has no runs"),
        (("costeff",), "does not exist; run the workflow"),
    ],
)
def test_an_impossible_comparison_is_one_line(costeff, published, words, said):
    done = costeff("compare", *(word.format(published) for word in words))
    assert done.returncode == 2 and not done.stdout and said in done.stderr and done.stderr.count("\n") == 1


def test_results_without_a_finished_run_are_reported(costeff, published, tmp_path):
    points = pd.read_parquet(published / "all-points.parquet")[["task", "method", "variant", "seed", "label"]]
    failed = points.drop_duplicates().assign(status="failed", reason="out of memory", selection="calibration")
    folder = shutil.copytree(published, tmp_path / "failed")
    failed.to_parquet(folder / "all-points.parquet")
    for path in folder.glob("runs/*/*/*/*/run.json"):
        facts = json.loads(path.read_text()) | {"status": "failed", "reason": "out of memory"}
        path.write_text(json.dumps(facts))
    done = costeff("compare", "costeff", "--results", folder)
    assert done.returncode == 2 and "no run has finished" in done.stderr


@pytest.mark.parametrize(("low", "learned"), [(0.05, True), (0.0499, False)])
def test_learned_is_a_gain_of_five_points_with_every_seed(low, learned):
    rows = [
        {"task": "cola", "method": method, "variant": "full", "seed": seed, "kind": kind, "score": score}
        for seed, gain in ((0, 0.3), (1, low))
        for method, kind, score in (("constant", "control", 0.0), ("teacher", "static", gain))
    ]
    points = pd.DataFrame(rows).assign(split="calibration", selection="calibration", status="ok")
    if learned:
        assert select_tasks("learned", points, tasks_of({}), reference="teacher") == ["cola"]
    else:
        with pytest.raises(UserError, match="no such task"):
            select_tasks("learned", points, tasks_of({}), reference="teacher")


def test_own_tasks_belong_to_the_groups_and_parts_are_united():
    from bench.settings import OwnTask

    own = {
        name: OwnTask(columns=columns, labels=["a", "b"], metrics=["accuracy"], files={"train": "train.csv"})
        for name, columns in (("mail", ["text"]), ("claims", ["one", "two"]))
    }
    points = pd.DataFrame({"task": ["mail", "claims", "cola"]})
    known = tasks_of(own)
    for wanted, chosen in {
        "pairs": ["claims"],
        "single": ["mail", "cola"],
        "single,pairs": ["mail", "claims", "cola"],
        "claims, single": ["mail", "claims", "cola"],
        "cola,cola": ["cola"],
    }.items():
        assert select_tasks(wanted, points, known, reference="teacher") == chosen
