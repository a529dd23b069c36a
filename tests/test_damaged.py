"""Damaged files of one's own results: every command names the file in one line, or does without it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.runs import collect as collecting
from bench.runs.clock import measure_latency
from bench.runs.identity import Identities
from bench.runs.planning import progress
from bench.runs.planning.coming import coming
from bench.runs.replay import replay
from bench.runs.train_run import produce
from bench.settings import Settings, check
from bench.store import RunKey, read_points, run_folder, write_json, write_parquet

KEY = RunKey("sst2", "teacher", "full", 0)
RUN = f"runs/{KEY.path.as_posix()}"
COMMANDS: dict[str, Callable[[Settings], object]] = {
    "replay": lambda settings: replay(settings, "sst2", 0),
    "latency": lambda settings: measure_latency(settings, settings.root / "latency.parquet"),
    "collect": collecting.collect,
    "failures": collecting.failures,
    "wrap-up": collecting.bring_up_to_date,
    "forget": collecting.forget_crashes,
    "code": collecting.made_by_other_code,
    "points": read_points,
    "progress": lambda settings: progress.Progress(settings).line(),
    "coming": lambda settings: coming(settings, Identities(settings)),
}
FILES = [
    f"{RUN}/run.json", f"{RUN}/costs.json", f"{RUN}/trace-validation.parquet", f"{RUN}/model/model.safetensors",
    f"{RUN}/model/config.json", "points/sst2/seed0.parquet", "all-points.parquet", "latency.parquet", "forecast.json",
]  # fmt: skip
READERS = {
    "run.json": ("replay", "collect", "wrap-up", "latency"), "costs.json": ("replay", "latency"),
    "trace-validation.parquet": ("replay",), "model.safetensors": ("latency",), "config.json": ("latency",),
    "seed0.parquet": ("collect", "wrap-up"), "all-points.parquet": ("points",),
    "latency.parquet": ("collect", "wrap-up"),
}  # fmt: skip
"""File -> commands that need it, and must not succeed without it."""
DAMAGES = {
    "empty": b"",
    "cut short": None,
    "other": b"{}\n",
    "list": b"[]",
    "text": b"x",
    "binary": b"\xff\xfe\x00PAR1",
}


@pytest.fixture(scope="module")
def intact(tiny_settings, tmp_path_factory) -> Settings:
    """A finished profile of one run."""
    values = tiny_settings(tmp_path_factory.mktemp("intact"), latency={"examples": 4, "rounds": 1}).model_dump()
    teacher = {"method": "baselines.finetuned:Finetuned", "options": {"epochs": 1, "learning_rate": 3e-3}}
    values |= {"contestants": {"teacher": teacher}, "depth_reference": None, "tasks": ["sst2"]}
    values |= {"data": {"sketch": {"train": 96, "validation": 32}, "calibration": 32}}
    settings = check(values, "test")
    assert produce(settings, KEY) == ""
    replay(settings, "sst2", 0)
    measure_latency(settings, settings.root / "latency.parquet")
    write_parquet(settings.root / "all-points.parquet", collecting.collect(settings))
    write_json(settings.root / "forecast.json", {"jobs": 1, "clock": 0, "runs": {}, "trials": 0})
    return settings


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_names_a_damaged_file_or_does_without_it(file, damage, intact: Settings, tmp_path: Path):
    for name, command in COMMANDS.items():
        settings = intact.model_copy(update={"results": tmp_path / name})
        shutil.copytree(intact.root, settings.root)
        path, content = settings.root / file, DAMAGES[damage]
        path.write_bytes(path.read_bytes()[:60] if content is None else content)
        try:
            command(settings)
        except UserError as error:
            said = str(error)
            assert "\n" not in said and (Path(file).name in said or KEY.path.as_posix() in said), f"{name}: {said}"
        else:
            without = not path.read_bytes() and path.suffix == ".safetensors"  # an empty file: weights were deleted
            assert without or name not in READERS.get(path.name, ()), f"{name} accepts a damaged {file}"


@pytest.mark.parametrize("file", FILES[1:6])
def test_a_run_that_cannot_be_timed_is_an_error_and_keeps_the_old_times(file, intact: Settings, tmp_path: Path):
    settings = intact.model_copy(update={"results": tmp_path})
    shutil.copytree(intact.root, settings.root)
    (settings.root / file).write_bytes(b"x")
    times = settings.root / "latency.parquet"
    before = times.read_bytes()
    with pytest.raises(UserError, match=f"{KEY.path}|{Path(file).name}"):
        measure_latency(settings, times)
    assert times.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"x", b"[]", b"{}"])
def test_a_damaged_stamp_of_an_interrupted_run_starts_it_anew(content, intact: Settings, tmp_path: Path):
    settings = intact.model_copy(update={"results": tmp_path})
    state = settings.root / "state" / KEY.path
    state.mkdir(parents=True)
    (state / "identity.json").write_bytes(content)
    assert produce(settings, KEY) == ""
    made, kept = (run_folder(each, KEY) / "trace-validation.parquet" for each in (settings, intact))
    assert made.read_bytes() == kept.read_bytes()
