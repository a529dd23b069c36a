"""Colours, markers, labels and axes of the figures."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import ROLES

from bench.analysis.budgets import at_budget, teacher_rows
from bench.reporting.figures import drawing
from bench.reporting.figures.comparisons import tasks_at_budget
from bench.reporting.figures.drawing import appearances, marks
from bench.reporting.page import document
from bench.reporting.tables.format import table
from bench.tasks.catalogue import title

NAMES = st.sets(st.sampled_from(["costeff", "tinybert", "pabee", "berxit", "cofi", "own-1", "own-2", "x", "y"]))


@given(NAMES, NAMES)
def test_a_known_method_has_one_look_in_every_profile(first: set[str], second: set[str]) -> None:
    looks = [appearances(dict.fromkeys(names, "")) for names in (first, second)]
    for method in {"costeff", "tinybert", "pabee"} & first & second:
        assert looks[0][method] == looks[1][method]


def test_a_known_method_has_its_look_under_any_name_and_a_second_contestant_one_of_its_own() -> None:
    looks = appearances({"costeff": "COST-EFF", "mine": "COST-EFF, mine", "tiny": "TinyBERT (w/o DA), tiny"})
    assert all(mine != other for mine, other in zip(looks["mine"], looks["costeff"], strict=True))
    assert looks["tiny"] == appearances({"tinybert": "TinyBERT"})["tinybert"]


def test_methods_look_the_same_everywhere_and_different_from_each_other(points: pd.DataFrame) -> None:
    looks = marks(points, ROLES)
    assert looks == marks(points[points["task"] == "rte"], ROLES)
    plain = [mark for method, mark in looks.items() if method not in ROLES.ablations]
    assert len({mark.colour for mark in plain}) == len({mark.marker for mark in plain}) == len(plain)
    assert looks["costeff-no-ta"].colour == looks["costeff"].colour
    assert looks["costeff"].name == "COST-EFF"
    assert table.variant_names(points)[("costeff", "4x")] == "4x"
    assert table.variant_names(points)[("pabee", "base")] == ""


def test_a_note_that_all_variants_share_is_the_methods_own() -> None:
    labels = {"192": "TinyBERT 3L-192 (from backbone, w/o DA)", "384": "TinyBERT 3L-384 (from backbone, w/o DA)"}
    runs = pd.DataFrame({"method": "tinybert", "variant": labels.keys(), "label": labels.values()})
    assert table.display_names(runs) == {"tinybert": "TinyBERT (from backbone, w/o DA)"}
    assert table.variant_names(runs) == {("tinybert", "192"): "3L-192", ("tinybert", "384"): "3L-384"}
    alone = runs[:1].assign(method="pabee", label="PABEE (patience)")
    assert table.variant_names(alone) == {("pabee", "192"): ""} and table.display_names(alone) == {
        "pabee": "PABEE (patience)"
    }
    mixed = runs.replace(labels["384"], "TinyBERT 6")
    assert table.display_names(mixed) == {"tinybert": "TinyBERT"}
    assert table.variant_names(mixed)[("tinybert", "192")] == "3L-192 (from backbone, w/o DA)"


WORDS = st.lists(st.sampled_from(["KCM", "flops-0.5", "2x", "int8", "(a b)", "(c)"]), min_size=1, max_size=4)


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(WORDS, min_size=1, max_size=3), min_size=1))
def test_display_names_are_distinct_whatever_the_labels(labels: dict[str, list[list[str]]]) -> None:
    rows = [(method, str(i), " ".join(words)) for method, each in labels.items() for i, words in enumerate(each)]
    names = table.display_names(pd.DataFrame(rows, columns=["method", "variant", "label"]))
    assert set(names) == set(labels) and len(set(names.values())) == len(names)


@given(st.floats(1.0, 1e12), st.floats(1.02, 1e4))
def test_an_axis_of_counts_has_ticks_and_not_too_many_ticks(low: float, ratio: float) -> None:
    ticks = np.asarray(drawing._Counts().tick_values(low, low * ratio))
    shown = ticks[(low <= ticks) & (ticks <= low * ratio)]
    assert 2 <= len(shown) <= 3 * (np.log10(ratio) + 2)


def test_scores_of_tasks_are_coloured_by_differences_of_common_seeds(points: pd.DataFrame) -> None:
    some = points[points["task"].isin(["cola", "stsb", "mnli"])]
    task = some["task"].iloc[0]
    known = some[~(some["method"].eq("pabee") & some["task"].eq(task) & some["seed"].eq(1))]
    figure = tasks_at_budget(known, ROLES)
    axes = figure.axes[0]
    column = [text.get_text() for text in axes.get_xticklabels()].index(title(task))
    row = [text.get_text() for text in axes.get_yticklabels()].index("PABEE")
    drawn = np.ma.getdata(axes.images[0].get_array())[row, column]
    chosen = at_budget(known, 4.0).query("method == 'pabee' and task == @task").set_index("seed")["score"].dropna()
    teacher = teacher_rows(known).query("task == @task").set_index("seed")["score"].reindex(chosen.index)
    assert 0 < len(chosen) < known["seed"].nunique()
    assert drawn == pytest.approx(100 * (chosen - teacher).mean())
    assert not np.isclose(drawn, 100 * (chosen.mean() - teacher_rows(known).query("task == @task")["score"].mean()))


@given(st.sets(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=39))
def test_every_mark_has_a_symbol_on_the_page(names: set[str]) -> None:
    looks = appearances(dict.fromkeys([*names, "costeff", "pabee"], ""))
    assert {marker for _, marker, _ in looks.values()} <= set(document._SYMBOLS)


def test_the_common_ending_of_labels_is_part_of_the_name() -> None:
    labels = {
        "costeff": ["COST-EFF half-width", "COST-EFF sixth-width"],
        "costeff-half": ["COST-EFF half-width, half", "COST-EFF sixth-width, half"],
        "tinybert-half": ["TinyBERT 3L-192 (w/o DA), half", "TinyBERT 3L-384 (w/o DA), half"],
        "chop": ["CHOP, 3 layers removed (first; own choice)", "CHOP, 3 layers removed (even; own choice)"],
    }
    rows = [(method, str(i), label) for method, each in labels.items() for i, label in enumerate(each)]
    points = pd.DataFrame(rows, columns=["method", "variant", "label"])
    assert table.display_names(points) == {
        "costeff": "COST-EFF",
        "costeff-half": "COST-EFF, half",
        "tinybert-half": "TinyBERT (w/o DA), half",
        "chop": "CHOP, 3 layers removed",
    }
    assert table.variant_names(points)["tinybert-half", "1"] == "3L-384"
