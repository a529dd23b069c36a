"""The results page: one file that holds everything, safely and without the network."""

import base64
import gzip
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from synthetic import REASON, ROLES

from bench.analysis.budgets import chosen_frontier
from bench.reporting import figures
from bench.reporting.page import document
from bench.reporting.tables import Table, tables

TASKS = ("cola", "rte")


class Reader(HTMLParser):
    """Elements as (tag, attributes), and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs) | {"within": " ".join(self.inside)}))
        if tag == "script":
            self.scripts.append("")
        if tag not in ("meta", "link", "img", "br", "option"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] == "script":
            self.scripts[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def unpacked(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


@pytest.fixture(scope="module")
def some(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["task"].isin(TASKS)]


@pytest.fixture(scope="module")
def folder(some: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two drawn figures, one run's record, and the page."""
    folder = tmp_path_factory.mktemp("page") / "sketch"
    for name, figure in (
        ("parameters", figures.score_against_cost(some, ROLES, cost=figures.COSTS["parameters"])),
        ("frontier-rte", figures.frontier(some, "rte", ROLES)),
    ):
        figures.drawing.save(figure, folder / "figures", name)
    run = folder / "runs" / "rte" / "costeff" / "2x" / "seed1"
    run.mkdir(parents=True)
    record = {
        "status": "ok",
        "wall_seconds": 7200.0,
        "code": "0123abc",
        "hardware": {"cpu": "A <fast> processor"},
        "where": {"precision": "float32", "device": "cpu", "threads": 1},
        "versions": {"torch": "2.13.0"},
        "backbone": {"name": "some/backbone", "sha256": "f" * 64},
    }
    (run / "run.json").write_text(json.dumps(record))
    assert document.write(some, folder, tables(some, ROLES), ROLES) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(text: str) -> Reader:
    return Reader(text)


def test_it_needs_no_other_file(reader: Reader, folder: Path) -> None:
    for tag, attributes in reader.elements:
        for name in ("src", "href", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert (folder / "index.html").stat().st_size < 1.2e6
    library = unpacked(reader.scripts[1])
    assert library.startswith("/**\n* plotly.js (basic - minified)")
    vendored = Path(document.__file__).parent / "vendored"
    notes = (vendored / "README.md").read_text()
    assert hashlib.sha256(library.encode()).hexdigest() in notes
    assert library.split("(basic - minified) v")[1].split()[0] in notes
    assert "MIT License" in (vendored / "plotly-LICENSE.txt").read_text()


def test_it_shows_every_table_and_figure(some: pd.DataFrame, folder: Path, reader: Reader) -> None:
    made = tables(some, ROLES)
    assert len(reader.all("table")) == len(made)
    apart = [document._table(table)["apart"] for table in made]
    assert len(reader.all("tr")) == sum(len(table.values) + 1 for table in made) - sum(map(len, apart))
    assert any(apart)
    images = [image["src"] for image in reader.all("img")]
    for name in ("frontier-rte", "parameters"):
        inside = base64.b64encode((folder / "figures" / f"{name}.png").read_bytes()).decode()
        assert f"data:image/png;base64,{inside}" in images


def test_it_can_be_read_by_a_screen_reader(reader: Reader) -> None:
    assert all(len(image["alt"] or "") > 20 for image in reader.all("img"))
    assert len(reader.all("select")) == 5
    assert all("label" in (select["within"] or "").split() for select in reader.all("select"))
    assert reader.all("html")[0]["lang"] == "en"
    assert all(head["scope"] == "col" for head in reader.all("th"))


def test_the_page_explains_how_the_numbers_were_computed(text: str) -> None:
    for words in (
        "sketch (generated)", "Chosen on calibration, reported on validation", "1, 2.0 hours together",
        "A &lt;fast&gt; processor", "torch 2.13.0", "some/backbone", "0123abc", REASON,
    ):  # fmt: skip
        assert words in text, words


def test_the_explorer_marks_the_chosen_frontier(some: pd.DataFrame, reader: Reader) -> None:
    data = json.loads(unpacked(reader.scripts[0]))
    assert [task["id"] for task in data["tasks"]] == ["average", "cola", "rte"]
    assert data["splits"] == ["validation", "calibration"]
    front = chosen_frontier(some)
    for task in TASKS:
        columns = data["points"][task]["validation"]
        assert len({len(values) for values in columns.values()}) == 1
        assert sum(columns["front"]) == (front["task"] == task).sum()
        best = front[(front["task"] == task) & (front["method"] == "pabee") & (front["seed"] == 1)]
        shown = [
            i
            for i, run in enumerate(columns["run"])
            if data["methods"][data["runs"][run][0]]["name"] == "PABEE"
            and data["runs"][run][2] == 1
            and columns["front"][i]
        ]
        assert [columns["score"][i] for i in shown] == pytest.approx(list(best["score"]), abs=1e-4)
    assert [method["name"] for method in data["methods"] if method["hidden"]] == ["COST-EFF 2x, no assistant"]


def test_a_long_sweep_is_thinned_and_its_frontier_is_not(some: pd.DataFrame) -> None:
    swept = some[some["kind"] == "uniform"]
    worse = [
        swept.assign(point=swept["point"] + 100 * k, score=swept["score"] - 0.01 * k, flops=swept["flops"] + k)
        for k in range(1, 16)
    ]
    columns = document.explorer(pd.concat([some, *worse], ignore_index=True), ROLES)["points"]["cola"]["validation"]
    shown = pd.DataFrame({"run": columns["run"], "front": columns["front"]})
    beside = shown[shown["front"] == 0].groupby("run").size()
    assert beside.max() == document.MOST
    front = chosen_frontier(some[some["task"] == "cola"])
    assert shown["front"].sum() == len(front)


def test_the_same_input_gives_the_same_page(some: pd.DataFrame, folder: Path, text: str) -> None:
    document.write(some, folder, tables(some, ROLES), ROLES)
    assert (folder / "index.html").read_text(encoding="utf-8") == text


def test_labels_cannot_break_out(some: pd.DataFrame, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    few = some[some["method"].isin(["teacher", "first-layers", "pabee"])]
    few = few.assign(label=few["label"].where(few["method"] != "pabee", evil))
    written = document.write(few, tmp_path, tables(few, ROLES), ROLES).read_text(encoding="utf-8")
    assert evil not in written
    assert len(Reader(written).scripts) == 3


def test_nothing_drawn_and_one_task_is_still_a_page(some: pd.DataFrame, tmp_path: Path) -> None:
    one = some[some["task"] == "cola"]
    reader = Reader(document.write(one, tmp_path, tables(one, ROLES), ROLES).read_text(encoding="utf-8"))
    assert reader.all("img") == []
    assert [task["id"] for task in json.loads(unpacked(reader.scripts[0]))["tasks"]] == ["cola"]


def test_verdicts_stand_above_the_other_tables(some: pd.DataFrame, tmp_path: Path) -> None:
    values = pd.DataFrame({"a": ["COST-EFF"], "verdict": ["better"]})
    table = Table("verdicts", "Who is better", values, {}, notes=["Holm-corrected."])
    text = document.write(
        some, tmp_path, [*(each for each in tables(some, ROLES) if each.name != "verdicts"), table], ROLES
    ).read_text(encoding="utf-8")
    assert text.index('<section id="verdicts"') < text.index('id="table-verdicts"') < text.index('<section id="tables"')
    assert text.count('id="table-verdicts"') == 1


def test_figures_without_data_are_named_with_their_reasons(some: pd.DataFrame, tmp_path: Path) -> None:
    skipped = [figures.Skipped("latency", "no latency was measured")]
    text = document.write(some, tmp_path, [], ROLES, skipped=skipped).read_text(encoding="utf-8")
    assert "Measured and calculated speed-up: no latency was measured" in text


def test_a_row_without_a_number_is_named_below_its_table(some: pd.DataFrame) -> None:
    for table in tables(some, ROLES):
        shown, printed = document._table(table), table.printed()
        numbers = table.values.reindex(columns=list(table.formats)).notna().any(axis=1)
        assert len(shown["rows"]) == (numbers.sum() or len(printed))
        for line in printed[~numbers].values.tolist() if numbers.any() else []:
            assert ", ".join(text for text in line if text != "–") in shown["apart"]
        for row in shown["rows"]:
            assert len(row) == len(shown["columns"])


def test_average_and_costs_stand_before_the_tasks(some: pd.DataFrame) -> None:
    columns = next(table for table in tables(some, ROLES) if table.name == "main").columns
    first = [columns.index(name) for name in ("Average", "Speed-up", "Measured, batch 1")]
    assert columns[2] == "Average" and max(first) < min(columns.index(name) for name in ("CoLA", "RTE"))
