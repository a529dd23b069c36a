"""Figures are drawn, agree with the points, stay inside the canvas, and are the same file when drawn again."""

from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread
from synthetic import ROLES

from bench.analysis.budgets import (
    RUN,
    at_budget,
    control_rows,
    operated,
    operating_points,
    teacher_rows,
    timed_points,
)
from bench.analysis.comparing.intervals import budget_differences, differences
from bench.analysis.comparing.pairings import Pairing
from bench.analysis.comparing.resampling import Resamples, records, resamples_of
from bench.analysis.comparing.verdicts import ALL, compare
from bench.analysis.roles import Roles
from bench.errors import UserError
from bench.reporting import figures
from bench.reporting.figures import sweeps
from bench.reporting.figures.comparisons import BUDGETS, ablation_differences
from bench.reporting.figures.curves import average_curves
from bench.reporting.figures.drawing import Absent, marks
from bench.reporting.figures.exits import at_half_cost, mean_exit_by_difficulty
from bench.reporting.published import read_published
from bench.settings import Comparison

TASKS = ("cola", "stsb", "mnli")


@pytest.fixture(scope="module")
def some(points: pd.DataFrame) -> pd.DataFrame:
    """Three tasks: what one of them shows, six would show again."""
    return points[points["task"].isin(TASKS)]


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["maximize", "minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=1)
    )

    def objective(trial: optuna.Trial) -> tuple[float, float, float]:
        heads, rank = trial.suggest_int("heads", 2, 8), trial.suggest_int("rank", 64, 384, step=64)
        return 0.6 + 0.05 * np.log(heads) + 0.0001 * rank, 1e8 * heads, 1e6 * heads + 3e4 * rank

    study.optimize(objective, n_trials=20)
    return study


def folder_with_runs(path: Path, results: Path) -> Path:
    """A results folder of a test's own, on the kept traces that all tests share."""
    path.mkdir()
    (path / "runs").symlink_to(results / "runs")
    return path


@pytest.fixture(scope="module")
def drawn(some: pd.DataFrame, results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folder_with_runs(tmp_path_factory.mktemp("figures") / "sketch", results)
    skipped = figures.begin(some, folder, ROLES, published=read_published())()
    assert [each.name for each in skipped] == ["milliseconds", "training", "memory", "trainable", "stored"]
    return folder / "figures"


def test_every_figure_is_written_as_picture_and_vector(drawn: Path) -> None:
    names = {f"frontier-{task}" for task in (*TASKS, "average")}
    names |= {
        "differences",
        "tasks",
        "parameters",
        "latency",
        "exits-score",
        "exits-histogram",
        "exits-difficulty",
        "ablations",
    }
    assert {path.name for path in drawn.iterdir()} == {f"{n}{end}" for n in names for end in (".png", ".pdf")}
    for name in names:
        picture = imread(drawn / f"{name}.png")
        assert 400 < picture.shape[1] < 1600
        assert (picture[..., :3].min(axis=-1) < 0.9).mean() > 0.005, f"{name} is empty"
        assert (drawn / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_figures_are_listed_in_reading_order_with_words(drawn: Path) -> None:
    listed = [path.stem for path in figures.drawn(drawn)]
    assert listed[:5] == ["frontier-average", "differences", "tasks", "frontier-cola", "frontier-stsb"]
    assert len(listed) == len(list(drawn.glob("*.png")))
    assert figures.describe("frontier-cola")[0] == "Frontier, CoLA"
    assert all(len(words) > 5 for name in listed for words in figures.describe(name))


def test_the_same_points_give_the_same_bytes(some: pd.DataFrame, results: Path, drawn: Path, tmp_path: Path) -> None:
    shuffled = some[some["task"].isin(TASKS)].sample(frac=1.0, random_state=3)
    resamples = resamples_of(shuffled, results / "runs", Comparison())
    again = {
        "frontier-mnli": figures.frontier(shuffled, "mnli", ROLES, resamples=resamples, published=read_published()),
        "exits-difficulty": figures.exit_against_difficulty(shuffled, ROLES, runs=results / "runs"),
        "ablations": figures.ablation_intervals(shuffled, ROLES, resamples=resamples),
    }
    for name, figure in again.items():
        for path in figures.drawing.save(figure, tmp_path, name):
            assert path.read_bytes() == (drawn / path.name).read_bytes(), path.name


def test_nothing_leaves_the_canvas(points: pd.DataFrame, results: Path, study: optuna.Study) -> None:
    one_seed = points[(points["seed"] == 1) & points["task"].isin(TASKS)]
    resamples = Resamples(results / "runs", resamples=100)
    all_drawn = {
        "frontier with a band": figures.frontier(one_seed, "cola", ROLES, resamples=resamples),
        "average": figures.frontier_average(one_seed, ROLES, resamples=resamples),
        "differences": figures.difference_from_teacher(one_seed, ROLES, resamples=resamples),
        "tasks": figures.tasks_at_budget(one_seed, ROLES),
        "parameters": figures.score_against_cost(one_seed, ROLES, cost=figures.COSTS["parameters"]),
        "latency": figures.promised_against_measured(one_seed, ROLES),
        "exits": figures.score_per_exit(one_seed, ROLES, resamples=resamples),
        "histogram": figures.exit_histogram(one_seed, ROLES),
        "difficulty": figures.exit_against_difficulty(one_seed, ROLES, runs=results / "runs"),
        "ablations": figures.ablation_intervals(one_seed, ROLES, resamples=resamples),
        "landscape": figures.landscape(study),
        "importance": figures.importances(study),
    }
    for name, figure in all_drawn.items():
        assert outside(figure) < 0.02, f"{name} is cut off by {outside(figure):.2f} inches"


def test_contestants_that_are_like_another_form_its_learning_curve(some: pd.DataFrame) -> None:
    whole = some[some["method"].isin(["teacher", "costeff"])].assign(training_flops_in_all=4e12)
    half = whole[whole["method"] == "costeff"].assign(method="costeff-half", training_flops_in_all=2e12)
    half["label"] = half["label"] + ", half"
    roles = Roles(likes={"costeff-half": "costeff"})
    cost = figures.COSTS["training"]
    axes = figures.score_against_cost(pd.concat([whole, half]), roles, cost=cost).axes[0]
    curves = [sorted(set(line.get_xdata())) for line in axes.lines]
    assert [2, 4] in curves  # TFLOP
    entries = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert len(entries) == 2
    assert {text.get_text() for text in axes.texts if "half" in text.get_text()}, "the other contestant has its name"
    smaller = half.assign(parameters=half["parameters"] / 2)
    axes = figures.score_against_cost(pd.concat([whole, smaller]), roles, cost=cost).axes[0]
    assert len(axes.figure.legends[0].get_texts()) == 3
    missing = whole.assign(training_flops_in_all=np.where(whole["task"] == "cola", np.nan, 4e12))
    with pytest.raises(Absent, match="every task"):
        figures.score_against_cost(missing, roles, cost=cost)


def test_a_run_without_a_cost_counts_with_its_score(some: pd.DataFrame) -> None:
    priced = some[some["method"] == "teacher"].copy()
    lost = (priced["task"] == "cola") & (priced["seed"] == 1)
    priced["trainable_parameters"] = np.where(lost, np.nan, 1e6 * (1 + priced["seed"]))
    axes = figures.score_against_cost(priced, ROLES, cost=figures.COSTS["trainable"]).axes[0]
    full = teacher_rows(priced)
    expected = 100 * full.groupby("seed")["score"].mean().mean()
    costs = full.groupby("task")["trainable_parameters"].mean() / 1e6
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    assert stars[0].get_ydata() == pytest.approx([expected]) and stars[0].get_xdata() == pytest.approx([costs.mean()])


def outside(figure: Figure) -> float:
    """How far the drawing reaches beyond the page, in inches."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return float(max(-box.x0, -box.y0, box.x1 - width, box.y1 - height))


def test_what_has_no_data_is_skipped_with_its_reason(some: pd.DataFrame, results: Path, tmp_path: Path) -> None:
    """Static models only, one task, no clock, no ablations; the old picture of one goes."""
    folder = folder_with_runs(tmp_path / "sketch", results)
    (folder / "figures").mkdir()
    (folder / "figures" / "ablations.png").write_bytes(b"old")
    static = some[some["method"].isin(["teacher", "first-layers"]) & (some["task"] == "cola")]
    static = static.assign(latency_1=np.nan, latency_32=np.nan)
    skipped = dict(figures.begin(static, folder, ROLES)())
    exits = {"exits-score", "exits-histogram", "exits-difficulty"}
    costs = {"training", "memory", "trainable", "stored"}
    assert set(skipped) == {"frontier-average", "milliseconds", "latency", "ablations", *costs, *exits}
    assert skipped["latency"] == "no latency was measured"
    assert all(skipped.values())
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "frontier-cola",
        "parameters",
        "tasks",
        "differences",
    }


def test_each_cost_that_is_known_has_a_figure(some: pd.DataFrame, results: Path, tmp_path: Path) -> None:
    folder = folder_with_runs(tmp_path / "sketch", results)
    known = some[some["task"].isin(["cola", "rte"])].copy()
    for column in ("training_flops_in_all", "peak_memory_bytes", "trainable_parameters", "parameters_all_tasks"):
        known[column] = 10.0 * known["parameters"]
    known["common_parameters"] = np.where(known["method"] == "costeff", known["parameters"] // 2, 0)
    skipped = {each.name for each in figures.begin(known, folder, ROLES)()}
    costs = {"training", "memory", "trainable", "stored"}
    assert not skipped & costs and costs <= {path.stem for path in (folder / "figures").iterdir()}


def test_a_task_whose_teacher_failed_is_skipped(some: pd.DataFrame) -> None:
    orphaned = some[(some["task"] == "cola") & (some["method"] != "teacher")]
    with pytest.raises(Absent, match="teacher"):
        figures.frontier(orphaned, "cola", ROLES)


def test_a_missing_trace_is_named(some: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trace-validation\.parquet: no trace"):
        mean_exit_by_difficulty(some, ROLES, tmp_path)


def test_the_average_is_the_mean_of_the_points_chosen_at_each_budget(some: pd.DataFrame) -> None:
    curves = average_curves(some, ROLES)
    assert not curves["method"].isin(ROLES.ablations).any()
    for budget in curves["budget"].unique()[[0, 7, 23]]:
        chosen = at_budget(ROLES.contestants(some), budget)
        each = chosen.groupby(["method", "task"])["score"].mean().unstack()
        expected = each.dropna().mean(axis=1)
        found = curves[curves["budget"] == budget].set_index("method")["score"]
        slowest = curves.groupby("method")["budget"].min()
        assert set(found.index) == {method for method in expected.index if slowest[method] <= budget}
        pd.testing.assert_series_equal(found.sort_index(), expected[found.index].sort_index(), check_names=False)
        speedups = np.log(chosen["speedup"]).groupby([chosen["method"], chosen["task"]]).mean().groupby("method").mean()
        found = curves[curves["budget"] == budget].set_index("method")["speedup"]
        pd.testing.assert_series_equal(
            found.sort_index(), np.exp(speedups)[found.index].sort_index(), check_names=False, obj="geometric means"
        )


def test_an_averaged_frontier_ends_at_the_slowest_point_of_the_method(some: pd.DataFrame) -> None:
    curves = average_curves(some, ROLES)
    every = at_budget(ROLES.contestants(some), 1.0).dropna(subset=["score"])
    slowest = every.groupby("method")["selected_speedup"].min()
    for method, rows in curves.groupby("method"):
        assert rows.loc[rows["budget"].idxmin(), "model"] and rows.loc[rows["budget"].idxmax(), "model"]
        assert rows["budget"].min() >= min(1.0, slowest[method])
    cut = curves[curves["method"] == "first-layers"]
    assert cut["budget"].min() > 1.1, "five of six layers are the slowest model"
    assert cut["model"].sum() <= 5


def test_differences_from_the_teacher_are_paired_and_those_of_the_table(some: pd.DataFrame, results: Path) -> None:
    found = budget_differences(some, ROLES, Resamples(results / "runs", resamples=200), BUDGETS)
    teacher = teacher_rows(some).groupby("task")["score"].mean()
    for (method, budget), interval in found.items():
        rows = at_budget(some[some["method"] == method], budget)
        if interval is None:
            assert rows.groupby("task")["score"].count().min() == 0
            continue
        expected = (rows.groupby("task")["score"].mean() - teacher).mean()
        assert interval.value == pytest.approx(expected) and interval.low < interval.value < interval.high
    assert {budget for (method, budget), each in found.items() if method == "costeff" and each} == {2.0, 4.0, 8.0}


def test_a_difference_has_the_interval_that_the_table_of_verdicts_prints(some: pd.DataFrame, results: Path) -> None:
    resamples = resamples_of(some, results / "runs", Comparison(resamples=200, level=0.9))
    found = {key: each for key, each in budget_differences(some, ROLES, resamples, BUDGETS).items() if each is not None}
    asked = [Pairing(method, budget, "teacher", 1.0) for method, budget in found]
    table = compare(some, asked, resamples, Comparison(resamples=200, level=0.9))
    table = table[table["task"] == ALL].set_index(["a", "budget_a"])[["difference", "low", "high"]]
    assert {"costeff", "tinybert"} <= set(table.index.get_level_values("a"))
    for key, row in table.iterrows():
        assert found[key] == pytest.approx(tuple(row))


def test_a_difference_from_itself_is_exactly_nothing(some: pd.DataFrame, results: Path) -> None:
    rows = records(teacher_rows(some[some["task"] == "mnli"]))
    (interval,) = differences([[(rows, rows)]], Resamples(results / "runs", resamples=100))
    assert interval == (0, 0, 0)


def test_a_timed_point_is_drawn_at_its_milliseconds(some: pd.DataFrame) -> None:
    one = some[(some["task"] == "cola") & (some["seed"] == 1) & (some["kind"] == "static")]
    one = one[one["split"] == "validation"]
    timed = one[RUN].assign(
        operated=operated(one),
        batch_size=1,
        examples=4,
        seconds=[0.01 * i for i in range(1, len(one) + 1)],
        p95_seconds=0.02,
        speedup=1.0,
        promised=1.0,
    )
    rows = timed_points(some, timed)
    assert sorted(rows["milliseconds"]) == pytest.approx([2.5 * i for i in range(1, len(one) + 1)])
    assert set(rows["task"]) == {"cola"} and set(rows["seed"]) == {1}
    figure = figures.score_against_milliseconds(some, ROLES, times=timed)
    drawn = np.concatenate([line.get_xdata() for line in figure.axes[0].get_lines() if line.get_marker() == "o"])
    assert set(np.round(drawn, 6)) <= set(np.round(rows["milliseconds"], 6)) and outside(figure) < 0.02
    levels = {line.get_ydata()[0] for line in figure.axes[0].get_lines() if len(set(line.get_ydata())) == 1}
    teacher, control = (rows[rows["task"] == "cola"] for rows in (teacher_rows(some), control_rows(some)))
    assert teacher["score"].nunique() > 1, "the seeds must differ for this test"
    assert {100 * own.loc[own["seed"] == 1, "score"].item() for own in (teacher, control)} <= levels
    assert 100 * teacher["score"].mean() not in levels
    assert "seed 1 alone" in figure.legends[0].get_title().get_text()


def test_a_method_that_lacks_a_task_is_not_averaged(some: pd.DataFrame) -> None:
    lacking = some[(some["method"] != "pabee") | (some["task"] != "stsb")]
    assert "pabee" in set(average_curves(some, ROLES)["method"])
    assert "pabee" not in set(average_curves(lacking, ROLES)["method"])


def test_exits_by_difficulty_add_up_to_the_mean_exit_of_the_point(some: pd.DataFrame, results: Path) -> None:
    table = mean_exit_by_difficulty(some, ROLES, results / "runs")
    table["weighted"] = table["depth"] * table["examples"]
    sums = table.groupby(RUN)[["weighted", "examples"]].sum()
    rows = at_half_cost(some, ROLES).set_index(RUN)
    expected = rows["mean_exit"] / rows["exits"].map(len)
    found = sums["weighted"] / sums["examples"]
    pd.testing.assert_series_equal(found, expected.loc[found.index], check_names=False)
    assert set(table["difficulty"]) == {1, 2, 3}


def test_exits_are_shown_at_half_of_the_models_own_cost(points: pd.DataFrame) -> None:
    known = operating_points(ROLES.contestants(points))
    known = known[(known["split"] == "calibration") & known["score"].notna()]
    full = known[known["kind"] == "static"].set_index(RUN)["flops"]
    shown = at_half_cost(points, ROLES, split="calibration").set_index(RUN)["flops"]
    for run, group in known[known["kind"].isin(["uniform", "per_exit"])].groupby(RUN):
        ratios = np.exp(np.log(2 * group["flops"] / full[run]).abs())
        assert (run in shown.index) == (ratios.min() <= 1.25)
        if run in shown.index:
            assert np.exp(abs(np.log(2 * shown[run] / full[run]))) == pytest.approx(ratios.min())
    assert {("costeff", "2x"), ("costeff", "4x")} <= set(shown.index.droplevel(["task", "seed"]))


def test_a_model_without_a_point_at_half_cost_is_named_and_not_drawn(some: pd.DataFrame) -> None:
    far = (some["method"] == "pabee") & some["kind"].isin(["uniform", "per_exit"])
    figure = figures.exit_histogram(some.assign(flops=some["flops"].where(~far, 5 * some["flops"])), ROLES)
    assert "PABEE" in figure.legends[0].get_title().get_text()
    assert not any("PABEE" in label.get_text() for axes in figure.axes for label in axes.get_yticklabels())
    assert any(text.get_text().endswith("×") for axes in figure.axes for text in axes.texts)


def test_the_clock_is_drawn_with_its_quartiles_against_the_timed_examples_promise(some: pd.DataFrame) -> None:
    timed = some.drop(columns="latency_32").assign(
        promised_1=some["speedup"] * 1.5, latency_1_low=some["latency_1"] * 0.9, latency_1_high=some["latency_1"] * 1.2
    )
    (axes,) = figures.promised_against_measured(timed, ROLES).axes
    rows = timed[(timed["method"] == "pabee") & (timed["split"] == "validation") & timed["latency_1"].notna()]
    place = list(dict.fromkeys(marks(timed, ROLES))).index("pabee")
    dots, bars = axes.get_lines()[1 + place], axes.collections[1 + place].get_segments()
    np.testing.assert_allclose(dots.get_xdata(), rows["promised_1"])
    np.testing.assert_allclose([bar[:, 1] for bar in bars], rows[["latency_1_low", "latency_1_high"]])


def test_an_ablation_that_loses_three_points_shows_three_points(some: pd.DataFrame) -> None:
    full = some[some["method"] == "costeff"]
    worse = full.assign(method="costeff-worse", score=full["score"] - 0.03, label=full["label"] + ", worse")
    table = ablation_differences(pd.concat([some, worse]), Roles(ablations={"costeff-worse": "costeff"}))
    assert set(table["exit"]) == set(range(7)) and set(table["task"]) == {*TASKS, ""}
    assert table["difference"].to_numpy() == pytest.approx(-0.03)


def test_the_interval_over_tasks_is_narrower_than_that_of_one(some: pd.DataFrame, results: Path) -> None:
    table = ablation_differences(some, ROLES, Resamples(results / "runs", resamples=200))
    width = (table["high"] - table["low"])[table["exit"] == 0]
    assert table["low"].notna().all()
    assert width[table["task"] == ""].max() < width[table["task"] != ""].max()


def test_a_study_of_one_trial_has_no_landscape(study: optuna.Study) -> None:
    alone = optuna.create_study(directions=study.directions)
    alone.add_trial(study.trials[0])
    for draw in (sweeps.landscape, sweeps.importances):
        with pytest.raises(Absent, match="1 finished trial"):
            draw(alone)


def test_importances_want_ten_trials_a_ratio(study: optuna.Study) -> None:
    few = optuna.create_study(directions=study.directions)
    few.add_trials(study.trials[:19])
    with pytest.raises(Absent, match=r"20 finished trials \(10 a ratio\), there are 19"):
        sweeps.importances(few)


@given(st.text("abc ", min_size=1, max_size=160))
def test_a_legend_fits_its_figure_however_long_a_name_is(name: str) -> None:
    figure, grid = figures.drawing.panels(1)
    line = grid[0].plot([1, 2], label=f"a {name} z")[0]
    figures.drawing.legend_below(figure, [line], note="Points are those of seed 0 alone.")
    figures.drawing.settle(figure)
    assert outside(figure) < 0.02
