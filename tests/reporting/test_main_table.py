import re

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from synthetic import REASON, ROLES

from bench.analysis.budgets import RUN, at_budget, teacher_rows
from bench.analysis.statistics import learned_tasks
from bench.reporting.tables import evidence_of
from bench.reporting.tables.main import main
from bench.reporting.tables.summaries import summary
from bench.settings import Comparison


def test_main_starts_with_the_controls_and_has_every_method_in_every_block(made):
    values = made["main"].values
    assert list(values["Method"][:2]) == ["Constant baseline", "Teacher"]
    for budget in ("1x", "2x", "4x", "8x"):
        block = values[values["Budget"] == f"at least {budget}"]
        assert list(block["Method"]) == [
            "Cut at depth",
            "COST-EFF",
            "PABEE",
            "TinyBERT-style (w/o DA), 2 layers",
            "CascadeBERT-style 2+6",
        ]
        unreached = block["MNLI"].isna() & ~block["Chosen"].fillna("").str.startswith("as at")
        assert block.loc[unreached, "Note"].str.contains("MNLI").all()


CELL = re.compile(
    r"(-?[\d.]+) at ([\d.]+)x(§?) \(([-+][\d.]+), ([-+][\d.]+) to ([-+][\d.]+)(?:; (\d+) of (\d+) (?:runs|seeds))?\)"
)
"""A cell of the table `summary`: score, speed-up, mark, difference, low, high, runs with a point, planned runs."""


def test_the_summary_has_the_averages_of_the_main_table(made):
    rows, blocks = made["summary"].values.set_index("Method"), made["main"].values.set_index("Method")
    learned = "Learned tasks" if "Learned tasks" in blocks else "Average"
    assert rows.index[0] == "Teacher"
    for budget in ("1x", "2x", "4x", "8x"):
        block = blocks[blocks["Budget"] == f"at least {budget}"]
        for method in block.index:
            cell, average = rows.loc[method, budget], block.loc[method, learned]
            assert pd.isna(cell) == pd.isna(average), (method, budget)
            if not pd.isna(cell):
                found = CELL.fullmatch(cell)
                value, gap, low, high = (float(found[place]) for place in (1, 4, 5, 6))
                assert value == pytest.approx(average, abs=0.051) and low <= gap <= high
                assert found[3] == ("§" if "§" in block.loc[method, f"{learned} mark"] else "")
    assert any("runs" in str(cell) for cell in rows.loc["TinyBERT-style (w/o DA), 2 layers"])  # one of its runs failed


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_score_and_difference_of_the_summary_add_up(points, results, data):
    """Whatever runs are missing, both are over the seeds that method and teacher have, at the speed-up of these."""
    some = points[points["task"].isin(["mnli", "cola"]) & points["method"].isin(["teacher", "costeff", "pabee"])]
    runs = some[some["kind"] != "control"][["task", "method", "seed"]].drop_duplicates()
    lost = runs.iloc[sorted(data.draw(st.sets(st.integers(0, len(runs) - 1), max_size=4)))]
    gone = pd.MultiIndex.from_frame(some[["task", "method", "seed"]]).isin(pd.MultiIndex.from_frame(lost))
    kept = some[~(gone & some["kind"].ne("control"))].assign(milliseconds=np.nan)
    evidence = evidence_of(kept, results / "runs", Comparison(resamples=100))
    values = summary(kept, [], ROLES, evidence).values.set_index("Method")
    tasks = [name for name in ("mnli", "cola") if name in learned_tasks(kept)] or ["mnli", "cola"]
    chosen = at_budget(kept, 2.0)
    teacher = teacher_rows(kept).set_index(["task", "seed"])["score"].dropna()
    for method, label in {"costeff": "COST-EFF", "pabee": "PABEE"}.items():
        rows = chosen[(chosen["method"] == method) & chosen["task"].isin(tasks)].dropna(subset="score")
        rows = rows.set_index(["task", "seed"])
        rows = rows[rows.index.isin(teacher.index)]
        cell = values["2x"].get(label)
        if set(rows.index.get_level_values("task")) != set(tasks):
            assert pd.isna(cell)
            continue
        found = CELL.fullmatch(cell)
        both = teacher.loc[rows.index].groupby("task").mean().mean()
        assert float(found[1]) == pytest.approx(100 * rows["score"].groupby("task").mean().mean(), abs=0.0501)
        assert float(found[1]) - float(found[4]) == pytest.approx(100 * both, abs=0.101)
        assert float(found[2]) == pytest.approx(
            np.exp(np.log(rows["speedup"]).groupby("task").mean().mean()), abs=0.0501
        )
        assert (found[7] and int(found[7]), len(rows)) in {(len(rows), len(rows)), (None, len(tasks) * 2)}


def test_training_costs_of_the_summary_are_of_the_chosen_models(points):
    """The cost is that of the models that a row shows; another variant that is never chosen does not count."""
    some = points[points["task"].eq("mnli")].assign(milliseconds=np.nan)
    cost = some["variant"].map({"2x": 2e12, "4x": 4e12}).fillna(1e12)
    some = some.assign(training_flops_in_all=cost)
    own = some[some["method"] == "costeff"]
    chosen = pd.concat(at_budget(own, budget) for budget in (1.0, 2.0, 4.0, 8.0)).dropna(subset="score")
    expected = chosen.drop_duplicates(RUN)["training_flops_in_all"].mean() / 1e12
    useless = own[own["variant"] == "2x"].assign(
        variant="useless", label="COST-EFF useless", score=-1.0, training_flops_in_all=1e15
    )
    for rows in (some, pd.concat([some, useless])):
        values = summary(rows, [], ROLES, None).values.set_index("Method")
        assert values.loc["COST-EFF", "Training, TFLOP"] == pytest.approx(expected)


def test_main_averages_only_what_is_complete(made, few):
    values = made["main"].values.set_index(["Budget", "Method"])
    tasks = ["CoLA", "MRPC", "STS-B", "MNLI", "RTE", "WNLI"]
    row = values.loc[("at least 1x", "COST-EFF")]
    assert row["Average"] == pytest.approx(row[tasks].astype(float).mean())
    assert row["w/o WNLI"] == pytest.approx(row[tasks[:-1]].astype(float).mean())
    less = few[(few["method"] != "pabee") | (few["task"] != "rte")]
    row = main(less, [], ROLES, budgets=[1.0]).values.set_index("Method").loc["PABEE"]
    assert pd.isna(row["Average"]) and row["MNLI"] > 0 and row["Note"] == "no run: RTE"


def test_failed_runs_are_rows_with_their_reason(made):
    for name in ("main", "frontier", "per-exit", "thresholds"):
        values = made[name].values
        hit = values["Note"].fillna("").str.contains(re.escape(REASON))
        assert hit.any(), name
        assert values[hit].astype(str).apply(lambda row: row.str.contains("TinyBERT-style")).any(axis=None)


def test_bold_is_what_the_ranking_ties_with_the_best(made):
    """Bold averages are "tied with the best" in the table `ranking`, and neither constant nor below the floor."""
    values, bold = made["main"].values, made["main"].is_bold()
    ranks = made["ranking"].values
    tied = ranks[ranks["Tied with the best"] == "yes"]
    tied = set(zip("at least " + tied["At least"], tied["Method"], tied["Tasks"], strict=True))
    seen = set()
    for column, scope in {"Average": "all tasks", "Learned tasks": "learned tasks"}.items():
        if column not in values:
            continue
        floor = values[column].iloc[0]
        for at, row in values[values["Budget"].str.startswith("at least")].iterrows():
            block = values.loc[values["Budget"] == row["Budget"], column]
            able = row[column] >= floor and "‡" not in str(row[f"{column} mark"]) and block.notna().sum() > 1
            expected = able and (row["Budget"], row["Method"], scope) in tied
            assert bold.at[at, column] == expected, (row["Budget"], row["Method"], column)
            seen.add(bool(expected))
    assert seen == {True, False}


def test_bold_is_the_best_and_what_does_not_differ_from_it(made, few):
    for table in (made["main"], main(few, [], ROLES)):
        bold, values = table.is_bold(), table.values
        assert not bold[values["Budget"].isin(["control", "failed"])].any(axis=None)
        for _, block in values[values["Budget"].str.startswith("at least")].groupby("Budget"):
            known = block["MNLI"].dropna()
            if len(known) > 1:
                assert bold.at[known.idxmax(), "MNLI"]
    values, bold = made["main"].values, made["main"].is_bold()
    blocks = values["Budget"].where(values["Budget"].str.startswith("at least"))
    best = values.groupby(blocks)["MNLI"].transform("max")
    assert (bold["MNLI"] & (values["MNLI"] < best - 0.05)).any()  # below the best, by names that are not the folders'
    assert not made["paper"].is_bold().any(axis=None)


@pytest.mark.parametrize("column", ["MNLI", "MNLI-mm"])
def test_each_half_of_mnli_is_tested_with_its_own_scores(few, results, column):
    """A method with a low score on one half of MNLI is not bold there; on the other half nothing changes."""
    own = few[few["task"] == "mnli"]
    evidence = evidence_of(own, results / "runs", Comparison(resamples=100))

    def made(points):
        table = main(points, [], ROLES, budgets=[1.0], evidence=evidence)
        return table.is_bold().set_axis(table.values["Method"]), table.values.set_index("Method")

    bold, values = made(own)
    assert bold.loc["PABEE", column]
    split = {"MNLI": "validation", "MNLI-mm": "validation_mismatched"}[column]
    there = (own["method"] == "pabee") & (own["split"] == split)
    low = (values.loc["Constant baseline", column] + 1) / 100
    changed, _ = made(own.assign(score=own["score"].mask(there, low)))
    (other,) = {"MNLI", "MNLI-mm"} - {column}
    assert not changed.loc["PABEE", column]
    assert changed[other].equals(bold[other])


def test_without_traces_equal_as_printed_is_equal(few):
    twins = few[few["method"] == "pabee"].assign(method="twin", label="Twin")
    table = main(pd.concat([few, twins]), [], ROLES, budgets=[1.0])
    bold = table.is_bold().set_axis(table.values["Method"])
    assert bold.loc["PABEE"].equals(bold.loc["Twin"])


def test_a_constant_prediction_is_marked_and_never_bold_and_so_is_its_average(points):
    constant = points["method"].eq("pabee") & points["task"].eq("mnli")
    table = main(points.assign(constant=constant), [], ROLES, budgets=[1.0])
    bold, values = (frame.set_axis(table.values["Method"]) for frame in (table.is_bold(), table.values))
    assert "‡" in values.loc["PABEE", "MNLI mark"] and "‡" in values.loc["PABEE", "Average mark"]
    assert "‡" not in values.loc["PABEE", "RTE mark"]
    assert not bold.loc["PABEE", ["MNLI", "Average", "w/o WNLI"]].any()
    assert bold["MNLI"].any() and "never bold" in table.caption_and_notes()
    plain = main(points, [], ROLES, budgets=[1.0])
    assert plain.is_bold().set_axis(plain.values["Method"]).loc["PABEE", "Average"]


def test_nothing_below_the_best_constant_is_bold(few):
    weak = few.assign(score=few["score"].where(few["kind"] == "control", few["score"] * 0.3))
    assert not main(weak, [], ROLES).is_bold().any(axis=None)


def test_a_row_with_the_points_of_a_smaller_budget_has_their_numbers_and_names_it(made):
    table = made["main"]
    values, printed = table.values, table.printed()
    again = values[values["Chosen"].fillna("").str.startswith("as at")]
    assert {"COST-EFF", "TinyBERT-style (w/o DA), 2 layers"} <= set(again["Method"])
    for at, row in again.iterrows():
        named = f"at least {row['Chosen'].removeprefix('as at ')}"
        (before,) = values.index[(values["Budget"] == named) & (values["Method"] == row["Method"])]
        columns = [name for name in printed if name not in ("Budget", "Chosen")]
        # A point may miss the larger budget alone.
        pairs = (printed.loc[each, columns].str.replace("§", "") for each in (at, before))
        assert next(pairs).tolist() == next(pairs).tolist()
        assert row["MNLI"] > 0
