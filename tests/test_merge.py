"""Merged folders: a contestant is one recipe with all seeds and on all tasks, and errors are one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from bench.errors import UserError
from bench.provenance import identity_of
from bench.sharing.entries.validating import validate
from bench.sharing.folders import open_folder
from bench.sharing.results import check_options, merge
from bench.store import RunKey

REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "glue-laptop"


def part(to: Path, *keys: RunKey, **changes: Any) -> Path:
    """Return a published folder with some runs of a committed one, with other values under `asked` and settings."""
    points = pd.read_parquet(REFERENCE / "all-points.parquet")
    rows = [RunKey(*key) in keys for key in points[["task", "method", "variant", "seed"]].itertuples(index=False)]
    settings = yaml.safe_load((REFERENCE / "settings.yaml").read_text())
    to.mkdir()
    (to / "settings.yaml").write_text(yaml.safe_dump(settings))
    points[rows].to_parquet(to / "all-points.parquet")
    for key in keys:
        folder = shutil.copytree(REFERENCE / "runs" / key.path, to / "runs" / key.path)
        change(folder, **changes)
    return to


def change(folder: Path, **changes: Any) -> None:
    """Change what a run was asked for, and its identity."""
    facts = json.loads((folder / "run.json").read_text())
    for name, value in changes.items():
        facts["asked"][name] = facts["asked"][name] | value if isinstance(value, dict) else value
    (folder / "run.json").write_text(json.dumps(facts | {"identity": identity_of(facts["asked"])}))


def settings_of(folder: Path, edit) -> None:
    file = folder / "settings.yaml"
    values = yaml.safe_load(file.read_text())
    edit(values)
    file.write_text(yaml.safe_dump(values))


TEACHER = [RunKey("rte", "teacher", "full", seed) for seed in (0, 1)]
WNLI = RunKey("wnli", "teacher", "full", 1)
OPTIONS = json.loads((REFERENCE / "runs" / TEACHER[0].path / "run.json").read_text())["asked"]["method"]["options"]
OTHER = {
    "options.learning_rate": {"method": {"options": OPTIONS | {"learning_rate": 0.123}}},
    "method.version": {"method": {"version": 7}},
    "budget.batch_size": {"budget": {"batch_size": 1}},
    "budget.share": {"budget": {"share": 0.5}},
    "restarts": {"restarts": 0},
    "checkpoints": {"checkpoints": {"owner/model": "0" * 64}},
}


@pytest.mark.parametrize("key", [TEACHER[1], WNLI], ids=["another seed", "another task"])
@pytest.mark.parametrize("name", OTHER)
def test_runs_of_one_contestant_with_other_options_are_not_merged(tmp_path, name, key):
    folders = [part(tmp_path / "a", TEACHER[0]), part(tmp_path / "b", key, **OTHER[name])]
    with pytest.raises(UserError, match=f"were made with different options \\({name}: .*rename one of the contestants"):
        merge(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_steps_differ_between_tasks_and_not_between_seeds(tmp_path):
    folders = [part(tmp_path / "a", TEACHER[0]), part(tmp_path / "b", TEACHER[1], budget={"steps": 9})]
    with pytest.raises(UserError, match=r"budget\.steps: 100; 9"):
        merge(folders, tmp_path / "out")
    merge([folders[0], part(tmp_path / "c", WNLI)], tmp_path / "out")


def test_an_entry_with_two_recipes_under_one_name_is_not_valid(tmp_path):
    folder = part(tmp_path / "a", *TEACHER)
    assert "failed" not in {check.state for check in validate(folder)}
    change(folder / "runs" / TEACHER[1].path, restarts=0)
    (failed,) = [check for check in validate(folder) if check.state == "failed"]
    assert failed.name == "identity" and "different options (restarts: 2; 0)" in failed.said
    settings_of(folder, lambda values: values.update(seeds=[0]))  # a run left from earlier settings
    assert "failed" not in {check.state for check in validate(folder)}


def test_tasks_may_have_options_of_their_own_and_checkpoints_other_places(tmp_path):
    folders = [part(tmp_path / "a", TEACHER[0]), part(tmp_path / "b", WNLI, **OTHER["options.learning_rate"])]
    of_wnli = {"wnli": {"learning_rate": 0.123}}
    settings_of(folders[1], lambda values: values["contestants"]["teacher"].update(tasks=of_wnli))
    merge(folders, tmp_path / "out")
    here, there = (
        {"checkpoints": {f"/{place}/bert": "0" * 64}, "method": {"options": OPTIONS | {"checkpoint": f"/{place}/bert"}}}
        for place in "xy"
    )
    merge([part(tmp_path / "x", TEACHER[0], **here), part(tmp_path / "y", TEACHER[1], **there)], tmp_path / "both")


@pytest.mark.parametrize("name", ["glue-laptop", "sketch"])
def test_committed_results_are_of_one_recipe_each(name):
    folder = open_folder(REFERENCE.parent / name)
    check_options([folder, folder])


def failed(folder: Path, key: RunKey, **facts: Any) -> Path:
    """Turn a run of a published folder into a failed one."""
    points = pd.read_parquet(folder / "all-points.parquet")
    own = (points[["task", "method", "variant", "seed"]] == pd.Series(key.facts)).all(axis=1)
    row = points[own].iloc[:1].assign(status="failed", reason="no memory")
    pd.concat([points[~own], row]).to_parquet(folder / "all-points.parquet")
    file = folder / "runs" / key.path / "run.json"
    known = json.loads(file.read_text())
    values = {"status": "failed", "reason": "no memory", "key": known["key"], "identity": known["identity"]} | facts
    file.write_text(json.dumps({name: value for name, value in values.items() if value}))
    return folder


@pytest.mark.parametrize("first", [0, 1])
def test_a_failed_run_gives_way_only_to_the_same_run(tmp_path, first):
    finished = part(tmp_path / "finished", TEACHER[0])
    for identity in ({}, {"identity": None}, {"identity": "0" * 16}):
        name = str(identity.get("identity", "equal"))
        folders = [finished, failed(part(tmp_path / name, TEACHER[0]), TEACHER[0], **identity)]
        if name.startswith("0"):
            with pytest.raises(UserError, match="were made with different options"):
                merge(folders[:: 1 - 2 * first], tmp_path / "out")
        else:
            merged = merge(folders[:: 1 - 2 * first], tmp_path / f"out-{name}")
            assert json.loads((merged.root / "runs" / TEACHER[0].path / "run.json").read_text())["status"] == "ok"


def without_budget(values: dict) -> None:
    values["training"]["budget"] = None
    values["contestants"] = {"teacher": values["contestants"]["teacher"]}
    values |= {"depth_reference": None, "ablations": {}}
    values["comparison"]["primary"]["contestant"] = None


def other_case(values: dict) -> None:
    values["contestants"]["Assistant"] = values["contestants"].pop("assistant")


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (without_budget, r"contestants\.[\w-]+\.share = .*: requires training.budget"),
        (other_case, "contestants: '[aA]ssistant' and '[aA]ssistant' differ only in case"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(tmp_path, edit, line):
    folders = [part(tmp_path / "a", TEACHER[0]), part(tmp_path / "b", RunKey("rte", "assistant", "full", 0))]
    settings_of(folders[0], edit)
    with pytest.raises(UserError, match=line) as caught:
        merge(folders, tmp_path / "out")
    assert str(folders[1]) in str(caught.value) and "\n" not in str(caught.value)
