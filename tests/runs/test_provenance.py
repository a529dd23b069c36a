"""Whose code a run was made with: an installed package, a checkout, or a file that is all there is."""

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from bench.provenance import code_of, commit_of, fingerprint, suite_version

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
    commit_of.cache_clear()
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


def test_the_suite_names_its_own():
    assert suite_version() not in ("", "unknown")
