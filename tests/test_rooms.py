"""Import order of the packages, and packages that must work without torch."""

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
    ("precision",),
    ("runs",),
    ("conformance",),
    ("reporting",),
    ("cli",),
    ("serve",),
]
"""The packages of `bench` in the order of imports: a package imports only from those before it."""
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}


def package_of(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """Return the packages that a file imports at run time; imports for types alone do not count."""
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bench":
            names = [node.module] if "." in node.module else [f"bench.{alias.name}" for alias in node.names]
            found.update(package_of(name) for name in names)
        elif isinstance(node, ast.Import):
            found.update(package_of(alias.name) for alias in node.names if alias.name.startswith("bench."))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


FILES = sorted(path for path in (ROOT / "bench").rglob("*.py") if path != ROOT / "bench" / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_package_imports_from_one_above_it(path: Path):
    own = path.relative_to(ROOT / "bench").parts[0].removesuffix(".py")
    for other in imports(path) - {own}:
        assert LEVEL[other] < LEVEL[own], (
            f"bench.{own} imports bench.{other}, which stands above it or beside it in ORDER"
        )


def test_every_package_has_a_level():
    assert {path.relative_to(ROOT / "bench").parts[0].removesuffix(".py") for path in FILES} == set(LEVEL)
    assert all(len(set(below) & set(above)) == 0 for below, above in pairwise(ORDER))


def test_bench_imports_no_contestant():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in ("costeff", "baselines", "family"), path


@pytest.mark.parametrize(("package", "below"), [("costeff", ()), ("baselines", ()), ("family", ("baselines",))])
def test_contestants_import_bench_and_not_one_another(package: str, below: tuple[str, ...]):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                top = node.module.split(".")[0]
                assert top not in {"costeff", "baselines", "family"} - {package, *below}, path


@pytest.mark.parametrize("package", ["exit_policies", "analysis", "reporting"])
def test_analysis_and_reports_need_no_torch(package: str):
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if path.relative_to(ROOT / "bench").parts[0] == package
    ]
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += "print(sorted(set(sys.modules) & {'torch', 'transformers'}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
