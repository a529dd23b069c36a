"""Results folders of others are untrusted: what could do harm is refused by name, and nothing is written outside."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.sharing.folders import open_folder, runs_of
from bench.sharing.results import merge
from bench.store import RunKey, valid_name

REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "glue-laptop"
RUNS = [RunKey("wnli", "teacher", "full", 0), RunKey("wnli", "pabee", "full", 0)]


def copy_of(runs: list[RunKey], folder: Path) -> Path:
    """A small published folder: some runs of a committed one."""
    points = pd.read_parquet(REFERENCE / "all-points.parquet", filters=[("task", "==", "wnli"), ("seed", "==", 0)])
    names = {(run.method, run.variant) for run in runs}
    folder.mkdir()
    points[[pair in names for pair in zip(points["method"], points["variant"], strict=True)]].to_parquet(
        folder / "all-points.parquet"
    )
    shutil.copyfile(REFERENCE / "settings.yaml", folder / "settings.yaml")
    for run in runs:
        shutil.copytree(REFERENCE / "runs" / run.path, folder / "runs" / run.path)
    return folder


@pytest.fixture
def good(tmp_path) -> Path:
    return copy_of(RUNS[:1], tmp_path / "good")


@pytest.fixture
def other(tmp_path) -> Path:
    return copy_of(RUNS[1:], tmp_path / "other")


def change(folder: Path, **values) -> None:
    """Write values into the folder's only run.json."""
    (file,) = folder.glob("runs/*/*/*/*/run.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def key(**values) -> dict:
    return {"key": RUNS[1].facts | values}


def long_list(folder: Path) -> None:
    (file,) = folder.glob("runs/*/*/*/*/run.json")
    file.write_text("[" * 100_000)


def move(folder: Path, old: str, new: str) -> None:
    (folder / "runs" / old).rename(folder / "runs" / new)


def link(folder: Path, name: str, target: str) -> None:
    place = folder / "runs" / RUNS[1].path / name
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def link_a_folder(folder: Path) -> None:
    run = folder / "runs" / RUNS[1].path
    run.rename(folder / "elsewhere")
    run.symlink_to(folder / "elsewhere")


def special(folder: Path) -> None:
    os.mkfifo(folder / "runs" / RUNS[1].path / "trace-validation.parquet.more")


SEED = "wnli/pabee/full/seed"
NO_TABLE = "not a readable Parquet file"
HOSTILE = {
    "absolute task": (lambda folder: change(folder, **key(task="/tmp/outside")), "not its place"),
    "parent in variant": (lambda folder: change(folder, **key(variant="../../..")), "not its place"),
    "huge seed": (
        lambda folder: move(folder, "wnli/pabee/full/seed0", "wnli/pabee/full/seed" + "9" * 40),
        "a seed from",
    ),
    "negative seed": (lambda folder: move(folder, "wnli/pabee/full/seed0", "wnli/pabee/full/seed-1"), "a seed from"),
    "name with a space": (lambda folder: move(folder, "wnli/pabee", "wnli/pa bee"), "not a valid name"),
    "list": (lambda folder: next(folder.glob("runs/*/*/*/*/run.json")).write_text("[]"), "holds list"),
    "nesting": (long_list, "nested too deeply|cannot be read"),
    "too large": (lambda folder: change(folder, more="x" * 5_000_000), "is larger than"),
    "not text": (lambda folder: next(folder.glob("runs/*/*/*/*/run.json")).write_bytes(b"\xff\xfe{"), "cannot be read"),
    "no identity": (lambda folder: change(folder, identity=None), "not a hash"),
    "script as identity": (lambda folder: change(folder, identity="<script>"), "not a hash"),
    "status": (lambda folder: change(folder, status="fine"), "neither ok nor failed"),
    "nothing asked": (lambda folder: change(folder, asked=[]), "asked.suite is missing"),
    "linked file": (lambda folder: link(folder, "costs.json", "/etc/passwd"), "a link"),
    "linked trace": (lambda folder: link(folder, "trace-validation.parquet", "/etc/passwd"), "a link"),
    "linked folder": (link_a_folder, "a link"),
    "linked settings": (
        lambda folder: ((folder / "settings.yaml").unlink(), (folder / "settings.yaml").symlink_to("/etc/passwd")),
        "a link",
    ),
    "special file": (special, "not a regular file"),
    "points of other runs": (
        lambda folder: shutil.copyfile(REFERENCE / "all-points.parquet", folder / "all-points.parquet"),
        "points of a run that is not there",
    ),
    "broken points": (
        lambda folder: (folder / "all-points.parquet").write_bytes(b"PAR1"),
        "not a readable Parquet file",
    ),
    "broken settings": (lambda folder: (folder / "settings.yaml").write_text("a: [1"), "cannot be read"),
    "code in settings": (
        lambda folder: (folder / "settings.yaml").write_text("!!python/object/apply:os.system [touch /tmp/outside]"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_could_do_harm_is_refused_by_name(good, other, tmp_path, name):
    damage, reason = HOSTILE[name]
    damage(other)
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=reason) as refusal:
        merge([good, other], tmp_path / "out")
    assert str(other) in str(refusal.value) and "\n" not in str(refusal.value)
    assert {path for path in tmp_path.rglob("*")} == before
    assert not Path("/tmp/outside").exists()


def test_all_refusals_are_named_at_once(other):
    link(other, "costs.json", "/etc/passwd")
    link(other, "trace-validation.parquet", "/etc/passwd")
    with pytest.raises(UserError, match=r"costs\.json: a link; .*trace-validation\.parquet: a link"):
        open_folder(other)
    with pytest.raises(UserError, match=r"costs\.json: a link"):
        runs_of(other, "wnli", 0)


def test_files_that_are_no_results_are_not_copied(good, other, tmp_path):
    for name in (
        "evil.py",
        "runs/evil.sh",
        f"runs/{RUNS[1].path}/weights.bin",
        f"runs/{RUNS[1].path}/trace-test.parquet",
    ):
        (other / name).write_text("x")
    merge([good, other], tmp_path / "out")
    there = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    allowed = {"run.json", "costs.json", "trace-calibration.parquet", "trace-validation.parquet", "config.json"}
    assert {Path(name).name for name in there} == allowed | {"all-points.parquet", "settings.yaml"}


TEXT = st.text(max_size=80) | st.sampled_from(["..", ".", "a/b", "/etc", "a.", "-a", "a" * 65, "con\n", "ä", "", "a b"])


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(["task", "method", "variant"]), text=TEXT)
def test_a_key_other_than_the_place_is_always_refused(other, part, text):
    change(other, **key(**{part: text}))
    if text == RUNS[1].facts[part]:
        return
    with pytest.raises(UserError, match="not its place"):
        open_folder(other)


@given(text=TEXT)
def test_valid_names_are_plain_folders(text):
    if valid_name(text):
        assert Path(text).name == text and text.isascii() and len(text) <= 64 and not text.endswith(".")


def test_a_finished_run_is_kept_rather_than_a_failed_one(good, tmp_path):
    failed = tmp_path / "failed"
    shutil.copytree(good, failed)
    change(failed, status="failed", reason="out of memory")
    for folders in ([good, failed], [failed, good]):
        out = tmp_path / f"out-{folders[0].name}"
        merge(folders, out)
        assert runs_of(out)[RUNS[0]]["status"] == "ok"
        points = pd.read_parquet(out / "all-points.parquet")
        assert len(points) == len(pd.read_parquet(good / "all-points.parquet"))


def test_an_interrupted_merge_leaves_nothing(good, other, tmp_path):
    def interrupted(settings):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge([good, other], tmp_path / "out", interrupted)
    assert {path.name for path in tmp_path.iterdir()} == {"good", "other"}
    assert merge([good, other], tmp_path / "out").root == tmp_path / "out"


@pytest.mark.parametrize("name", sorted(path.name for path in REFERENCE.parent.iterdir()))
def test_committed_folders_are_readable_without_their_text(monkeypatch, name):
    monkeypatch.delenv("GLUE_DIR", raising=False)
    folder = open_folder(REFERENCE.parent / name)
    assert folder.settings.root == REFERENCE.parent / name and len(folder.points())
