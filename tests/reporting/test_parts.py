"""Any part of a profile is reported: what has no data is left out with a reason, what failed is named."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import REASON, ROLES

from bench.analysis.budgets import RUN
from bench.reporting import figures
from bench.reporting.everything import complete
from bench.reporting.figures.drawing import Absent
from bench.reporting.page import document
from bench.settings import Comparison

METHODS = ("teacher", "first-layers", "costeff", "costeff-no-ta", "pabee", "tinybert", "cascadebert")


def failed(points: pd.DataFrame) -> pd.DataFrame:
    """The same runs, had all of them failed: as rows without a measurement."""
    runs = points.drop_duplicates(RUN)[["profile", *RUN, "label", "selection", "source"]]
    return runs.assign(status="failed", reason=REASON)


def report(points: pd.DataFrame, results: Path, folder: Path) -> tuple[dict[str, str], str]:
    """Reasons of the figures that were left out, and the page; every other figure draws."""
    points = complete(points.reset_index(drop=True))
    skipped = []
    for name, draw in figures._plan(points, results, ROLES, None, Comparison(resamples=100), pd.DataFrame()).items():
        try:
            draw()
        except Absent as reason:
            skipped.append(figures.Skipped(name, str(reason)))
    text = document.write(points, folder, [], ROLES, skipped=skipped).read_text(encoding="utf-8")
    return dict(skipped), text


@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tasks=st.sets(st.sampled_from(["rte", "stsb"]), min_size=1),
    methods=st.sets(st.sampled_from(METHODS), min_size=1),
    lost=st.sets(st.sampled_from(METHODS)),
    seeds=st.sets(st.sampled_from([1, 2]), min_size=1),
    timed=st.booleans(),
)
def test_any_part_of_a_profile_is_reported(points, results, tmp_path, tasks, methods, lost, seeds, timed) -> None:
    part = points[points["task"].isin(tasks) & points["method"].isin(methods) & points["seed"].isin(seeds)]
    if not timed:
        part = part.assign(latency_1=np.nan, latency_32=np.nan)
    gone = part["method"].isin(lost)
    part = pd.concat([part[~gone], failed(part[gone])])
    skipped, text = report(part, results, tmp_path)
    assert all(len(reason) > 10 for reason in skipped.values())
    assert (REASON in text) == bool((part["status"] == "failed").any())


@pytest.mark.parametrize("lost", ["all", "all but the teacher", "the teacher", "none but the teacher was run"])
def test_the_page_is_made_whatever_failed(points: pd.DataFrame, results: Path, tmp_path: Path, lost: str) -> None:
    some = points[points["task"].isin(["rte", "stsb"])]
    teacher = some["method"] == "teacher"
    part = {
        "all": failed(some),
        "all but the teacher": pd.concat([some[teacher], failed(some[~teacher])]),
        "the teacher": pd.concat([some[~teacher], failed(some[teacher])]),
        "none but the teacher was run": some[teacher],
    }[lost]
    skipped, text = report(part, results, tmp_path)
    assert {"frontier-average", "frontier-rte", "frontier-stsb"} <= skipped.keys()
    assert text.count(REASON) == len(failed(part[part["status"] == "failed"]))
