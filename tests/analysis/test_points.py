"""The points table: published counts, conservation, frontiers, and what is left out."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import cascade, encoder, examples, learned, trace

from bench.analysis.frontier import hypervolume, nondominated
from bench.analysis.points import RunName, build, evaluate
from bench.errors import UserError
from bench.exit_policies.operating import decision, exits_taken, plain
from bench.exit_policies.policies import Confidence, Entropy, FullDepth, Patience, Policy, policy_for, replay_many
from bench.measuring.counting import measure
from bench.measuring.recording import record
from bench.tasks.catalogue import task
from bench.trace import Costs

RUN = RunName("sst2", "costeff", "2x", "COST-EFF 2x", 3)
COLUMNS = """
task method variant label seed split kind point policy threshold thresholds exit
score metric matthews accuracy balanced_accuracy f1 f1_macro
pearson spearman constant exit_start tolerance examples flops flops_128 mean_exit mean_layers exits parameters
parameters_encoder
on_frontier
"""


ENTROPY = Entropy()


def layers_cost(*layers: int) -> Costs:
    """A model that costs one multiply-add a layer."""
    return Costs(7, 5, layers, tuple((Fraction(n), Fraction(0), Fraction(0)) for n in layers))


@pytest.fixture(scope="module")
def costs() -> Costs:
    five = encoder(heads=[4] * 5, ffn=[64] * 5, exits=[1, 2, 3, 4, 5], num_labels=2)
    return measure(five)


def build_learned(costs: Costs, policy: Policy = ENTROPY, **changes) -> pd.DataFrame:
    traces = {"calibration": learned(split=0), "validation": learned(split=1)}
    return build(RUN, traces, costs, policy, task("sst2"), **{"grid": 50} | changes)


def test_cascadeberts_published_speedups():
    """Authors' MRPC dev run: 408 examples, 2 or 14 layers, escalated at tau 0.6 / 0.7 / 0.8 / 0.9."""
    escalated = {0.6: 31, 0.7: 59, 0.8: 87, 0.9: 124}
    confidence = np.repeat([0.55, 0.65, 0.75, 0.85, 0.95], np.diff([0, 31, 59, 87, 124, 408]))
    small = np.stack([np.zeros(408), np.log(confidence / (1 - confidence))], axis=-1)
    kept = trace(np.stack([small, small]))
    exits = replay_many(Confidence(), kept.logits, [*escalated])
    assert exits.sum(axis=1).tolist() == [*escalated.values()]
    table = evaluate(exits, kept, layers_cost(2, 14), task("mrpc"))
    assert (2 * 12 / table["flops"]).tolist() == pytest.approx([4.12, 3.21, 2.63, 2.125], abs=0.005)
    assert (12 / table["mean_layers"]).tolist() == pytest.approx([4.12, 3.21, 2.63, 2.125], abs=0.005)


def test_the_table_has_the_schema_and_survives_parquet(costs, tmp_path):
    table = build_learned(costs, vectors=[[0.1, 0.2, 0.3, 0.4, 0.0]], control=True)
    assert sorted(table.columns) == sorted(COLUMNS.split())
    assert set(table["kind"]) == {"static", "fixed_exit", "uniform", "per_exit", "control"}
    table.to_parquet(tmp_path / "points.parquet")
    back = pd.read_parquet(tmp_path / "points.parquet")
    assert back["exits"].map(list).tolist() == table["exits"].tolist()
    pd.testing.assert_frame_equal(
        back.drop(columns=["exits", "thresholds"]), table.drop(columns=["exits", "thresholds"])
    )
    keys = table[["kind", "point", "split"]]
    assert not keys.duplicated().any()
    assert (keys.groupby(["kind", "point"])["split"].nunique() == 2).all()


def test_costs_and_scores_are_those_of_the_examples(costs):
    table, validation = build_learned(costs), learned(split=1)
    rows = table[table["split"] == "validation"]
    for row in rows[rows["kind"] == "fixed_exit"].itertuples():
        assert row.flops == pytest.approx(2 * costs.macs(row.exit - 1, validation.lengths).mean())
        assert row.flops_128 == 2 * costs.macs(row.exit - 1, 128)
        assert row.score == (validation.logits[row.exit - 1].argmax(-1) == validation.labels).mean()
        assert row.mean_exit == row.mean_layers == row.exit
    static = rows[rows["kind"] == "static"].iloc[0]
    deepest, strictest = rows[rows["kind"] == "fixed_exit"].iloc[-1], rows[rows["kind"] == "uniform"].iloc[-1]
    for name in ("score", "flops", "flops_128", "mean_exit"):
        assert static[name] == deepest[name] == strictest[name]
    shares = np.array(rows["exits"].tolist())
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(shares @ np.arange(1, 6), rows["mean_exit"])
    assert (rows["examples"] == 300).all()


def test_uniform_points_differ_from_each_other_on_the_selection_split(costs):
    calibration = learned(split=0)
    table = build_learned(costs, grid=400)
    uniform = table[(table["kind"] == "uniform") & (table["split"] == "calibration")]
    left = replay_many(Entropy(), calibration.logits, uniform["threshold"].to_numpy())
    assert len(np.unique(left, axis=0)) == len(left) < 400
    everything = replay_many(Entropy(), calibration.logits, Entropy().thresholds(400, 5, 2))
    assert len(np.unique(everything, axis=0)) == len(left)


@pytest.mark.parametrize("selection", ["calibration", "validation"])
def test_the_frontier_is_judged_on_the_selection_split(costs, selection):
    table = build_learned(costs, Patience(), selection=selection, control=True)
    points = table[(table["split"] == selection) & (table["kind"] != "control")]
    for row in points.itertuples():
        beaten = (points["score"] >= row.score) & (points["flops"] <= row.flops)
        beaten &= (points["score"] > row.score) | (points["flops"] < row.flops)
        assert row.on_frontier == (not beaten.any())
    assert table.groupby(["kind", "point"])["on_frontier"].nunique().max() == 1
    assert not table.loc[table["kind"] == "control", "on_frontier"].any()


def test_what_each_kind_of_model_offers(costs):
    logits = learned().logits

    def kinds(policy, table_costs=costs, logits=logits, name="sst2"):
        labels = np.linspace(0, 5, logits.shape[1]) if name == "stsb" else learned().labels[: logits.shape[1]]
        table = build(RUN, {"calibration": trace(logits, labels)}, table_costs, policy, task(name), grid=9)
        return table["kind"].value_counts().to_dict(), table

    assert kinds(FullDepth())[0] == {"fixed_exit": 5, "static": 1}
    assert kinds(Entropy(), layers_cost(6), logits[-1:])[0] == {"static": 1}
    assert kinds(Entropy(exit_start=3))[1].query("kind == 'fixed_exit'")["exit"].tolist() == [3, 4, 5]
    values = np.random.default_rng(0).uniform(0, 5, (5, 40, 1))
    regression, table = kinds(policy_for("entropy", task("stsb").regression), logits=values, name="stsb")
    assert regression["uniform"] > 2
    assert set(table.query("kind == 'uniform'")["policy"]) == {"agreement"} and table["tolerance"].isna().all()
    close = values[:1] + np.cumsum(np.full((5, 40, 1), 0.2), axis=0)
    assert kinds(Patience(tolerance=0.1), logits=close, name="stsb")[0]["uniform"] == 1  # no example exits early
    counts, table = kinds(Patience(tolerance=0.3), logits=close, name="stsb")
    assert counts["uniform"] == 4 and set(table["tolerance"]) == {0.3}
    trace_of = trace(close, np.linspace(0, 5, 40))
    for _, point in table.query("kind == 'uniform'").iterrows():
        exits = exits_taken(point, trace_of)
        assert exits.mean() + 1 == point["mean_exit"] == min(point["threshold"] + 1, 5)
        rows = [np.asarray(layer) for layer in close]
        asked = [decision(plain(point))(rows[: e + 1], []) for e in range(4)]
        assert [e for e in range(4) if asked[e].all()][:1] == ([int(exits[0])] if exits[0] < 4 else [])
    # A cascade has two answers on a regression task and no rule to choose between them.
    members = kinds(policy_for("confidence", task("stsb").regression), layers_cost(2, 14), values[:2], "stsb")[0]
    assert members == {"fixed_exit": 2, "static": 1}


def test_hidden_labels_are_left_out_and_selection_needs_labels(costs):
    hidden = trace(learned().logits, np.full(300, -1))
    table = build_learned(costs)
    seen = build(RUN, {"calibration": learned(), "test": hidden}, costs, Entropy(), task("sst2"), grid=50)
    assert set(seen["split"]) == {"calibration"} and set(table["split"]) == {"calibration", "validation"}
    with pytest.raises(UserError, match="calibration"):
        build(RUN, {"test": hidden, "validation": learned()}, costs, Entropy(), task("sst2"), grid=50)


def test_the_constant_baseline_costs_nothing(costs):
    rows = build_learned(costs, control=True).query("kind == 'control' and split == 'validation'")
    assert rows["score"].item() == learned(split=1).labels.mean()
    assert rows["flops"].item() == rows["parameters"].item() == 0


@pytest.mark.parametrize("make", [encoder, cascade])
def test_a_recorded_model_becomes_a_table(make):
    model = make(num_labels=2)
    traces = {split: record(model, examples(30, seed), 8) for seed, split in enumerate(["calibration", "validation"])}
    table = build(RUN, traces, measure(model), Entropy(), task("sst2"), grid=20)
    static = table.query("kind == 'static' and split == 'validation'").iloc[0]
    macs = [model.exit_macs(int(n))[-1] for n in examples(30, 1).lengths]
    assert static["flops"] == pytest.approx(2 * np.mean(macs))
    assert static["mean_layers"] == model.exit_layers[-1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), max_size=12))
def test_nondominated_is_by_definition(points):
    scores, flops = [p[0] for p in points], [p[1] for p in points]
    expected = [not any(s >= a and f <= b and (s, f) != (a, b) for s, f in points) for a, b in points]
    assert nondominated(scores, flops).tolist() == expected


def test_undefined_scores_are_never_on_a_frontier():
    assert nondominated([np.nan, 0.1], [1, 2]).tolist() == [False, True]


def test_hypervolume_is_score_times_halvings():
    assert hypervolume([0.9], [50], teacher_flops=100, floor=0.5) == pytest.approx(0.4)
    assert hypervolume([0.9, 0.7, 0.6], [50, 25, 30], teacher_flops=100, floor=0.5) == pytest.approx(0.4 + 0.2)
    assert hypervolume([0.9, 0.4, np.nan], [200, 25, 25], teacher_flops=100, floor=0.5) == 0
    assert hypervolume([], [], teacher_flops=100, floor=0.5) == 0


@pytest.mark.parametrize("policy", [Entropy(exit_start=3), Patience(exit_start=3), FullDepth()], ids=str)
def test_no_point_uses_an_exit_below_the_first_allowed(costs, policy):
    table = build_learned(costs, policy, vectors=[[0.5] * 5], control=True)
    shares = np.array(table.loc[table["kind"] != "control", "exits"].tolist())
    assert (shares[:, : policy.exit_start - 1] == 0).all()
    assert (table["exit_start"] == policy.exit_start).all()


@pytest.mark.parametrize("name", ["sst2", "stsb"])
def test_points_with_a_constant_prediction_are_marked(costs, name):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 40, task(name).outputs))
    logits[1] = logits[1, :1]
    logits[2, 1:] = logits[2, :1]
    logits[2, 0] = -logits[2, 0]
    labels = rng.uniform(0, 5, 40) if name == "stsb" else rng.integers(2, size=40)
    kept = trace(logits, labels)
    table = build(RUN, {"calibration": kept}, costs, FullDepth(), task(name), grid=9, control=True)
    fixed = table[table["kind"] == "fixed_exit"].set_index("exit")["constant"]
    assert fixed.tolist() == [False, True, False, False, False]
    assert table.loc[table["kind"] == "control", "constant"].all()
