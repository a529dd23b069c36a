"""The files for other tools: containers, continuous integration, Snakemake's catalogue, issue templates."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def instructions(name: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile, each on one line."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def test_the_container_is_made_by_the_commands_of_the_readme():
    readme = "".join(re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    system, *steps = instructions("RUN")
    assert system.startswith("apt-get update")
    (start,) = (yaml.safe_load(command) for command in instructions("CMD"))
    for words in [*(step.split() for step in steps), start]:
        assert words[0] == "make" and set(words[1:]) <= targets
        assert re.search(rf"^{' '.join(words)}\b", readme, re.MULTILINE), words


def test_the_container_has_the_python_of_the_environment():
    (image,) = instructions("FROM")
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (version,) = [each.removeprefix("python=") for each in packages if str(each).startswith("python=")]
    assert image.startswith(f"python:{version}-")


def test_the_container_gets_neither_environments_nor_results_of_this_machine():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv*", "results/*", "!results/reference"} <= set(ignored)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_continuous_integration_runs_the_script_of_the_checkout(path):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert all(job["timeout-minutes"] >= 60 for job in jobs.values())


@pytest.mark.parametrize(
    ("program", "arguments"), [("hadolint", ["Dockerfile"]), ("actionlint", [str(path) for path in WORKFLOWS])]
)
def test_linters_find_nothing(program, arguments):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed: pip install {program}-bin or {program}-py")
    found = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_catalogue_finds_what_it_looks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    option, profile = usage["mandatory-flags"]["flags"].split()
    assert option == "--configfile" and (ROOT / profile).is_file()
    assert (ROOT / "workflow" / "Snakefile").is_file() and (ROOT / "config" / "README.md").is_file()


@pytest.mark.slow
def test_the_catalogue_s_workflow_is_that_of_the_root(tmp_path):
    planned = [
        subprocess.run(
            [sys.executable, "-m", "snakemake", "-s", str(ROOT / place), "-n", "--quiet", "host", "--cores", "1",
             "--configfile", str(ROOT / "config" / "tiny.yaml"), "--config", f"results={tmp_path}"],
            cwd=tmp_path, capture_output=True, text=True,
        )
        for place in ("Snakefile", "workflow/Snakefile")
    ]  # fmt: skip
    assert [each.returncode for each in planned] == [0, 0], planned[-1].stderr
    counts = [re.findall(r"^(\w+) +(\d+)$", each.stdout + each.stderr, re.MULTILINE) for each in planned]
    root, catalogue = map(dict, counts)
    assert root.pop("all") == catalogue.pop("everything") == "1"  # the default targets
    assert root == catalogue and root["total"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md")), ids=lambda path: path.name)
def test_a_template_has_what_a_form_needs(path):
    front = yaml.safe_load(path.read_text().split("---")[1])
    assert {"name", "about", "title", "labels"} == set(front) and all(front.values())
