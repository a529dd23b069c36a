import io
import re
import shutil
import subprocess

import hypothesis.strategies as st
import pandas as pd
import pytest
import synthetic
from hypothesis import given, settings
from synthetic import ROLES

from bench.analysis.budgets import at_budget, at_quality
from bench.analysis.roles import Roles
from bench.reporting.tables import evidence_of, tables
from bench.reporting.tables.comparisons import ablations
from bench.reporting.tables.costs import storage
from bench.reporting.tables.details import thresholds
from bench.reporting.tables.format.latex import escape
from bench.reporting.tables.format.table import Table, amount, display_names, score
from bench.reporting.tables.main import main
from bench.reporting.tables.notes import common_notes
from bench.reporting.tables.paper import paper
from bench.reporting.tables.replayed import portfolio
from bench.reporting.tables.summaries import frontier, quality
from bench.settings import Comparison
from bench.tasks.catalogue import title

NAMES = ("summary", "main", "verdicts", "paper", "frontier", "quality", "per-exit", "thresholds", "ablations", "ratios")
REPLAYED = ("ranking", "policies", "portfolios")
"""Tables that need the traces."""


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
    names = display_names(ROLES.contestants(points))
    kept = at_quality(points, 0.95).query("status != 'failed' and method in @names")
    every = kept.groupby(["task", "method"])["speedup"].agg(lambda seeds: seeds.notna().all())
    found = dict(zip(zip(values["Task"], values["Method"], strict=True), reached, strict=True))
    named = {(title(task), names[method]): whole for (task, method), whole in every.items() if method != "teacher"}
    assert {cell: found[cell] for cell in named} == named and set(named.values()) == {True, False}


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_text_changes_the_markdown_of_a_table(cell, note):
    """Each row is one line with as many cells, and HTML has no meaning."""
    table = Table("x", "caption", pd.DataFrame({"A": [cell, "b"], "B": ["c", "d"]}), {}, notes=[note])
    head, *_ = lines = [line for line in table.markdown().split("\n") if line.startswith("|")]
    assert len(lines) == 4 and {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {head.count("|")}
    assert "<" not in table.markdown()


def test_a_score_at_a_budget_is_a_mean_over_every_seed_that_did_not_fail(few):
    slow = few["method"].eq("pabee") & few["task"].eq("mnli") & few["seed"].eq(1)
    slower = few.assign(speedup=few["speedup"].mask(slow, few["speedup"].clip(upper=1.5)))
    values = frontier(slower, [], ROLES).values.set_index(["Task", "Method"])
    assert at_budget(slower, 2.0).query("method == 'pabee' and task == 'mnli'")["score"].notna().any()
    assert values.loc[("MNLI", "PABEE"), ["Score at 2x", "Kept at 2x"]].isna().all()
    assert pd.notna(values.loc[("RTE", "PABEE"), "Score at 2x"])
    task, method = synthetic.FAILED[:2]
    chosen = at_budget(few, 2.0)
    others = chosen.loc[chosen["method"].eq(method) & chosen["task"].eq(task), "score"].dropna()
    values = frontier(few, [], ROLES).values
    values = values[values["Task"].eq(title(task)) & values["Method"].eq(display_names(few)[method])]
    assert values["Score at 2x"].dropna().item() == pytest.approx(100 * others.mean())


def test_a_portfolio_names_what_it_leaves_out(few, results):
    slow = few["task"].eq("rte") & few["seed"].eq(1)
    slower = few.assign(speedup=few["speedup"].mask(slow, few["speedup"].clip(upper=2.5)))
    evidence = evidence_of(slower, results / "runs", Comparison(resamples=100))
    assert "RTE seed 1 at 3x" in portfolio(slower, [], ROLES, evidence).caption_and_notes()
    assert "Left out" not in portfolio(few, [], ROLES, evidence).caption_and_notes()


def test_storage_has_the_mean_of_each_model(few):
    sized = few.assign(model_bytes=4.0 * few["parameters"], parameters_all_tasks=3.0 * few["parameters"])
    values = storage(sized, []).values.set_index("Model")
    static = sized.query("kind == 'static' and split == 'validation' and status != 'failed'")
    for label, rows in static.groupby("label"):
        assert values.loc[label, "On disk, MB"] == pytest.approx(4e-6 * rows["parameters"].mean())
        assert values.loc[label, "Parameters for all tasks, M"] == pytest.approx(3e-6 * rows["parameters"].mean())
        assert values.loc[label, "Score"] == pytest.approx(100 * rows.groupby("task")["score"].mean().mean())
    assert len(values) == static["label"].nunique() and storage(few, []) is None


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
    assert ("costs more than the teacher" in table.caption_and_notes()) == ("#" in table.printed().to_string())
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
        if len(table.printed()):
            assert len(table.printed()) == len(values_of(table.csv()))
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
