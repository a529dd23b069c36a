"""The wheel, in an environment and a folder of its own: all that a person with a method of their own has."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.conformance.backbone import make_backbone
from bench.store import read_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OUTSIDE = {".git", ".venv", ".snakemake", "build", "results", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
PROFILE = {
    "extends": "tiny",
    "profile": "mine",
    "tasks": ["sst2", "stsb"],
    "data": {"max_length": [64, 64]},
    "depth_reference": None,
    "studies": [],
    "contestants": {
        **dict.fromkeys(["first-layers", "teacher-long", "assistant", "costeff", "search", "distilbert", "tinybert"]),
        **dict.fromkeys(["pabee", "cascadebert"]),
        "berxit": {"method": "berxit:Berxit", "options": {"epochs": 1, "learning_rate": 1e-3}},
    },
}


class Person:
    """A folder with a contestant's module and a profile, and an environment that holds the wheel and what it needs."""

    def __init__(self, home: Path) -> None:
        self.folder, self.environment = home / "a folder", home / "environment"
        self.folder.mkdir()
        shutil.copy(ROOT / "family" / "exits" / "berxit.py", self.folder)
        backbone = {"name": str(make_backbone(home / "backbone")), "pooling": "mean"}
        (self.folder / "mine.yaml").write_text(yaml.safe_dump(PROFILE | {"backbone": backbone}))

    def costeff(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The console script of the environment, which is not activated, and with nothing of ours in reach."""
        outside = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        program = [str(self.environment / "bin" / "costeff"), *arguments]
        return subprocess.run(program, cwd=self.folder, env=outside, capture_output=True, text=True)

    def python(self, code: str) -> str:
        program = [str(self.environment / "bin" / "python"), "-c", code]
        return subprocess.run(program, cwd=self.folder, env={}, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    home = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, home / "source", symlinks=True, ignore=lambda folder, names: OUTSIDE & {*names})
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(home), str(home / "source")]
    subprocess.run(build, check=True, capture_output=True)
    shutil.rmtree(home / "source")
    venv.create(home / "environment", with_pip=False, symlinks=True)
    [wheel] = home.glob("*.whl")
    install = [*pip, f"--python={home / 'environment' / 'bin' / 'python'}", "install", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    [packages] = (home / "environment" / "lib").glob("python*/site-packages")
    # What the wheel needs, without a download; a plain line runs no .pth of theirs, so no checkout gets in that way.
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Person(home)


def test_it_is_the_wheel_that_runs(person: Person):
    code = "import bench, costeff, baselines, family; [print(*m.__path__) for m in (bench, costeff, baselines, family)]"
    places = person.python(code).splitlines()
    assert len(places) == 4 and all(Path(place).is_relative_to(person.environment) for place in places)
    assert "workflow" in person.costeff("--help").stdout


def test_a_packaged_profile_is_reached_by_its_name(person: Person):
    checked = person.costeff("check", "mine.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "contestant berxit (berxit:Berxit): full" in checked.stdout and "check passed" in checked.stdout
    (person.folder / "wrong.yaml").write_text("extends: skecth\n")
    wrong = person.costeff("check", "wrong.yaml")
    assert wrong.returncode == 2
    assert (
        "skecth" in wrong.stderr
        and "sketch, sketch-full, sketch-seeds, tiny" in wrong.stderr
        and len(wrong.stderr.splitlines()) == 1
    )


def test_a_method_with_a_rule_of_its_own_conforms(person: Person):
    tried = person.costeff("conform", "berxit:Berxit", "--options", "{epochs: 12, learning_rate: 3.0e-3}")
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert all(line.startswith("ok ") for line in tried.stdout.splitlines()) and len(tried.stdout.splitlines()) == 11


def test_the_whole_workflow_runs_there(person: Person):
    wrong = person.costeff("workflow", "mine.yaml", "--cores", "1", "--config", "tasks=[sst3]")
    assert wrong.returncode == 1 and "sst3" in wrong.stdout + wrong.stderr
    done = person.costeff("workflow", "mine.yaml", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    results = person.folder / "results" / "mine"
    assert (results / "complete").is_file()
    points = pd.read_parquet(results / "all-points.parquet").query("method == 'berxit'")
    assert set(points["status"]) == {"ok"}
    swept = points[points["kind"] == "uniform"]
    assert set(swept["policy"]) == {"certainty"} and set(swept["task"]) == {"sst2", "stsb"}
    facts = read_json(results / "runs" / "sst2" / "berxit" / "full" / "seed0" / "run.json")
    assert facts["code"].startswith("costeff-bench ") and facts["method_code"]["file"] == "berxit.py"
    assert "BERxiT" in (results / "index.html").read_text()
