"""Fixtures of the tests of tables."""

import pandas as pd
import pytest
from synthetic import ROLES

from bench.reporting.tables import tables
from bench.settings import Comparison


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
