"""A kept run is reused for a planned one if and only if all inputs that determine its result are equal."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from baselines.finetuned import Finetuned
from bench.errors import UserError
from bench.provenance import code_of
from bench.runs.collect import collect
from bench.runs.identity import Identities, where
from bench.runs.plan import runs
from bench.runs.replay import replay
from bench.runs.train_run import produce
from bench.settings import Settings, check
from bench.store import RunKey, read_json, run_folder, state_folder, write_json

TEACHER, PABEE = RunKey("sst2", "teacher", "full", 0), RunKey("sst2", "pabee", "full", 0)


@pytest.fixture
def small(tiny_settings):
    """`small(results, method of the teacher, **options of both contestants)`: two that train for a moment."""

    def build(results: Path, method: str = "baselines.finetuned:Finetuned", **options) -> Settings:
        few = {"epochs": 1, "learning_rate": 3e-3} | options
        contestants = {
            "teacher": {"method": method, "options": few},
            "pabee": {"method": "baselines.pabee:Pabee", "options": few},
        }
        values = tiny_settings(results).model_dump() | {"contestants": contestants, "depth_reference": None}
        return check(values | {"data": {"sketch": {"train": 96, "validation": 32}, "calibration": 32}}, "test")

    return build


def hashes(settings: Settings) -> dict[str, str]:
    known = Identities(settings)
    return {str(run.key.path): known.of(run.key).hash for run in runs(settings)}


def changed(settings: Settings, section: str, **values) -> Settings:
    whole = settings.model_dump()
    return check(whole | {section: whole[section] | values}, "test")


UNASKED = {
    "thresholds": st.fixed_dictionaries({"grid": st.integers(2, 300), "trials": st.integers(0, 300)}),
    "latency": st.fixed_dictionaries({"rounds": st.integers(1, 9)}),
    "training": st.fixed_dictionaries(
        {
            "save_seconds": st.floats(1, 900),
            "eval_batch_size": st.integers(1, 128),
            "kept_gigabytes": st.floats(0, 9),
            "threads": st.integers(1, 4),
        }
    ),
    "data": st.fixed_dictionaries({"note": st.text("abc ", max_size=9), "test": st.booleans()}),
}


@given(st.one_of(*(st.tuples(st.just(section), values) for section, values in UNASKED.items())))
@budget(max_examples=40, deadline=None)
def test_what_a_training_does_not_depend_on_changes_no_identity(of, change):
    section, values = change
    assert hashes(changed(of, section, **values)) == hashes(of)


@pytest.fixture(scope="module")
def of(tiny_settings, tmp_path_factory) -> Settings:
    return tiny_settings(tmp_path_factory.mktemp("identity"))


def test_a_name_changes_no_identity_and_another_size_only_its_own(of):
    whole = of.model_dump()
    renamed = check(whole | {"profile": "other", "results": Path("elsewhere")}, "test")
    assert hashes(renamed) == hashes(of)
    more = whole["contestants"]["costeff"]["options"] | {}
    more["sizes"] = more["sizes"] | {"4x": {"heads": 0.25, "ffn": 0.25, "rank": 0.25}}
    larger = check(
        whole
        | {"contestants": whole["contestants"] | {"costeff": whole["contestants"]["costeff"] | {"options": more}}},
        "test",
    )
    before, after = hashes(of), hashes(larger)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 1


@pytest.mark.parametrize(
    ("section", "values", "touched"),
    [
        ("data", {"seed": 1}, "all"),
        ("data", {"calibration": 40}, "all"),
        ("data", {"max_train": 200}, "all"),
        ("data", {"max_length": (20, 20)}, "all"),
        ("backbone", {"pooling": "cls"}, "all"),
        ("training", {"precision": "bfloat16"}, "all"),
        ("contestants", "pabee", {"pabee", "fpabee"}),
        (
            "contestants",
            "teacher",
            {
                "teacher",
                "assistant",
                "costeff",
                "tinybert",
                "cascadebert",
                "kcm",
                "shared",
                "ast",
                "arithmetic",
                "soups",
            },
        ),
        ("contestants", "assistant", {"assistant", "costeff"}),
    ],
)
def test_what_a_training_depends_on_changes_it_and_what_hangs_from_it(of, section, values, touched):
    if section == "contestants":
        entry = of.model_dump()["contestants"][values]
        values = {values: entry | {"options": entry["options"] | {"learning_rate": 1e-5}}}
    before, after = hashes(of), hashes(changed(of, section, **values))
    different = {path.split("/")[1] for path in before if before[path] != after[path]}
    assert different == ({path.split("/")[1] for path in before} if touched == "all" else touched)


def test_other_text_under_the_same_name_is_another_run(small, tmp_path):
    folder = tmp_path / "text" / "sst2"
    folder.mkdir(parents=True)

    def write(word: str) -> None:
        for split, count in {"train": 90, "validation": 20}.items():
            rows = {
                "sentence": [f"{word} number {i} {split}" for i in range(count)],
                "label": [i % 2 for i in range(count)],
            }
            pd.DataFrame(rows | {"idx": range(count)}).to_parquet(folder / f"{split}-0.parquet")

    settings = changed(
        small(tmp_path), "data", source="folder", path=folder.parent, sketch={"train": 96, "validation": 32}
    )
    write("one")
    first = hashes(settings)
    assert hashes(settings) == first
    write("two")
    assert not set(hashes(settings).values()) & set(first.values())


def test_other_weights_under_the_same_name_are_another_run(small, tiny_backbone, tmp_path):
    copy = tmp_path / "backbone"
    shutil.copytree(tiny_backbone, copy)
    settings = changed(small(tmp_path), "backbone", name=str(copy))
    first = hashes(settings)
    assert first == hashes(small(tmp_path)), "the same bytes elsewhere are the same backbone"
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert not set(hashes(settings).values()) & set(first.values())


def test_a_lower_learning_rate_after_a_failure_trains_anew(small, tmp_path):
    method = "failing:Diverging"
    diverging = small(tmp_path / "a", method, epochs=3, learning_rate=1.0)
    settings = small(tmp_path / "a", method, epochs=3)
    assert "lower the learning rate" in produce(diverging, TEACHER)
    facts = read_json(run_folder(diverging, TEACHER) / "run.json")
    assert facts["status"] == "failed" and not facts["again"]
    assert produce(settings, TEACHER) == ""
    elsewhere = small(tmp_path / "b", method, epochs=3)
    assert produce(elsewhere, TEACHER) == ""
    ours, fresh = (load_file(run_folder(of, TEACHER) / "model" / "model.safetensors") for of in (settings, elsewhere))
    assert all(torch.equal(ours[name], fresh[name]) for name in fresh)


@pytest.mark.parametrize("what", ["identity", "asked", "where", "code"])
def test_what_a_killed_run_left_is_not_used_for_another(small, tmp_path, what, caplog):
    settings = small(tmp_path)
    state, identity = state_folder(settings, TEACHER), Identities(settings).of(TEACHER)
    code = code_of(Finetuned)["fingerprint"]
    stamp = {"identity": identity.hash, "asked": identity.inputs, "where": where(settings), "code": code}
    stamp[what] = {} if isinstance(stamp[what], dict) else "x"
    write_json(state / "identity.json", stamp)
    (state / "finetune").mkdir()
    (state / "finetune" / "final.safetensors").write_bytes(b"of another run: reading it would raise")
    with caplog.at_level("INFO"):
        assert produce(settings, TEACHER) == ""
    assert "starting again" in caplog.text


def test_a_teacher_that_failed_is_named_by_its_students(small, tmp_path, tiny_settings):
    settings = tiny_settings(tmp_path)
    whole = settings.model_dump()
    failing = {"method": "failing:Diverging", "options": {"epochs": 1, "learning_rate": 1.0}}
    whole["contestants"]["teacher"] |= failing
    settings = check(whole, "test")
    assert produce(settings, TEACHER)
    reason = produce(settings, RunKey("sst2", "assistant", "full", 0))
    assert reason.startswith("its teacher failed: ") and "lower the learning rate" in reason


def test_results_of_two_identities_are_never_united(small, tmp_path):
    settings = small(tmp_path)
    for planned in runs(settings):
        assert produce(settings, planned.key) == ""
    replay(settings, "sst2", 0)
    assert set(collect(settings)["status"]) == {"ok"}
    with pytest.raises(
        UserError, match=r"sst2/teacher/full/seed0 was made with other settings.*learning_rate was 0\.003, now 0\.001"
    ):
        collect(small(tmp_path, learning_rate=1e-3))
    with pytest.raises(UserError, match="has not been replayed"):
        collect(changed(settings, "thresholds", trials=77))


def test_unlike_arithmetic_is_a_note_and_refused_where_strict(small, tmp_path):
    settings = small(tmp_path)
    produce(settings, TEACHER)
    produce(changed(settings, "training", eval_batch_size=7), PABEE)
    replay(settings, "sst2", 0)
    assert collect(settings)["arithmetic"].nunique() == 2
    with pytest.raises(
        UserError, match=r"strict: true, but the runs differ in their arithmetic: .*eval_batch_size 32.* and "
    ):
        collect(check(settings.model_dump() | {"strict": True}, "test"))


def test_a_control_as_long_as_another_hangs_from_its_recipe(of):
    whole = of.model_dump()
    long = {
        "method": "baselines.finetuned:Finetuned",
        "options": {"as_long_as": {"contestant": "costeff", "variant": "half-width"}},
    }
    whole["contestants"] = whole["contestants"] | {"long": long}
    settings = check(whole, "test")
    for name in ("costeff", "assistant"):  # its own steps, and those of the model that it continues
        entry = whole["contestants"][name]
        longer = {name: entry | {"options": entry["options"] | {"epochs": 9}}}
        changed_ = check(whole | {"contestants": whole["contestants"] | longer}, "test")
        key = RunKey("sst2", "long", "full", 0)
        assert Identities(settings).of(key).hash != Identities(changed_).of(key).hash


def test_the_ranking_metric_of_an_own_task_is_part_of_the_identity(small, tmp_path):
    rows = pd.DataFrame({"text": [f"number {i}" for i in range(120)], "label": ["a", "b"] * 60})
    for split in ("train", "validation"):
        rows.to_csv(tmp_path / f"{split}.csv", index=False)
    files = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation")}
    task = {"columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy", "f1_macro"], "files": files}
    whole = small(tmp_path).model_dump() | {"tasks": ["mine"]}
    before, after = (
        hashes(check(whole | {"own_tasks": {"mine": task | {"metrics": metrics}}}, "test"))
        for metrics in (["accuracy", "f1_macro"], ["f1_macro", "accuracy"])
    )
    assert before.keys() == after.keys() and not set(before.values()) & set(after.values())


def test_the_groups_and_every_label_of_an_own_task_are_part_of_the_identity(small, tmp_path):
    rows = pd.DataFrame({"text": [f"number {i}" for i in range(120)], "label": [1.7e9 + 10 * i for i in range(120)]})
    rows["customer"] = [i // 3 for i in range(120)]
    for split in ("train", "validation"):
        rows.to_csv(tmp_path / f"{split}.csv", index=False)
    files = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation")}
    task = {"columns": ["text"], "range": [1.7e9, 1.7e9 + 2000], "metrics": ["pearson"], "files": files}
    whole = small(tmp_path).model_dump() | {"tasks": ["mine"], "selection": "validation"}

    def of(own) -> set[str]:
        return set(hashes(check(whole | {"own_tasks": {"mine": own}}, "test")).values())

    plain = of(task)
    assert not plain & of(task | {"group": "customer"})
    rows.loc[5, "label"] += 10  # the same number as before in float32
    rows.to_csv(tmp_path / "train.csv", index=False)
    assert not plain & of(task)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (RunKey("SST-2", "teacher", "full", 0), "unknown task 'SST-2'"),
        (RunKey("sst2", "teacher", "banana", 0), "teacher has no variant 'banana' on sst2; there are full"),
        (RunKey("sst2", "nobody", "full", 0), "unknown contestant 'nobody'; there are teacher, pabee"),
    ],
)
def test_a_run_that_is_none_is_one_line_and_leaves_nothing(small, tmp_path, key, line):
    settings = small(tmp_path)
    with pytest.raises(UserError, match=line):
        produce(settings, key)
    assert not run_folder(settings, key).exists()
