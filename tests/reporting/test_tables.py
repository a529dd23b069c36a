import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given, settings
from synthetic import REASON, ROLES

from bench.analysis.budgets import RUN, at_budget, operated, teacher_rows
from bench.analysis.roles import Roles
from bench.analysis.statistics import learned_tasks
from bench.reporting.tables import evidence_of, tables
from bench.reporting.tables.comparisons import ablations
from bench.reporting.tables.costs import latency
from bench.reporting.tables.details import thresholds
from bench.reporting.tables.format.latex import escape
from bench.reporting.tables.format.table import Table, amount, score
from bench.reporting.tables.main import main
from bench.reporting.tables.notes import common_notes
from bench.reporting.tables.paper import paper
from bench.reporting.tables.summaries import quality, summary
from bench.settings import Comparison
from bench.sharing.folders import open_folder
from bench.tasks.catalogue import title

NAMES = ("summary", "main", "verdicts", "paper", "frontier", "quality", "per-exit", "thresholds", "ablations", "ratios")
REPLAYED = ("ranking", "policies", "portfolios")
"""Tables that need the traces."""


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
def made(points, sweeps, results):
    comparison = Comparison(resamples=200)
    found = tables(
        points, ROLES, missing={"rte": ["test"]}, sweeps=sweeps, runs=results / "runs", comparison=comparison
    )
    return {table.name: table for table in found}


def values_of(csv: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(csv))


def test_every_table_is_written_three_times_with_its_notes(few, sweeps, results, tmp_path):
    made = tables(few, ROLES, sweeps=sweeps, runs=results / "runs", comparison=Comparison(resamples=100))
    files = [path for table in made for path in table.write(tmp_path)]
    assert {path.name for path in files} == {
        f"{name}{ending}" for name in (*NAMES, *REPLAYED) for ending in (".csv", ".notes.txt", ".md", ".tex")
    }
    assert all(path.stat().st_size > 0 for path in files)


def test_every_table_names_the_source_of_its_numbers(made):
    for table in made.values():
        for text in (table.caption_and_notes(), table.markdown(), table.latex()):
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
            numbers = [cell.split(" ±")[0].rstrip("†‡§¶#") for cell in printed[name]]
            assert numbers == ["–" if pd.isna(v) else form(v) for v in plain[name].astype(float)], (
                table.name,
                name,
            )
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")][2:]
        cells = [[cell.strip().strip("*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        assert cells == printed.values.tolist()
        parts = table.latex().split("\\endfoot\n")[1:]
        bodies = [part.split("\n\\end{longtable}")[0].splitlines() for part in parts]
        for expected, *rows in zip(printed.values.tolist(), *bodies, strict=True):
            found = [cell for row in rows for cell in row.removesuffix(r" \\").split(" & ")]
            found = [re.sub(r"\\textbf\{(.*)\}", r"\1", cell).replace(r"\allowbreak{}", "") for cell in found]
            assert set(found) == {escape(cell) for cell in expected}


def test_main_starts_with_the_controls_and_has_every_method_in_every_block(made, points):
    values = made["main"].values
    assert list(values["Method"][:2]) == ["Best constant", "Teacher"]
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
    low = (values.loc["Best constant", column] + 1) / 100
    changed, _ = made(own.assign(score=own["score"].mask(there, low)))
    (other,) = {"MNLI", "MNLI-mm"} - {column}
    assert not changed.loc["PABEE", column]
    assert changed[other].equals(bold[other])


def test_without_traces_equal_as_printed_is_equal(few):
    twins = few[few["method"] == "pabee"].assign(method="twin", label="Twin")
    table = main(pd.concat([few, twins]), [], ROLES, budgets=[1.0])
    bold = table.is_bold().set_axis(table.values["Method"])
    assert bold.loc["PABEE"].equals(bold.loc["Twin"])


def test_one_answer_to_everybody_is_marked_and_never_bold_and_so_is_its_average(points):
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


def test_verdicts_have_four_words(made):
    values = made["verdicts"].values
    assert set(values["Verdict"]) <= {"better", "worse", "equal", "not decided", ""} and len(values)
    decided = values[values["Verdict"].isin(["better", "worse"])]
    assert len(decided) and ((decided["Low"] > 0) == (decided["Verdict"] == "better")).all()
    assert "Holm" in made["verdicts"].caption_and_notes()
    none = values[values["Verdict"] == ""]
    assert none["p"].isna().all() and (none["Note"] != "").all() and (none["Comparison"] == "primary").all()
    assert (values["Comparison"] == "primary").to_numpy().argmin() == (values["Comparison"] == "primary").sum()


def test_every_method_is_compared_with_the_teacher_at_1x(made):
    values = made["verdicts"].values
    teacher = values[(values["B"] == "Teacher") & (values["Comparison"] == "primary")]
    assert set(teacher["B at least"]) == {"1x"} and {"2x", "4x", "8x"} >= set(teacher["A at least"])
    assert {"COST-EFF", "PABEE"} <= set(teacher["A"])


def test_a_ranking_agrees_with_the_verdicts_it_rests_on(made):
    values = made["ranking"].values
    for _, block in values.groupby(["At least", "Tasks"]):
        assert block["Rank"].tolist() == list(range(1, len(block) + 1)) and block["Average"].is_monotonic_decreasing
        low, high = (block["Ranks"].str.split(" to ").str[side].astype(int) for side in (0, 1))
        assert ((low <= block["Rank"]) & (block["Rank"] <= high)).all()
        assert ((low == 1) == (block["Tied with the best"] == "yes")).all() and (low == 1).any()
        assert ((block["Low"] <= block["Average"]) & (block["Average"] <= block["High"])).all()
        if len(block) > 1:
            assert block["Wins"].mean() == pytest.approx(50, abs=5)  # unlike seeds weigh unlike


def test_a_point_that_misses_its_budget_on_validation_is_marked(points):
    chosen = at_budget(points, 2.0)
    only = chosen[(chosen["method"] == "pabee") & (chosen["task"] == "mnli")]
    assert not only["missed"].any()
    slow = points.copy()
    at = slow["method"].eq("pabee") & slow["task"].eq("mnli") & slow["split"].eq("validation")
    slow.loc[at, "speedup"] *= 0.97 * 2 / only["speedup"].min()
    found = at_budget(slow, 2.0)
    assert found.loc[(found["method"] == "pabee") & (found["task"] == "mnli"), "missed"].any()
    table = main(slow, [], ROLES, budgets=(2.0,))
    marks = table.values.set_index("Method")["MNLI mark"]
    assert (
        "§" in marks["PABEE"]
        and "§" in table.caption_and_notes()
        and "§" not in main(points, [], ROLES, budgets=(0.1,)).caption_and_notes()
    )


def test_fixed_quality_counts_where_every_seed_keeps_it(made, points):
    values = made["quality"].values
    reached = values["Speed-up at 95 %"].notna()
    assert reached.any() and (values.loc[~reached, "Note"].fillna("") != "").all()


def test_thresholds_per_exit_gain_nothing_by_the_points_of_one_exit_or_one_threshold(few):
    """The gain is over fixed exits and uniform thresholds alike, whichever is better on the selection split."""
    others = few[~few["kind"].eq("per_exit")]
    simple = others[others["kind"].isin(["static", "fixed_exit", "uniform"])]
    for kinds in (["static", "fixed_exit"], ["uniform"], ["static", "fixed_exit", "uniform"]):
        copied = simple[simple["kind"].isin(kinds)]
        number = copied["kind"].map({"static": 0, "fixed_exit": 100, "uniform": 200}) + copied["point"]
        values = thresholds(pd.concat([others, copied.assign(kind="per_exit", point=number)]), []).values
        gain = values[["Gain, selection", "Gain, validation"]].dropna()
        assert len(gain)
        if "uniform" in kinds and len(kinds) > 1:
            assert gain.abs().max(axis=None) < 1e-9
        else:
            assert gain["Gain, selection"].max() < 1e-9 and gain["Gain, selection"].min() < -0.1


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0])
def test_a_point_that_costs_more_than_the_teacher_is_no_saving(few, factor):
    """A speed-up is marked if and only if a chosen point is slower than the teacher, on its task and in averages."""
    slow = few.assign(speedup=few["speedup"].mask(few["method"] == "pabee", factor))
    table = quality(slow, [], ROLES)
    values = table.values
    for share in (99, 97, 95):
        column = f"Speed-up at {share} %"
        own = values[(values["Method"] == "PABEE") & values[column].notna()]
        marks = own[f"{column} mark"] if f"{column} mark" in own else own[column].map(lambda _: "")
        assert (marks == ("#" if factor < 0.98 else "")).all()
    assert ("no saving" in table.caption_and_notes()) == ("#" in table.printed().to_string())
    shown = table.printed().set_index("Method").loc["PABEE", "Speed-up at 95 %"]
    assert any("x" in cell for cell in shown)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return synthetic.write_results(tmp_path_factory.mktemp("small"), tasks=("rte", "stsb"), examples=40)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_part_of_a_profile_has_all_its_tables(small, data):
    points = synthetic.read_points(small)
    runs = points[["task", "method", "variant", "seed"]].drop_duplicates()
    part = data.draw(st.lists(st.sampled_from(range(len(runs))), min_size=1, max_size=6, unique=True))
    points = points.merge(runs.iloc[part])
    failed = data.draw(st.sets(st.sampled_from(sorted(points["method"].unique()))))
    lost = points["method"].isin(failed)
    rows = points[lost].drop_duplicates(["task", "method", "variant", "seed"])[[*runs, "label", "profile"]]
    points = pd.concat([points[~lost], rows.assign(status="failed", reason="killed")], ignore_index=True)
    points = points.dropna(axis=1, how="all")
    folder = data.draw(st.sampled_from([None, small / "runs"]))
    for table in tables(points, ROLES, runs=folder, comparison=Comparison(resamples=100)):
        assert len(table.printed()) == len(values_of(table.csv())) if len(table.printed()) else True
        assert table.markdown() and table.latex() and table.caption_and_notes()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles_and_fits_the_page(made, tmp_path):
    wide = pd.DataFrame({"Method": ["a method with a name that has to be wrapped somewhere"] * 60})
    wide = wide.assign(**{f"Column {i}": 12.3 for i in range(40)}, **{f"Column {i} std": 1.2 for i in range(40)})
    huge = Table(
        "huge", "Wider and longer than a page", wide, {f"Column {i}": score for i in range(40)}, notes=["100 %"]
    )
    bare = Table("bare", "Nothing in it", pd.DataFrame(columns=["A", "B"]), {"B": score})
    for table in (*made.values(), huge, bare):
        table.write(tmp_path)
    inputs = "".join(rf"\input{{{name}}}\clearpage" for name in (*made, "huge", "bare"))
    packages = r"\documentclass{article}\usepackage{booktabs,longtable,array,pdflscape}"
    (tmp_path / "all.tex").write_text(packages + r"\begin{document}" + inputs + r"\end{document}")
    for _ in range(2):  # longtable measures its columns in the first
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True
        )
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull \\hbox" not in log


def test_paper_rows_are_marked_and_generated_text_gets_no_difference(made, few):
    values = made["paper"].values
    assert set(values["Kind"]) == {"as reported", "measured"}
    reported = values[(values["System"] == "DistilBERT4") & (values["Kind"] == "as reported")]
    assert reported["MNLI"].item() == 78.9 and "TinyBERT" in reported["Source"].item()
    glue = paper(few, [], dict.fromkeys(few["task"], "")).values
    gaps = glue["Kind"] == "difference"
    assert gaps.any()
    index = glue.index[gaps][0]
    gap = glue.loc[index - 1, "MNLI"] - glue.loc[index - 2, "MNLI"]
    assert glue.loc[index, "MNLI"] == pytest.approx(gap)


def test_differences_are_decided_task_by_task_and_by_the_settings(few):
    """The free text of the data does not matter: it may name GLUE for other text, and not name it for GLUE's."""
    tasks = list(few["task"].unique())
    for note in ("GLUE", "2,000 training rows"):
        for glue in [{}, {"mnli": "2,000 training"}, dict.fromkeys(tasks, "")]:
            table = paper(few.assign(source=note), [], glue)
            gaps = table.values[table.values["Kind"] == "difference"]
            columns = [title(task) for task in tasks if title(task) in gaps and gaps[title(task)].notna().any()]
            measured = table.values[table.values["Kind"] == "measured"]
            expected = [title(task) for task in tasks if task in glue and measured[title(task)].notna().any()]
            assert columns == expected
            said = table.markdown()
            assert ("not GLUE's" in said) == (len(glue) < len(tasks)) and ("2,000 training." in said) == (
                len(glue) == 1
            )


def test_a_measured_row_names_the_text_of_each_of_its_tasks(few):
    sources = {task: f"text {place // 2}" for place, task in enumerate(few["task"].unique())}
    values = paper(few.assign(source=few["task"].map(sources)), [], {}).values
    for _, row in values[values["Kind"] == "measured"].iterrows():
        named = {sources[task] for task in sources if title(task) in row and pd.notna(row[title(task)])}
        assert named == {source for source in sources.values() if source in row["Source"]}
        for task, source in sources.items():
            if len(named) > 1 and pd.notna(row.get(title(task))):
                before = row["Source"].split(f": {source}")[0].split("; ")[-1]
                assert title(task) in before.split(", ")


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


def test_one_seed_has_no_deviation_and_a_note(few):
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


@pytest.fixture(scope="module")
def reference():
    folder = open_folder(Path(__file__).parents[2] / "results" / "reference" / "glue-laptop-0.2")
    return folder.points(), folder.latencies()


def test_calculated_and_measured_speedups_are_of_the_same_examples(reference):
    points, times = reference
    some = times[times["task"].isin(["cola", "rte"])].assign(noise_low=0.97, noise_high=1.04)
    table = latency(points, ["shared note"], Roles(), some)
    teacher = table.values[table.values["Budget"] == "teacher"].squeeze()
    assert teacher["Measured, batch 1"] == pytest.approx(1) and teacher["Tasks"] == 2
    at_4 = table.values.query("Budget == 'at least 4x' and Method == 'COST-EFF'").squeeze()
    chosen = at_budget(points[points["method"] == "costeff"], speedup=4.0)
    own = chosen.assign(operated=operated(chosen)).merge(some[some["batch_size"] == 1], on=[*RUN, "operated"])
    assert len(own) == 2
    for column, kind in (("promised", "Calculated"), ("speedup_y", "Measured")):
        assert at_4[f"{kind}, batch 1"] == pytest.approx(np.exp(np.log(own[column]).mean()))
    assert any("0.97 to 1.04 at batch 1" in note for note in table.notes) and "shared note" in table.notes
    assert any("Measured on AMD EPYC" in note and "1 thread" in note for note in table.notes)
    assert latency(points, [], Roles(), pd.DataFrame()) is None


def test_the_main_table_has_the_calculated_speedup_of_the_timed_examples(reference):
    """Each measured speed-up stands beside the one calculated for the same examples, as in the table `latency`."""
    points, times = reference
    found = main(points, [], Roles()).values.set_index(["Budget", "Method"])
    timed = latency(points, [], Roles(), times).values
    timed = timed[timed["Budget"] != "teacher"].set_index(["Budget", "Method"])
    assert len(timed) > 10
    for kind in ("Calculated", "Measured"):
        for size in (1, 32):
            column = f"{kind}, batch {size}"
            np.testing.assert_allclose(found.loc[timed.index, column].astype(float), timed[column].astype(float))
    assert (found["Calculated, batch 1"].isna() == found["Measured, batch 1"].isna()).all()


def test_quartiles_of_fewer_than_three_rounds_are_no_noise(reference):
    points, times = reference
    for rounds, sizes in ((1, {1}), (2, {1}), (3, {1, 32}), (None, {1, 32})):
        asked = {} if rounds is None else {"asked": json.dumps({"latency": {"rounds": rounds, "examples": 8}})}
        notes = " ".join(latency(points, [], Roles(), times.assign(noise_low=0.9, noise_high=1.1, **asked)).notes)
        assert {size for size in (1, 32) if f"0.90 to 1.10 at batch {size}" in notes} == sizes


@settings(max_examples=20, deadline=None)
@given(st.floats(1.01, 3), st.booleans(), st.booleans())
def test_models_of_equal_shape_show_the_noise(reference, factor, as_large, as_deep):
    """A copy of a model that is timed as faster by a factor is noise, unless it has another size or another depth."""
    points, times = reference
    points, times = (rows[(rows["task"] == "rte") & (rows["method"] == "teacher")] for rows in (points, times))
    copy = points.assign(method="copy", label="Copy", parameters=points["parameters"] * (1 if as_large else 1.5))
    faster = times.assign(
        method="copy", speedup=times["speedup"] * factor, promised=times["promised"] * (1 + 0.01 * (not as_deep))
    )
    notes = " ".join(latency(pd.concat([points, copy]), [], Roles(), pd.concat([times, faster])).notes)
    assert (f"{factor:.2f} at batch 1 (Copy and {points['label'].iloc[0]} on RTE)" in notes) == (as_large and as_deep)
    assert ("equal shape" in notes) == (as_large and as_deep)
