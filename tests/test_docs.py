"""Code and commands in the documentation work: Python runs, and command lines name existing commands and files."""

import builtins
import dis
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import snakemake.cli
import torch
import typer
from transformers import AutoTokenizer

from bench.cli import app
from bench.conformance import suite
from bench.conformance.checks import CHECKS
from bench.conformance.runs import Runs
from bench.encoder import EarlyExitClassifier, backbones

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md")),
]
OTHER_PROGRAMS = {"git", "pip", "python", "mkdir", "cat", "conda", "hf", "export", ".", "cd"}
"""What may begin a command line beside the suite's own commands, `make` and `snakemake`."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def unbound(code: types.CodeType, known: set[str]) -> set[str]:
    """The names that code looks up when it runs, in functions too, and that nothing has bound."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    own = {step.argval for step in dis.get_instructions(code) if step.opname.startswith("STORE_NAME")}
    found = {name for name in found if not name.startswith("__")}  # the module's own
    return (found - known - own).union(*(unbound(each, known | own) for each in inner))


def run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the Python of a page from top to bottom, as one module; every name that its functions use must be bound."""
    module = types.ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, page.stem, module)
    for block in blocks(page, "python"):
        code = compile(block, str(page), "exec")
        exec(code, module.__dict__)
        missing = unbound(code, {*module.__dict__, *dir(builtins)})
        assert not missing, f"{page.name} uses {', '.join(sorted(missing))} and imports none of it"


@pytest.fixture
def home(tiny_backbone, tmp_path, monkeypatch) -> Path:
    """A folder with what the pages use: `my-model`, an exported model, and `letters-a`, published results."""
    model = backbones.load(str(tiny_backbone), num_labels=3, head="tanh", pooling="mean")
    leaving = {"kind": "static"}
    EarlyExitClassifier.of(model, leaving, ("bug", "question", "praise")).save_pretrained(tmp_path / "my-model")
    AutoTokenizer.from_pretrained(tiny_backbone, model_max_length=64).save_pretrained(tmp_path / "my-model")
    (tmp_path / "letters-a").symlink_to(ROOT / "results" / "reference" / "sketch")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_its_python_runs(page, home, monkeypatch):
    run(page, monkeypatch)


def test_a_name_that_is_not_imported_is_found():
    code = compile("class A:\n    x = 1\n    def f(self):\n        return np.sort([y for y in self])", "page", "exec")
    assert unbound(code, set(dir(builtins))) == {"np"}


@pytest.mark.parametrize("name", ["Mine", "Distilled", "MineByMargin"])
def test_its_methods_conform(name, tiny_backbone, tmp_path, monkeypatch):
    """On one task; the result is not required to be learned after one epoch."""
    (tmp_path / "my_method.py").write_text("\n".join(blocks(ROOT / "docs" / "new-method.md", "python")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"epochs": 1, "learning_rate": 3e-3}
    settings, (own,) = suite.settings_for(f"my_method:{name}", options, None, tiny_backbone, tmp_path / "first")
    torch.manual_seed(0)
    runs = Runs(settings)
    for check in CHECKS:
        if check.title != "it learns" and not check.twice:
            verdict = suite.judge(replace(check, tasks=("sst2",)), runs, runs, own)
            assert verdict.runs and not verdict.faults, verdict.line


def lines(page: Path) -> Iterator[list[str]]:
    """The words of each command line, without comments, assignments before the program and here-documents."""
    for block in blocks(page, "sh"):
        block = re.sub(r"<<'(\w+)'\n.*?^\1$", "", block.replace("\\\n", " "), flags=re.MULTILINE | re.DOTALL)
        for line in block.splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word != "&&":
                    words.append(word)
                    continue
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []


def parse(words: list[str]) -> None:
    """Parse the arguments of `costeff`, without running anything; click raises for what it does not take."""
    command, context = typer.main.get_command(app), None
    name, *rest = words
    while hasattr(command, "commands"):
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
        assert rest and rest[0] in command.commands, f"costeff has no command {rest[:1]}"
        name, command, rest = rest[0], command.commands[rest[0]], rest[1:]
    command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_command_lines_are_valid(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *rest in lines(page):
        if program == "costeff":
            parse([program, *rest])
        elif program == "make":
            assert {word for word in rest if "=" not in word} <= targets, rest
        elif program == "snakemake":
            snakemake.cli.get_argument_parser().parse_args(rest)
        elif program == "python" and rest[0].startswith("benchmarks/"):
            text = (ROOT / rest[0]).read_text()
            assert all(f'"{word}"' in text for word in rest if word.startswith("--")), rest
        else:
            assert program in OTHER_PROGRAMS, f"{page.name}: {program}"
        for word in rest:
            if re.match(r"(config|profiles|benchmarks)/", word):
                assert (ROOT / word).exists(), f"{page.name}: {word} is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_that_its_text_names_exist(page):
    commands = typer.main.get_command(app).commands
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`costeff ([a-z-]+)", text):
        assert name in commands, f"{page.name}: costeff {name}"
    for path in re.findall(r"`((?:benchmarks|examples|config|bench|tests)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def only_reads(words: list[str]) -> bool:
    """Whether a command line trains nothing, writes nothing and needs nothing beside the checkout."""
    if words[:2] in (["costeff", "size"], ["costeff", "doctor"]):
        return True
    return words[:2] == ["costeff", "compare"] and any(word.startswith("results/reference/") for word in words)


READING = sorted({shlex.join(words) for page in PAGES for words in lines(page) if only_reads(words)})


@pytest.mark.slow
@pytest.mark.parametrize("command", READING)
def test_a_command_that_only_reads_runs_as_it_is_written(command):
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_commands_of_each_kind_are_run():
    assert {shlex.split(command)[1] for command in READING} == {"size", "doctor", "compare"}
