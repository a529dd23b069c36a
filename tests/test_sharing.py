"""Results leave the folder they were made in, are united with others', and are not trained again."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.errors import UserError
from bench.reporting.everything import write_everything
from bench.runs import ratios
from bench.runs.clock import measure_latency
from bench.runs.collect import collect, operated
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.planning.coming import coming
from bench.runs.replay import replay
from bench.runs.reuse import reusable_runs
from bench.runs.train_run import produce
from bench.settings import Settings, check, load
from bench.sharing.folders import settings_of as published_settings
from bench.sharing.results import _united, _without_paths, merge, placeless, publish
from bench.store import PART, RunKey, read_json, run_folder, write_parquet

BRIEF = {"epochs": 1, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def profile(tiny_settings):
    """`profile(folder, **changes)`: a teacher and PABEE on one task."""

    def build(folder: Path, **changes) -> Settings:
        contestants = {
            "teacher": {"method": "baselines.finetuned:Finetuned", "options": BRIEF},
            "pabee": {"method": "baselines.pabee:Pabee", "options": BRIEF},
        }
        data = {"sketch": {"train": 96, "validation": 32, "test": 16}, "calibration": 32}
        values = tiny_settings(folder).model_dump() | {"contestants": contestants, "depth_reference": None}
        return check(values | {"data": data} | changes, "test")

    return build


def made(settings: Settings) -> Settings:
    """The settings, once every run is there, replayed and united."""
    for planned in runs(settings):
        assert produce(settings, planned.key) == ""
    for task in settings.tasks:
        for seed in settings.seeds_of(task):
            replay(settings, task, seed)
    write_parquet(settings.root / "all-points.parquet", collect(settings))
    return settings


@pytest.fixture(scope="module")
def first(profile, tmp_path_factory) -> tuple[Settings, Path]:
    """A finished profile of seed 0, and what was published of it."""
    folder = tmp_path_factory.mktemp("first")
    settings = made(profile(folder / "results"))
    publish(settings, folder / "published")
    return settings, folder / "published"


def test_what_is_published_has_no_weights_no_text_and_no_place(first):
    settings, published = first
    files = {path.relative_to(published) for path in published.rglob("*") if path.is_file()}
    assert not [path for path in files if path.suffix == ".safetensors" or "test" in path.name or "vocab" in path.name]
    assert Path("all-points.parquet") in files and len([path for path in files if path.name == "run.json"]) == 2
    words = "".join(path.read_text() for path in published.rglob("*") if path.suffix in (".json", ".yaml"))
    assert str(settings.results) not in words
    with pytest.raises(UserError, match="is not empty"):
        publish(settings, published)


@pytest.mark.slow
def test_two_seeds_apart_and_merged_are_one_run_of_both(first, profile, tmp_path):
    second = made(profile(tmp_path / "second", seeds=[1]))
    publish(second, tmp_path / "published")
    both = made(profile(tmp_path / "both", seeds=[0, 1]))
    united = merge([first[1], tmp_path / "published"], tmp_path / "united")
    assert united.seeds_of("sst2") == [0, 1] and united.root == tmp_path / "united"
    order = ["task", "method", "variant", "seed", "kind", "point", "split"]
    apart = ["profile", "training_seconds", "cpu_seconds", "peak_memory_bytes"]
    tables = [pd.read_parquet(of.root / "all-points.parquet").drop(columns=apart) for of in (united, both)]
    pd.testing.assert_frame_equal(*(table.sort_values(order, ignore_index=True) for table in tables))
    assert load(tmp_path / "united" / "settings.yaml").contestants == both.contestants


def own(folder: Path, name: str) -> dict:
    files = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    return {name: {"columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy"], "files": files}}


def test_settings_that_leave_name_no_place_and_keep_everybodys_tasks(profile, tmp_path):
    here, there = (
        profile(tmp_path, tasks=[name], own_tasks=own(tmp_path, name), reuse=[tmp_path]) for name in ("mail", "news")
    )
    values = placeless(here)
    assert str(tmp_path) not in str(values) and not Path(values["backbone"]["name"]).is_absolute()
    assert values["own_tasks"]["mail"]["files"] == {"train": "train.csv", "validation": "validation.csv"}
    places = {"path": "$GLUE_DIR", "source": "folder"}, {"path": f"{tmp_path}/rte", "source": "folder"}
    sizes = {"a": {"layers": 2, "checkpoint": f"{tmp_path}/small"}, "b": {"checkpoint": "${HOME}/x"}}
    entry = {"options": {"small": "~/bert", "hub": "owner/name", "sizes": sizes}, "tasks": {"rte": {"small": "~"}}}
    data = here.data.model_copy(update={"tasks": dict(zip(("cola", "rte"), places, strict=True))})
    contestants = {"teacher": here.contestants["teacher"].model_copy(update=entry)}
    values = placeless(here.model_copy(update={"data": data, "contestants": contestants}))
    assert str(tmp_path) not in str(values) and values["data"]["tasks"]["rte"]["path"] == "rte"
    options = values["contestants"]["teacher"]["options"]
    assert (options["small"], options["hub"], options["sizes"]["a"]["checkpoint"]) == ("bert", "owner/name", "small")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(values))
    assert published_settings(tmp_path).contestants["teacher"].options == options
    united = _united([here, there], tmp_path / "out")
    assert united.tasks == ["mail", "news"] and set(united.own_tasks) == {"mail", "news"}


LONGER = {"teacher": {"method": "baselines.finetuned:Finetuned", "options": BRIEF | {"epochs": 2}}}
OTHER_TEXT = {"sketch": {"train": 96, "validation": 32, "test": 16}, "calibration": 32, "seed": 5}


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"data": OTHER_TEXT}, "the text of sst2"),
        ({"backbone": {"pooling": "cls"}}, "the backbone"),
        ({"training": {"device": "cpu", "precision": "bfloat16"}}, "arithmetic"),
        ({"contestants": LONGER}, "made with different options"),
    ],
)
def test_what_cannot_be_trusted_together_is_not_united(first, profile, tmp_path, changes, culprit):
    if "backbone" in changes:
        changes = {"backbone": first[0].backbone.model_dump() | changes["backbone"]}
    other = made(profile(tmp_path / "other", **({"contestants": first[0].model_dump()["contestants"]} | changes)))
    publish(other, tmp_path / "published")
    with pytest.raises(UserError, match=culprit):
        merge([first[1], tmp_path / "published"], tmp_path / "united")


def copied(settings: Settings) -> dict[str, bool]:
    """Map each contestant to whether its run was copied from another folder."""
    facts = {run.key.method: read_json(run_folder(settings, run.key) / "run.json") for run in runs(settings)}
    return {method: "taken_from" in each for method, each in facts.items()}


def test_a_run_with_the_same_identity_elsewhere_is_not_trained(first, profile, tmp_path, caplog):
    newcomer = {"every-other": {"method": "examples.every_other:EveryOther", "options": BRIEF}}
    contestants = first[0].model_dump()["contestants"] | newcomer
    settings = made(profile(tmp_path, contestants=contestants, reuse=[first[1]]))
    assert copied(settings) == {"teacher": True, "pabee": True, "every-other": False}
    kept = run_folder(first[0], RunKey("sst2", "pabee", "full", 0)) / "trace-validation.parquet"
    ours = run_folder(settings, RunKey("sst2", "pabee", "full", 0)) / "trace-validation.parquet"
    assert kept.read_bytes() == ours.read_bytes()


def test_runs_that_the_settings_do_not_have_are_not_published(first, tmp_path):
    """A contestant that was removed, and a variant."""
    settings, published = first
    root = tmp_path / settings.profile
    shutil.copytree(settings.root, root)
    [task] = settings.tasks
    for place in ("removed/full", "pabee/old"):
        shutil.copytree(root / "runs" / task / "pabee" / "full", root / "runs" / task / place)
    publish(settings.model_copy(update={"results": tmp_path}), tmp_path / "out")
    files = [{path.relative_to(place) for path in place.rglob("*")} for place in (tmp_path / "out", published)]
    assert files[0] == files[1]


def test_a_published_teacher_is_trained_where_a_newcomer_starts_from_it(first, profile, tmp_path):
    student = {"assistant": {"method": "costeff.recipe:Assistant", "options": BRIEF}}
    contestants = first[0].model_dump()["contestants"] | student
    settings = made(profile(tmp_path, contestants=contestants, reuse=[first[1]]))
    assert copied(settings) == {"teacher": False, "pabee": True, "assistant": False}
    teacher = RunKey("sst2", "teacher", "full", 0)
    with pytest.raises(UserError, match="has no runs"):
        produce(profile(tmp_path / "x", reuse=[tmp_path / "nowhere"]), teacher)
    before = {path: path.read_bytes() for path in settings.root.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is the folder of these results"):
        produce(profile(tmp_path, reuse=[settings.root]), teacher)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("split", ["validation", "calibration"])
def test_a_run_without_its_traces_is_trained_and_a_folder_of_points_only_refused(first, profile, tmp_path, split):
    source = tmp_path / "source"
    shutil.copytree(first[1], source)
    key = RunKey("sst2", "pabee", "full", 0)
    (source / "runs" / key.path / f"trace-{split}.parquet").unlink()
    settings = profile(tmp_path, reuse=[source])
    identities = Identities(settings)
    assert {each.method for each in reusable_runs(settings, identities)} == {"teacher"}
    assert not reusable_runs(settings, identities, key)
    for trace in source.rglob("trace-*.parquet"):
        trace.unlink()
    for one in (None, key):
        with pytest.raises(UserError, match="has points only, no traces"):
            reusable_runs(settings, identities, one)


def test_a_folder_in_which_a_job_saves_its_model_can_be_reused(first, profile, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(first[1], source)
    unfinished = source / "runs" / "sst2" / "pabee" / "full" / "seed0" / f"{PART}model"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"begun")
    settings = profile(tmp_path, contestants=first[0].model_dump()["contestants"], reuse=[source])
    key = RunKey("sst2", "pabee", "full", 0)
    assert produce(settings, key) == "" and "taken_from" in read_json(run_folder(settings, key) / "run.json")


def studied(settings: Settings) -> list[RunKey]:
    """The trials of the settings' study, each of them made."""
    study = settings.studies[0]
    trials: list[RunKey] = []
    for generation in range(study.generations):
        ratios.ask(settings, "sst2", study.method, generation)
        trials += ratios.trial_keys(settings, "sst2", study.method, generation)
        assert not [reason for key in trials if (reason := produce(settings, key))]
        ratios.tell(settings, "sst2", study.method, generation)
    ratios.finish(settings, "sst2", study.method)
    return trials


@pytest.fixture(scope="module")
def study(profile, tmp_path_factory) -> tuple[Settings, Path, list[RunKey]]:
    """A finished profile with a study of two generations, what was published of it, and its trials."""
    short = BRIEF | {"hidden_epochs": 0.5}
    recipe = short | {"sizes": {}, "rate": 0.1, "slenderise_rate": 1e-3, "hidden_rate": 1e-3}
    contestants = {
        "teacher": {"method": "baselines.finetuned:Finetuned", "options": BRIEF},
        "assistant": {"method": "costeff.recipe:Assistant", "options": short},
        "search": {"method": "costeff.recipe:CostEff", "options": recipe},
    }
    asked = {"method": "search", "tasks": ["sst2"], "generations": 2, "population": 2, "sampler": "random"}
    folder = tmp_path_factory.mktemp("study")
    settings = made(profile(folder / "results", contestants=contestants, studies=[asked]))
    trials = studied(settings)
    publish(settings, folder / "published")
    return settings, folder / "published", trials


def with_newcomer(settings: Settings, folder: Path, published: Path, **changes) -> Settings:
    newcomer = {"every-other": {"method": "examples.every_other:EveryOther", "options": BRIEF}}
    values = settings.model_dump()
    asked = [values["studies"][0] | changes]
    place = {"results": folder, "reuse": [published], "studies": asked}
    return check(values | place | {"contestants": values["contestants"] | newcomer}, "test")


def test_the_trials_of_a_published_study_are_taken_too(study, tmp_path):
    settings = with_newcomer(study[0], tmp_path, study[1])
    found = coming(settings, Identities(settings))
    assert not found.trials and {key.method for key in found.runs} == {"every-other"}
    assert set(study[2]) <= set(found.reusable_runs) and "trained here: every-other (1)" in "".join(found.lines())
    assert studied(made(settings)) == study[2]
    assert all("taken_from" in read_json(run_folder(settings, key) / "run.json") for key in study[2])
    assert len(coming(settings, Identities(settings))) == 0


def test_a_study_that_asks_for_other_trials_has_the_weights_it_starts_from(study, tmp_path):
    settings = with_newcomer(study[0], tmp_path, study[1], seed=5)
    found = coming(settings, Identities(settings))
    assert {key.method for key in found.runs} == {"teacher", "assistant", "every-other"}
    assert len(found.trials) == 4 and not found.reusable_runs
    assert not set(studied(made(settings))) & set(study[2])


def test_a_newcomer_is_timed_beside_published_runs_on_one_machine(first, profile, tmp_path):
    """Missing weights are drawn at random; latency depends on shapes, and examples exit as in the traces."""
    newcomer = {"every-other": {"method": "examples.every_other:EveryOther", "options": BRIEF}}
    contestants = first[0].model_dump()["contestants"] | newcomer
    here = tmp_path / "published"
    shutil.copytree(first[1], here)
    brief = {"latency": {"examples": 8, "rounds": 1}}
    settings = profile(tmp_path, contestants=contestants, reuse=[here], **brief)
    for planned in runs(settings):
        produce(settings, planned.key)
    shutil.rmtree(here)  # what was taken is here now
    settings = settings.model_copy(update={"reuse": []})
    replay(settings, "sst2", 0)
    measure_latency(settings, settings.root / "latency.parquet")
    timed = pd.read_parquet(settings.root / "latency.parquet")
    trained = timed.groupby("method")["trained"].agg(set).to_dict()
    assert trained == {"teacher": {False}, "pabee": {False}, "every-other": {True}}
    assert (timed["seconds"] > 0).all() and timed["hardware"].nunique() == 1
    points = collect(settings)
    full = points[(points["kind"] == "static") & (points["split"] == "validation")].set_index("method")
    assert full["latency_1"].notna().all() and full.loc["teacher", "latency_1"] == 1
    write_parquet(settings.root / "all-points.parquet", points)
    list(write_everything(settings))
    assert (settings.root / "index.html").is_file()


def test_times_of_another_machine_are_left_out(first, profile, tmp_path, caplog):
    folders = []
    for seed, machine in ((0, "a"), (1, "b"), (2, "a")):
        settings = made(profile(tmp_path / f"own{seed}", seeds=[seed]))
        points = pd.read_parquet(settings.root / "all-points.parquet")
        static = points[(points["kind"] == "static") & (points["split"] == "validation")]
        rows = static[["task", "method", "variant", "seed", "weights"]].assign(
            operated=operated(static), batch_size=1, speedup=2.0, examples=1, seconds=1.0, torch="2"
        )
        rows = rows.assign(speedup_low=1.9, speedup_high=2.1, promised=2.0, p95_seconds=1.0, reference_p95_seconds=2.0)
        write_parquet(settings.root / "latency.parquet", rows.assign(hardware=machine))
        write_parquet(settings.root / "all-points.parquet", collect(settings))
        publish(settings, tmp_path / f"published{seed}")
        folders.append(tmp_path / f"published{seed}")
    points = pd.read_parquet(merge(folders, tmp_path / "united").root / "all-points.parquet")
    timed = points[points["latency_1"].notna()]
    assert set(timed["seed"]) == {0, 2} and set(points["seed"]) == {0, 1, 2}
    assert not points.loc[points["seed"] == 1, ["promised_1", "p95_1", "reference_p95_1"]].notna().any().any()
    assert set(pd.read_parquet(tmp_path / "united" / "latency.parquet")["hardware"]) == {"a"}
    assert f"latencies in {folders[1]} left out: measured on b, not a" in caplog.text


def test_a_published_configuration_has_no_folder_at_any_depth():
    nested = {"_name_or_path": "/a", "members": [{"_name_or_path": "/b", "heads": [1, 2]}], "layers": {"kept": 3}}
    assert _without_paths(nested) == {"members": [{"heads": [1, 2]}], "layers": {"kept": 3}}
