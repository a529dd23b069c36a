import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from bench.analysis.budgets import RUN, at_budget, operated
from bench.analysis.roles import Roles
from bench.reporting.tables.costs import latency
from bench.reporting.tables.main import main
from bench.sharing.folders import open_folder


@pytest.fixture(scope="module")
def reference():
    folder = open_folder(Path(__file__).parents[1] / "data" / "results-0.2")
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
@given(st.floats(1.01, 3), st.booleans(), st.booleans(), st.booleans())
def test_models_of_equal_shape_show_the_noise(reference, factor, as_large, as_deep, as_precise):
    """A copy of a model that is timed as faster by a factor is noise if it has the same size, depth and precision."""
    points, times = reference
    points, times = (rows[(rows["task"] == "rte") & (rows["method"] == "teacher")] for rows in (points, times))
    points = points.assign(model_bytes=4.0 * points["parameters"])
    copy = points.assign(method="copy", label="Copy", parameters=points["parameters"] * (1 if as_large else 1.5))
    copy["model_bytes"] *= 1 if as_precise else 0.25
    faster = times.assign(
        method="copy", speedup=times["speedup"] * factor, promised=times["promised"] * (1 + 0.01 * (not as_deep))
    )
    notes = " ".join(latency(pd.concat([points, copy]), [], Roles(), pd.concat([times, faster])).notes)
    assert (f"{factor:.2f} at batch 1 (Copy and {points['label'].iloc[0]} on RTE)" in notes) == (
        as_large and as_deep and as_precise
    )
    assert ("equal shape" in notes) == (as_large and as_deep and as_precise)
