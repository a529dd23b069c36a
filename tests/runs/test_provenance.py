"""Provenance of a run's code: an installed package, a checkout, or a single file."""

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from bench import provenance
from bench.provenance import changed, code_of, commit_of, fingerprint, suite_version
from bench.runs.train_run import produce
from bench.store import RunKey, read_json, run_folder

SOURCE = "class Mine:\n    pass\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`own(name)`: the class of a module of one's own, once its file is there."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def load(name: str) -> type:
        made.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name).Mine

    yield load
    for name in made:
        sys.modules.pop(name, None)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_file_alone_is_known_by_its_hash(tmp_path: Path, own):
    (tmp_path / "lonely.py").write_text(SOURCE)
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()
    found = code_of(own("lonely"))
    assert found.pop("fingerprint") == fingerprint(own("lonely"))
    assert found == {"file": "lonely.py", "sha256": digest, "commit": None}


def test_a_checkout_gives_its_commit_and_whether_it_has_changed(tmp_path: Path, own):
    git(tmp_path, "init", "-q")
    (tmp_path / "tracked.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text(SOURCE)
    git(tmp_path, "add", "tracked.py")
    git(tmp_path, "commit", "-qm", "mine")
    commit = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert code_of(own("tracked"))["commit"] == commit
    assert code_of(own("beside"))["commit"] is None, "it lies in the checkout, and is no part of it"
    (tmp_path / "tracked.py").write_text(SOURCE + "# changed\n")
    assert code_of(own("tracked"))["commit"] == commit, "the code that this process has imported is not the file's"
    commit_of.cache_clear()
    provenance._code_of.cache_clear()
    assert code_of(own("tracked"))["commit"] == f"{commit}-dirty"


def test_an_installed_package_gives_name_and_version(tmp_path: Path, own):
    (tmp_path / "mine_inside").mkdir()
    (tmp_path / "mine_inside" / "__init__.py").write_text(SOURCE)
    info = tmp_path / "my_bench_method-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-bench-method\nVersion: 1.2\n")
    (info / "RECORD").write_text("mine_inside/__init__.py,,\n")
    (info / "top_level.txt").write_text("mine_inside\n")
    found = code_of(own("mine_inside"))
    assert (found["package"], found["version"]) == ("my-bench-method", "1.2")


IMPATIENT = """
import subprocess
from pathlib import Path
from baselines.finetuned import Finetuned

class Mine(Finetuned):
    def train(self, context, variant):
        model = super().train(context, variant)
        Path(__file__).write_text("class Other: pass")
        subprocess.run(["git", "-C", str(Path(__file__).parent), "commit", "-qam", "later"], check=True)
        return model
"""


def test_a_run_names_the_code_at_its_start(tiny_settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")
    (tmp_path / "impatient.py").write_text(IMPATIENT)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "impatient.py")
    git(tmp_path, "commit", "-qm", "mine")
    commit = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    # The suite's version is read from the same checkout, which changes during training.
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "impatient.py"))
    monkeypatch.syspath_prepend(tmp_path)
    provenance.suite_version.cache_clear()
    contestants = {"teacher": {"method": "impatient:Mine", "options": {"epochs": 1}}}
    settings = tiny_settings(
        tmp_path / "results", contestants=contestants, data={"sketch": {"train": 96, "validation": 32}}
    )
    key = RunKey("sst2", "teacher", "full", 0)
    assert produce(settings, key) == ""
    facts = read_json(run_folder(settings, key) / "run.json")
    provenance.suite_version.cache_clear()
    assert facts["code"] == facts["method_code"]["commit"] == commit
    assert facts["method_code"]["sha256"] == hashlib.sha256(IMPATIENT.encode()).hexdigest()


def test_the_suite_names_its_own():
    assert suite_version() not in ("", "unknown")


CODE = """
from helper import rate
import torch

class Mine:
    version = 1

    def train(self):
        return rate() * 2
"""
ONLY_TEXT = [
    lambda text: "# a comment\n" + text,
    lambda text: text.replace("    version", '    """A class."""\n\n    version'),
    lambda text: text.replace("        return", '        """A method."""\n        return'),
    lambda text: text.replace("version = 1", "version = 1\n    '''What it counts.'''"),
    lambda text: text.replace("rate() * 2", "(\n            rate()   *  2\n        )  # twice"),
    lambda text: '"""A module."""\n' + text,
]
OTHER_CODE = [
    lambda text: text.replace("* 2", "* 3"),
    lambda text: text.replace("version = 1", "version = 2"),
    lambda text: text + "\nMORE = 1\n",
]


def known(folder: Path, code: str, helper: str = "def rate():\n    return 1\n") -> str:
    """Return the fingerprint of the class in `code`, with a module beside it, as a new process finds it."""
    (folder / "mine_own.py").write_text(code)
    (folder / "helper.py").write_text(helper)
    ask = "import sys; sys.path.insert(0, sys.argv[1]); import mine_own; from bench.provenance import fingerprint; "
    ask = f"import sys; sys.modules['torch'] = sys; {ask}print(fingerprint(mine_own.Mine))"  # torch takes seconds
    return subprocess.run([sys.executable, "-c", ask, folder], check=True, capture_output=True, text=True).stdout


def test_text_changes_no_fingerprint_and_code_does_also_in_modules_beside(tmp_path: Path):
    before = known(tmp_path, CODE)
    text = CODE
    for edit in ONLY_TEXT:
        before_edit, text = text, edit(text)
        assert text != before_edit
    assert known(tmp_path, text) == before
    others = {known(tmp_path, edit(CODE)) for edit in OTHER_CODE}
    assert len(others | {before}) == len(OTHER_CODE) + 1
    assert known(tmp_path, CODE, "def rate():\n    return 2\n") != before


def test_what_cannot_be_compared_is_not_called_changed(own, tmp_path: Path):
    (tmp_path / "same.py").write_text(SOURCE)
    now = code_of(own("same"))
    kind = own("same")
    version, digest = now["fingerprint"].split(":")
    assert not changed(now, kind)
    assert changed(now | {"fingerprint": f"{version}:0000"}, kind)
    assert not changed(now | {"fingerprint": f"2.7:{digest}"}, kind), "another Python has other syntax trees"
    assert not changed({"sha256": "0000"}, kind) and not changed({}, kind), "version 0.2 knew the whole file alone"
