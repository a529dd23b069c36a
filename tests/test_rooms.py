"""The two laws of the house: imports go one way, and what turns traces into statements needs no torch."""

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    ("errors", "compat", "names"),
    ("provenance",),
    ("store",),
    ("trace",),
    ("settings",),
    ("exit_policies",),
    ("tasks",),
    ("encoder",),
    ("training",),
    ("measuring", "analysis", "deploy"),  # none imports another
    ("sharing",),
    ("exports",),
    ("context",),
    ("method",),
    ("lineage", "precision"),
    ("runs",),
    ("conformance",),
    ("reporting",),
    ("cli",),
    ("serve",),
]
"""The rooms of `bench`, from the ground up: a room imports from those before it."""
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The rooms that a file imports where it runs; what is only for types does not count."""
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bench":
            names = [node.module] if "." in node.module else [f"bench.{alias.name}" for alias in node.names]
            found.update(room_of(name) for name in names)
        elif isinstance(node, ast.Import):
            found.update(room_of(alias.name) for alias in node.names if alias.name.startswith("bench."))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


FILES = sorted(path for path in (ROOT / "bench").rglob("*.py") if path != ROOT / "bench" / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_imports_from_one_above_it(path: Path):
    own = path.relative_to(ROOT / "bench").parts[0].removesuffix(".py")
    for other in imports(path) - {own}:
        assert LEVEL[other] < LEVEL[own], f"{own} imports {other}"


def test_every_room_has_its_place():
    assert {path.relative_to(ROOT / "bench").parts[0].removesuffix(".py") for path in FILES} == set(LEVEL)
    assert all(len(set(below) & set(above)) == 0 for below, above in pairwise(ORDER))


def test_bench_knows_no_contestant():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in ("costeff", "baselines", "family"), path


@pytest.mark.parametrize(("package", "below"), [("costeff", ()), ("baselines", ()), ("family", ("baselines",))])
def test_contestants_import_the_suite_and_not_one_another(package: str, below: tuple[str, ...]):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                top = node.module.split(".")[0]
                assert top not in {"costeff", "baselines", "family"} - {package, *below}, path


@pytest.mark.parametrize("room", ["exit_policies", "analysis", "reporting"])
def test_statements_need_no_torch(room: str):
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if path.relative_to(ROOT / "bench").parts[0] == room
    ]
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += "print(sorted(set(sys.modules) & {'torch', 'transformers'}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
