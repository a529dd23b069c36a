import io
import re

import numpy as np
import pandas as pd
import pytest
from synthetic import REASON, ROLES

from bench.choosing.roles import Roles
from bench.reporting.tables import tables
from bench.reporting.tables.details import ablations
from bench.reporting.tables.main import common_notes, main, paper
from bench.reporting.tables.table import Table, amount, score

NAMES = ("main", "paper", "frontier", "per-exit", "thresholds", "ablations", "ratios")


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    trials = pd.DataFrame({"number": [0, 1], "heads": [2, 4], "score": [0.7, 0.8], "flops": [1.1e9, 2.2e9]})
    (folder / "rte" / "costeff").mkdir(parents=True)
    rest = {"parameters": [1_000_000, 2_000_000], "status": ["ok", "failed"], "reason": ["", "loss is not finite"]}
    trials = trials.assign(**rest, distributions="{}", pareto=[True, False])
    trials.to_parquet(folder / "rte" / "costeff" / "trials.parquet")
    return folder


@pytest.fixture(scope="module")
def few(points):
    return points[points["task"].isin(["mnli", "rte"])]


@pytest.fixture(scope="module")
def made(points, sweeps):
    found = tables(points, ROLES, missing={"rte": ["test"]}, sweeps=sweeps)
    return {table.name: table for table in found}


def values_of(csv: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(csv), comment="#")


def test_every_table_is_written_three_times(few, sweeps, tmp_path):
    files = [path for table in tables(few, ROLES, sweeps=sweeps) for path in table.write(tmp_path)]
    assert {path.name for path in files} == {f"{name}{ending}" for name in NAMES for ending in (".csv", ".md", ".tex")}
    assert all(path.stat().st_size > 0 for path in files)


def test_every_table_says_where_its_numbers_come_from(made):
    for table in made.values():
        for text in (table.csv(), table.markdown(), table.latex()):
            assert "sketch (generated)" in text
            assert "Chosen on calibration, reported on validation." in text
            assert "2 x the multiply-adds" in text
            assert "Seeds: 1, 2" in text
            assert "does not have: RTE: test" in text


def test_csv_markdown_and_latex_agree(made):
    for table in made.values():
        printed = table.printed()
        plain = values_of(table.csv())
        assert len(plain) == len(printed)
        for name, form in table.formats.items():
            numbers = [cell.split(" ±")[0].rstrip("†") for cell in printed[name]]
            assert numbers == ["–" if pd.isna(v) else form(v) for v in plain[name].astype(float)], (
                table.name,
                name,
            )
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")][2:]
        cells = [[cell.strip().strip("*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        assert cells == printed.values.tolist()
        body = table.latex().split("\\midrule\n")[1].split("\n\\bottomrule")[0].splitlines()
        latex = [row.removesuffix(r" \\").split(" & ") for row in body]
        clean = [[re.sub(r"\\textbf\{(.*)\}", r"\1", cell) for cell in row] for row in latex]
        for row, expected in zip(clean, printed.values.tolist(), strict=True):
            expected = [cell.replace("±", r"$\pm$").replace("–", "--").replace("%", r"\%") for cell in expected]
            expected = [cell.replace("†", r"$^\dagger$").replace("_", r"\_") for cell in expected]
            assert row == expected


def test_main_starts_with_the_controls_and_has_every_method_in_every_block(made, points):
    values = made["main"].values
    assert list(values["Method"][:2]) == ["Best constant", "Teacher"]
    for budget in ("1x", "2x", "4x", "8x"):
        block = values[values["Speed-up asked"] == budget]
        assert list(block["Method"]) == [
            "Cut at depth",
            "COST-EFF",
            "PABEE",
            "TinyBERT-style (w/o DA), 2 layers",
            "CascadeBERT-style 2+6",
        ]
        unreached = block["MNLI"].isna()
        assert block.loc[unreached, "Note"].str.contains("MNLI").all()


def test_main_averages_only_what_is_complete(made):
    values = made["main"].values.set_index(["Speed-up asked", "Method"])
    tasks = ["CoLA", "MRPC", "STS-B", "MNLI", "RTE", "WNLI"]
    row = values.loc[("2x", "COST-EFF")]
    assert row["Average"] == pytest.approx(row[tasks].astype(float).mean())
    assert row["w/o WNLI"] == pytest.approx(row[tasks[:-1]].astype(float).mean())
    assert np.isnan(values.loc[("8x", "PABEE"), "Average"])


def test_failed_runs_are_rows_with_their_reason(made):
    for name in ("main", "frontier", "per-exit", "thresholds"):
        values = made[name].values
        hit = values["Note"].fillna("").str.contains(re.escape(REASON))
        assert hit.any(), name
        assert values[hit].astype(str).apply(lambda row: row.str.contains("TinyBERT-style")).any(axis=None)


def test_bold_is_the_best_measured_and_unmarked(made):
    table = made["main"]
    bold, values = table.is_bold(), table.values
    assert not bold[values["Speed-up asked"].isin(["control", "failed"])].any(axis=None)
    assert not made["paper"].is_bold().any(axis=None)
    block = values["Speed-up asked"] == "2x"
    assert values.loc[block & bold["MRPC"], "MRPC"].item() == values.loc[block, "MRPC"].max()
    marked = values["STS-B mark"].fillna("") != ""
    assert marked.any() and not bold.loc[marked, "STS-B"].any()


def test_a_marked_best_is_not_bold_and_neither_is_who_is_alone():
    values = pd.DataFrame({"name": ["a", "b", "c"], "X": [90.0, 80.0, 80.04], "X mark": ["†", "", ""]})
    table = Table("t", "T", values, {"X": score}, bold=["X"])
    assert table.is_bold()["X"].tolist() == [False, True, True]
    assert not Table("t", "T", values[:1], {"X": score}, bold=["X"]).is_bold().any(axis=None)


def test_paper_rows_are_marked_and_generated_text_gets_no_difference(made, few):
    values = made["paper"].values
    assert set(values["Kind"]) == {"as reported", "measured"}
    reported = values[(values["System"] == "DistilBERT4") & (values["Kind"] == "as reported")]
    assert reported["MNLI"].item() == 78.9 and "TinyBERT" in reported["Source"].item()
    glue = paper(few.assign(source="GLUE"), []).values
    gaps = glue["Kind"] == "difference"
    assert gaps.any()
    index = glue.index[gaps][0]
    gap = glue.loc[index - 1, "MNLI"] - glue.loc[index - 2, "MNLI"]
    assert glue.loc[index, "MNLI"] == pytest.approx(gap)


def test_ablation_differences_are_paired(made, points):
    row = made["ablations"].values.query("Task == 'MNLI'").iloc[0]
    rows = points.query("task == 'mnli' and variant == '2x' and split == 'validation' and kind == 'fixed_exit'")
    means = rows[rows["exit"] == 3].groupby("method")["score"].mean() * 100
    assert row["Exit 3"] == pytest.approx(means["costeff-no-ta"] - means["costeff"])
    assert "costeff-no-ta" not in set(made["main"].values["Method"])


def test_an_ablation_against_itself_changes_nothing(few):
    table = ablations(few, [], {"costeff": "costeff"})
    assert table.values[["All exits", "Full depth"]].eq(0).all(axis=None)


def test_ratio_trials_are_listed(made):
    values = made["ratios"].values
    assert list(values["Score"]) == [70.0, 80.0] and set(values["Method"]) == {"costeff"}
    assert list(values["Pareto"]) == ["yes", "no"] and "loss is not finite" in made["ratios"].markdown()


def test_one_seed_has_no_deviation_and_says_so(few):
    alone = few[few["seed"] == 2]
    table = main(alone, common_notes(alone, {}), Roles())
    assert not any(name.endswith(" std") for name in table.values)
    assert "One seed (2)" in table.markdown() and "±" not in table.printed().to_string()


@pytest.mark.parametrize(
    ("value", "text"), [(22.35e9, "22.4 G"), (1.25e9, "1.25 G"), (109.48e6, "109 M"), (950, "950")]
)
def test_amounts_are_readable(value, text):
    assert amount(value) == text


def test_text_is_escaped_where_its_format_needs_it():
    values = pd.DataFrame({"name": ["a|b_c & 5%"], "X": [1.0]})
    table = Table("t", "T", values, {"X": score})
    assert r"a\|b_c & 5%" in table.markdown()
    assert r"a|b\_c \& 5\%" in table.latex()
