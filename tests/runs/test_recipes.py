"""Sources of hyper-parameters: each has one, each source belongs to an option, and a changed value has its own."""

import re
from pathlib import Path

import pytest
import yaml
from hub import fill

from bench import settings as settings_file
from bench.encoder.checkpoints import files
from bench.errors import UserError
from bench.runs.planning.fetch import fetch
from bench.runs.planning.recipes import recipes

CONFIG = Path(__file__).parents[2] / "config"
TEACHER = {
    "method": "baselines.finetuned:Finetuned",
    "options": {"learning_rate": 1e-3},
    "tasks": {"rte": {"epochs": 12}},
    "sources": {
        "learning_rate": "paper, table 2", "epochs": "code; here for sst2", "batch_size": "here", "head": "paper",
    },
}  # fmt: skip


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    files._on_hub.cache_clear()
    return tmp_path


def profile(folder: Path, backbone: Path, **teacher) -> Path:
    values = {
        "profile": "below", "tasks": ["sst2", "rte"], "backbone": {"name": str(backbone)},
        "contestants": {"teacher": TEACHER | teacher},
    }  # fmt: skip
    (folder / "below.yaml").write_text(yaml.safe_dump(values))
    return folder / "below.yaml"


def said(path: Path, overrides=None) -> dict[str, str]:
    lines = [
        re.fullmatch(r"recipe of teacher: (\S+) = (.*?: .*)", line)
        for line in recipes(settings_file.load(path, overrides))
    ]
    return {line[1]: line[2] for line in lines if line}


def test_values_and_sources_stand_side_by_side(tiny_backbone, tmp_path):
    found = said(profile(tmp_path, tiny_backbone))
    assert found["learning_rate"] == "0.001: paper, table 2"
    assert found["epochs"] == "3 (sst2) or 12 (rte): code; here for sst2"
    assert found.keys() == TEACHER["sources"].keys()


def test_a_hyper_parameter_without_a_source_and_a_source_of_nothing_are_refused(tiny_backbone, tmp_path):
    sources = TEACHER["sources"]
    with pytest.raises(UserError, match=r"contestants\.teacher\.sources: epochs has no source"):
        said(profile(tmp_path, tiny_backbone, sources={key: sources[key] for key in sources if key != "epochs"}))
    with pytest.raises(UserError, match=r"contestants\.teacher\.sources\.depths: no such option is in use"):
        said(profile(tmp_path, tiny_backbone, sources=sources | {"depths": "here"}))
    with pytest.raises(UserError, match=r"contestants\.teacher\.sources\.head"):
        said(profile(tmp_path, tiny_backbone, sources=sources | {"head": "somewhere"}))


def test_the_source_of_a_changed_value_is_the_file_that_changes_it(tiny_backbone, tmp_path):
    below = profile(tmp_path, tiny_backbone)
    above = tmp_path / "above.yaml"
    above.write_text("{extends: below.yaml, profile: above, contestants: {teacher: {tasks: {rte: {epochs: 9}}}}}")
    found = said(above, {"contestants": {"teacher": {"options": {"batch_size": 8}}}})
    assert found["epochs"].endswith("9 (rte): here (above.yaml)") and found["batch_size"] == "8: here (--config)"
    assert found["learning_rate"] == said(below)["learning_rate"]
    above.write_text(
        "{extends: below.yaml, profile: above, contestants: {other: {like: teacher, options: {epochs: 9}}}}"
    )
    found = {name: entry.sources["epochs"] for name, entry in settings_file.load(above).contestants.items()}
    assert found["other"] == "here (above.yaml)" and found["teacher"].startswith("code")


def test_without_sources_all_is_chosen_here(tiny_backbone, tmp_path):
    lines = list(recipes(settings_file.load(profile(tmp_path, tiny_backbone, sources={}))))
    assert lines == ["recipe of teacher: chosen here"]


def test_the_paper_profile_names_a_source_of_everything_and_all_of_it_can_be_fetched(hub):
    fill(hub)
    rehearsed = settings_file.load(CONFIG / "rehearsal.yaml")
    lines = list(recipes(rehearsed))
    assert {line.split(":")[0].removeprefix("recipe of ") for line in lines} == set(rehearsed.contestants)
    assert not [line for line in lines if line.endswith("chosen here")]
    assert any("4L-312 24" in line and line.endswith("here (rehearsal.yaml)") for line in lines)
    brought = list(fetch(rehearsed))
    assert sum(line.startswith("checkpoint ") for line in brought) == 5
    assert sum(line.startswith("text ") for line in brought) == len(rehearsed.tasks)


def test_what_cannot_be_fetched_is_one_line(hub):
    with pytest.raises(UserError, match=r"^checkpoint google-bert/.*not on this machine"):
        list(fetch(settings_file.load(CONFIG / "paper.yaml")))
