"""Everything that the page and the tables read is written by a real run: the committed results are ones."""

import ast
import json
from pathlib import Path

import pandas as pd
import pytest

from bench.compat import FIELDS
from bench.reporting import everything, tables
from bench.reporting.page import document
from bench.reporting.tables.main import COSTS, SPEEDUPS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "reference" / "glue-laptop"
TABLES = {"rows", "points", "row", "table", "chosen"}
"""What variables of points are called."""
MADE = {"place", "missed"}
"""Columns that the analysis adds itself."""


@pytest.fixture(scope="module")
def columns() -> set[str]:
    tables = [pd.read_parquet(RESULTS / f"{file}.parquet") for file in ("all-points", "latency")]
    return {FIELDS.get(name, name) for table in tables for name in table}


def test_every_column_that_is_named_is_there(columns):
    for names in (document._MEASURES, everything._COLUMNS, tables._NEEDED, COSTS.values(), SPEEDUPS.values()):
        assert set(names) <= columns


def asked(tree: ast.AST) -> set[str]:
    """The columns that code reads only if they are there: `"x" in points`, `points.get("x")`."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Compare(
                left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()], comparators=[ast.Name(id=table)]
            ) if table in TABLES:
                found.add(name)
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=table), attr="get"), args=[ast.Constant(value=str(name)), *_]
            ) if table in TABLES:
                found.add(name)
    return found


@pytest.mark.parametrize("room", ["reporting", "analysis", "sharing"])
def test_a_column_that_is_read_where_it_is_there_is_there(columns, room):
    for path in sorted((ROOT / "bench" / room).rglob("*.py")):
        assert asked(ast.parse(path.read_text())) <= columns | MADE, path


def test_the_facts_of_a_real_run_are_whole():
    """Every fact of the page has a value; a fact that run.json lacks is a KeyError."""
    facts = dict(document.facts(RESULTS / "runs"))
    usual = {name: fact for name, fact in facts.items() if not name.startswith("Data of ")}
    assert set(usual) == {"Runs", "Hardware", "Arithmetic", "Backbone", "Code", "Versions"} and all(facts.values())
    assert "bfloat16 products on cpu, 1 thread(s)" in facts["Arithmetic"]


def test_a_failed_run_is_counted_and_has_no_facts(tmp_path):
    run = tmp_path / "rte" / "costeff" / "2x" / "seed1"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"status": "failed", "reason": "why", "again": True}))
    assert document.facts(tmp_path) == [("Runs", "1, 0.0 hours together")]
