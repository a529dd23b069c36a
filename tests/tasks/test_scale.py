"""Regression on any range behaves as on 0 to 5: the unit of the labels changes no training, exit, point or score."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from huggingface_hub import ModelCard
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.analysis.budgets import operating_points, predicted
from bench.encoder import EarlyExitClassifier
from bench.runs.collect import collect
from bench.runs.plan import runs
from bench.runs.replay import replay
from bench.runs.train_run import produce
from bench.settings import Settings, check
from bench.sharing.card import _rule
from bench.sharing.models import write_model
from bench.store import RunKey, run_folder, write_parquet
from bench.tasks.catalogue import SCALE, TASKS, from_scale, to_scale
from bench.tasks.sketch.generator import generate
from bench.trace import Costs, Trace

UNITS = {"plain": (0.0, 5.0), "hundred": (0.0, 500.0), "ten-thousand": (0.0, 50_000.0), "signed": (-1.0, 1.0)}
ENDS = st.floats(-1e6, 1e6)


@given(st.lists(st.integers(0, 500), min_size=1), st.sampled_from([100, 10_000]))
def test_a_greater_unit_gives_the_same_labels_bit_for_bit(hundredths: list[int], factor: int) -> None:
    labels = np.array(hundredths) / 100
    scaled = to_scale(factor * labels, (0.0, 5.0 * factor)).astype(np.float32)
    np.testing.assert_array_equal(scaled, labels.astype(np.float32))


@given(ENDS, ENDS, st.lists(st.floats(0, 1), min_size=1))
def test_back_and_forth_is_the_identity(low: float, high: float, shares: list[float]) -> None:
    assume(high - low > 1e-3)
    labels = low + np.array(shares) * (high - low)
    scores = to_scale(labels, (low, high))
    assert (scores >= -1e-6).all() and (scores <= 5 + 1e-6).all()
    np.testing.assert_allclose(from_scale(scores, (low, high)), labels, atol=1e-9 * (abs(low) + abs(high) + 1))


def test_stsb_is_left_as_it_is() -> None:
    labels = np.random.default_rng(0).uniform(0, 5, 100)
    assert TASKS["stsb"].range == SCALE
    np.testing.assert_array_equal(to_scale(labels, TASKS["stsb"].range), labels)
    np.testing.assert_array_equal(from_scale(labels, TASKS["stsb"].range), labels)


@pytest.mark.parametrize("threshold", [0.0, 0.4, float("inf")])
def test_a_taken_model_answers_in_units_and_exits_by_the_scale(threshold: float) -> None:
    inner = toys.encoder(num_labels=1)
    point = {
        "kind": "uniform",
        "policy": "agreement",
        "exit_start": 1,
        "threshold": threshold,
        "thresholds": [],
        "exit": 0,
    }
    ids = torch.randint(1, 60, (16, 9), generator=torch.Generator().manual_seed(0))
    plain = EarlyExitClassifier.of(inner, point, ())(ids)
    signed = EarlyExitClassifier.of(inner, point, (), (-100.0, 300.0))(ids)
    assert torch.equal(plain.exits, signed.exits)
    torch.testing.assert_close(signed.logits, -100 + 80 * plain.logits, rtol=1e-5, atol=1e-3)


@pytest.fixture(scope="module")
def found(tiny_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Settings]:
    """The same texts and contestants with labels in several units, trained and replayed."""
    made = {}
    for name, units in UNITS.items():
        folder = tmp_path_factory.mktemp(name)
        for split, count in (("train", 80), ("validation", 30)):
            rows = generate("stsb", split, count, 0)
            labels = [from_scale(np.round(row["label"], 2), units) for row in rows]
            pairs = [(row["sentence1"], row["sentence2"]) for row in rows]
            table = pd.DataFrame(pairs, columns=["one", "two"]).assign(label=[f"{label:.12g}" for label in labels])
            table.to_csv(folder / f"{split}.csv", index=False)
        values: dict[str, Any] = tiny_settings(folder / "results").model_dump()
        brief = {"epochs": 1, "learning_rate": 3e-3}
        values["contestants"] = {
            name: entry | {"options": entry["options"] | brief, "tasks": {}}
            for name, entry in values["contestants"].items()
            if name in ("teacher", "assistant")
        }
        files = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
        own = {"columns": ["one", "two"], "range": units, "metrics": ["pearson", "spearman"], "files": files}
        values |= {"own_tasks": {"near": own}, "tasks": ["near"], "depth_reference": None, "studies": []}
        values["thresholds"] |= {"grid": 40, "trials": 4}
        settings = made[name] = check(values, "test")
        for planned in runs(settings):
            assert not produce(settings, planned.key)
        replay(settings, "near", 0)
        write_parquet(settings.root / "all-points.parquet", collect(settings))
    return made


def points_of(settings: Settings) -> pd.DataFrame:
    return pd.read_parquet(settings.root / "all-points.parquet")


def trace_of(settings: Settings, method: str) -> Trace:
    key = next(planned.key for planned in runs(settings) if planned.key.method == method)
    return Trace.load(run_folder(settings, key) / "trace-validation.parquet")


@pytest.mark.parametrize("name", ["hundred", "ten-thousand", "signed"])
def test_the_unit_changes_no_point_no_exit_and_no_score(found: dict[str, Settings], name: str) -> None:
    plain, other = points_of(found["plain"]), points_of(found[name])
    measured = ["training_seconds", "cpu_seconds", "peak_memory_bytes"]
    pd.testing.assert_frame_equal(plain.drop(columns=measured), other.drop(columns=measured))
    assert len(operating_points(plain).query("method == 'assistant'")) > 4
    for method in ("teacher", "assistant"):
        np.testing.assert_array_equal(trace_of(found["plain"], method).logits, trace_of(found[name], method).logits)


@pytest.mark.parametrize("name", ["plain", "signed", "ten-thousand"])
def test_an_exported_model_answers_in_the_units_of_its_files(
    found: dict[str, Settings], name: str, tmp_path: Path
) -> None:
    settings, units = found[name], UNITS[name]
    points = points_of(settings)
    rows = points.query(
        "method == 'assistant' and kind == 'uniform' and split == 'validation' and threshold > 0 and threshold < 9"
    )
    row = pd.concat([rows.iloc[0], pd.Series({"budget": 1.0, "selected_score": 0.5, "selected_speedup": 1.0})])
    write_model(settings, points, row, tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    texts = pd.read_csv(settings.own_tasks["near"].files["validation"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    batch = tokenizer(list(texts.one), list(texts.two), padding=True, truncation=True, return_tensors="pt")
    expected = from_scale(predicted(row, trace_of(settings, "assistant")), units)
    np.testing.assert_allclose(model(**batch).logits[:, 0], expected, atol=1e-4 * (units[1] - units[0]))
    card = ModelCard.load(tmp_path / "model" / "README.md").text
    assert f"a score, {units[0]:g} to {units[1]:g}" in card
    assert f"differs from the exit before by less than {row['threshold'] * (units[1] - units[0]) / 5:.6g}" in card
    key = RunKey("near", "assistant", str(row["variant"]), 0)
    facts = json.loads((run_folder(settings, key) / "run.json").read_text())
    assert facts["data"]["range"] == list(units) and facts["asked"]["own"]["range"] == list(units)


@pytest.mark.parametrize(("tolerance", "said"), [(0.1, 10), (0.5, 50), (None, 10)])
def test_a_card_gives_the_tolerance_of_patience_in_units(tolerance, said) -> None:
    row = {"kind": "uniform", "policy": "patience", "threshold": 2.0, "thresholds": [], "exit": 0, "exit_start": 1}
    row |= {} if tolerance is None else {"tolerance": tolerance}
    costs = Costs(parameters=1, parameters_encoder=1, layers=(1, 2, 3), coefficients=((Fraction(1),) * 3,) * 3)
    words = _rule(pd.Series(row), replace(TASKS["stsb"], range=(0.0, 500.0)), costs)
    assert f"agreed 2 times in a row (predictions agree when they differ by less than {said})" in words
