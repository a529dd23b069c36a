"""What a model may be operated at, frontiers and budgets of quality, by their definitions."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from bench.analysis import budgets

KEYS = list(budgets.GROUP)


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return synthetic.read_points(synthetic.write_results(tmp_path_factory.mktemp("budgets"), tasks=("cola", "rte")))


def test_every_model_with_exits_may_stop_at_each(points):
    usable = budgets.operating_points(points)
    models = usable.groupby(budgets.RUN)["kind"].agg(set)
    exits = usable.groupby(budgets.RUN)["exits"].agg(lambda rows: len(rows.iloc[0]))
    assert all(("fixed_exit" in kinds) == (count > 1) for kinds, count in zip(models, exits, strict=True))
    assert not usable["kind"].eq("control").any()


@pytest.mark.parametrize("by", [budgets.GROUP, tuple(budgets.RUN), ("task",)], ids=str)
def test_the_chosen_frontier_is_by_definition(points, by):
    usable = budgets.operating_points(points)
    selected = usable[(usable["split"] == "calibration") & usable["score"].notna()]
    chosen = budgets.chosen_frontier(points, split="calibration", by=by)
    assert not chosen.duplicated([*by, "score", "flops"]).any()
    frontiers = dict(list(chosen.groupby(list(by))))
    for key, group in selected.groupby(list(by)):
        score, flops = group["score"].to_numpy(), group["flops"].to_numpy()
        beaten = (score >= score[:, None]) & (flops <= flops[:, None])
        beaten &= (score > score[:, None]) | (flops < flops[:, None])
        expected = set(zip(score[~beaten.any(axis=1)], flops[~beaten.any(axis=1)], strict=True))
        assert set(zip(frontiers[key]["score"], frontiers[key]["flops"], strict=True)) == expected


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_the_cheapest_point_that_keeps_the_quality_is_chosen_on_the_selection_split(points, share):
    rows = budgets.at_quality(points, share).set_index(KEYS)
    usable = budgets.operating_points(points)
    selected = usable[usable["split"] == "calibration"]
    level = {}
    for split in ("calibration", "validation"):
        control = budgets.control_rows(points, split=split).set_index(["task", "seed"])["score"]
        level[split] = control, budgets.teacher_rows(points, split=split).set_index(["task", "seed"])["score"] - control
    for key, row in rows.iterrows():
        control, gain = (each[key[0], key[2]] for each in level["calibration"])
        group = selected[(selected[KEYS] == list(key)).all(axis=1)]
        enough = group[group["score"] >= control + share * gain - 1e-12]
        if enough.empty:
            assert np.isnan(row["score"]) and row["reason"]
            continue
        assert row["selected_speedup"] == enough["speedup"].max()
        control, gain = (each[key[0], key[2]] for each in level["validation"])
        assert row["kept"] == pytest.approx((row["score"] - control) / gain)
        assert row["split"] == "validation"
    assert (rows.xs("teacher", level="method")["selected_speedup"] >= 1 - 1e-9).all()
    assert rows.loc[("rte", "tinybert", 1), "reason"] == synthetic.REASON


def test_a_teacher_that_gains_nothing_leaves_no_quality_to_keep(points):
    level = points[points["kind"] == "control"].set_index(["task", "seed", "split"])["score"]
    teacher = (points["method"] == "teacher") & (points["kind"] == "static")
    flat = points.copy()
    flat.loc[teacher, "score"] = level.reindex(
        pd.MultiIndex.from_frame(points.loc[teacher, ["task", "seed", "split"]])
    ).to_numpy()
    rows = budgets.at_quality(flat, 0.95)
    assert rows["score"].isna().all()
    assert rows["reason"].isin(["teacher gains nothing over the constant baseline", synthetic.REASON]).all()


def test_with_the_teacher_alone_it_keeps_its_own_quality(points):
    rows = budgets.at_quality(points[points["method"] == "teacher"], 0.99)
    assert len(rows) and rows["kept"].eq(1).all()


def test_a_task_whose_teacher_failed_has_no_speed_up_rather_than_no_cheap_point(points):
    costs = ["speedup", "speedup_128"]
    lost = points["task"].eq("cola") & points["seed"].eq(1)
    teacher = lost & points["method"].eq("teacher") & points["kind"].ne("control")
    without = points.assign(**points[costs].mask(lost))[~teacher]
    for rows in (budgets.at_budget(without, 2.0), budgets.at_quality(without, 0.95)):
        known = rows["task"].ne("cola") | rows["seed"].ne(1)
        assert rows.loc[~known, "reason"].str.startswith("no speed-up is known").all() and (~known).any()
        assert not rows.loc[known, "reason"].str.contains("no speed-up").any()
