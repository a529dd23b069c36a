"""Paths given on the command line and folders of profiles are taken as they are; only values in a profile expand."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.settings import expand, load
from bench.settings.values import literal

ODD = ["it's here", "$X", "${X}", "$$", "a $X 'b'", "~", "~nobody", "100%", 'quo"te', "Ü"]
TASK = {"columns": ["text"], "labels": ["neg", "pos"], "metrics": ["accuracy"]}


@given(st.text(st.sampled_from("$X{}~ab/ '"), max_size=12))
def test_literal_is_the_inverse_of_expand(text):
    assert Path(expand(literal(text), "x")) == Path(text)


@pytest.mark.parametrize("name", ODD)
def test_a_chain_of_profiles_in_odd_folders_reads_its_own_data(tmp_path, monkeypatch, name):
    monkeypatch.delenv("X", raising=False)
    first, second, third = (tmp_path / name / part for part in ("one", name, "three"))
    for folder in (first, second, third):
        folder.mkdir(parents=True)
    third_values = {"extends": "sketch", "own_tasks": {"mine": TASK | {"files": {"train": "t $$1.csv"}}}}
    (third / "c.yaml").write_text(yaml.safe_dump(third_values))
    files = {"validation": "v.csv"}
    second_values = {"extends": "../three/c.yaml", "own_tasks": {"mine": {"files": files}}}
    (second / "b.yaml").write_text(yaml.safe_dump(second_values))
    shallow = {
        "short": {"like": "teacher", "options": {"epochs": 1}},
        "usual": {"like": "teacher", "options": {"epochs": None, "learning_rate": None}},
    }
    escaped = name.replace("$", "$$")
    first_values = {"extends": f"../{escaped}/b.yaml", "tasks": ["mine"], "studies": [], "contestants": shallow}
    (first / "a.yaml").write_text(yaml.safe_dump(first_values))
    settings = load(first / "a.yaml")
    assert settings.folder == first
    found = {split: Path(file).resolve() for split, file in settings.own_tasks["mine"].files.items()}
    assert found == {"train": third / "t $1.csv", "validation": second / "v.csv"}
    assert settings.contestants["short"].method == settings.contestants["teacher"].method
    options = settings.contestants["teacher"].options
    assert settings.contestants["usual"].options == {
        name: options[name] for name in options.keys() - {"epochs", "learning_rate"}
    }
    effective = tmp_path / "settings.yaml"
    effective.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    assert load(effective) == settings


def test_a_relative_profile_in_an_odd_folder(tmp_path, monkeypatch):
    (tmp_path / "$X").mkdir()
    (tmp_path / "$X" / "a.yaml").write_text("extends: sketch\n")
    monkeypatch.chdir(tmp_path)
    assert load("$X/a.yaml").folder == tmp_path / "$X"


@pytest.mark.parametrize("method", ["pabee", "baselines.pabee", "", "a b:C", "x:", ":X", "x:Y\n"])
def test_a_method_that_is_no_import_path_is_refused_in_plain_words(tmp_path, method):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"extends": "sketch", "contestants": {"new": {"method": method}}}))
    with pytest.raises(UserError, match=r"is not the import path of a class, package\.module:Class") as caught:
        load(tmp_path / "a.yaml")
    assert "pattern" not in str(caught.value)


@pytest.mark.parametrize("place", ["data", "data of a task", "own task"])
@pytest.mark.parametrize("given", ["$TEXTS", "${TEXTS}/", "~/texts", "--config"])
def test_jobs_in_any_folder_read_the_data_of_the_main_process(tmp_path, monkeypatch, place, given):
    """Relative paths in variables and in --config start at the current folder, also once settings.yaml is written."""
    here, results = tmp_path / "here", tmp_path / "here" / "results" / "mine"
    results.mkdir(parents=True)
    monkeypatch.setenv("TEXTS", "texts")
    monkeypatch.setenv("HOME", "../here")
    monkeypatch.chdir(here)
    text = "texts" if given == "--config" else given
    folder = {"source": "folder", "path": text}
    values = {
        "data": {"data": folder},
        "data of a task": {"data": {"tasks": {"rte": folder}}},
        "own task": {"own_tasks": {"mine": TASK | {"files": {"train": f"{text}/train.csv"}}}},
    }[place]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": "sketch"} | ({} if given == "--config" else values)))
    settings = load(tmp_path / "mine.yaml", values if given == "--config" else {})
    (results / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    monkeypatch.chdir(results)
    monkeypatch.delenv("TEXTS")
    for each in (settings, load(results / "settings.yaml")):
        found = each.own_tasks["mine"].files["train"].parent if place == "own task" else each.data.of("rte").path
        assert found.is_absolute() and found.resolve() == here / "texts"
