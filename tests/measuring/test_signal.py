"""A model that learns when to leave: its signal in traces, costs and the engine; a rule of its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.analysis import points
from bench.encoder import Cascade
from bench.encoder.cut import narrow, take_layers
from bench.encoder.early import engine
from bench.errors import UserError
from bench.exit_policies.deciding import rule
from bench.exit_policies.operating import exits_taken
from bench.exit_policies.policies import Entropy, Policy, policy_for, replay, replay_many
from bench.measuring import counting
from bench.measuring.recording import record
from bench.tasks.catalogue import task
from bench.trace import Trace
from family.exits.berxit import Certainty


@pytest.mark.parametrize("head", ["tanh", "pooler"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_engine_and_replay_decide_alike(head: str, pooling: str, outputs: int):
    model = toys.encoder(signal=True, head=head, pooling=pooling, num_labels=outputs)
    examples = toys.examples(regression=outputs == 1)
    trace, policy = record(model, examples, 8), Certainty()
    statistic = policy.statistic(trace.logits, trace.signal)
    thresholds = [*policy.thresholds(5, 3, outputs), *np.quantile(statistic, [0.2, 0.8]), np.median(statistic, axis=1)]
    assert len(set(replay(policy, statistic, thresholds[-1]))) == 3, "the toy's examples leave everywhere"
    for threshold in thresholds:
        expected = replay(policy, statistic, threshold)
        sure = expected == replay(policy, statistic, np.asarray(threshold) * (1 + 1e-6))
        for size in (1, 8, 40):
            found = engine.run(model, examples, rule(policy, threshold), size)
            np.testing.assert_array_equal(found.exits[sure], expected[sure])
            answers = trace.logits[expected, np.arange(len(examples))]
            np.testing.assert_allclose(found.logits[sure], answers[sure], atol=1e-5, rtol=1e-5)


def test_a_rule_that_reads_logits_is_not_disturbed_by_a_signal():
    model, examples, policy = toys.encoder(signal=True), toys.examples(), Entropy()
    trace = record(model, examples, 8)
    assert trace.logits.shape[-1] == 3
    expected = replay(policy, trace.logits, 0.9)
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(engine.run(model, examples, rule(policy, 0.9), 8).exits, expected)


@pytest.mark.parametrize("head", ["tanh", "pooler"])
def test_the_signal_is_counted_and_kept_by_every_cut(head: str):
    plain, model = toys.encoder(head=head), toys.encoder(head=head, signal=True)
    costs = counting.measure(model)
    assert [int(costs.macs(e, 20)) for e in range(3)] == model.exit_macs(20)
    hidden = model.config.hidden_size
    assert np.subtract(model.exit_macs(20), plain.exit_macs(20)).tolist() == [hidden, 2 * hidden, 3 * hidden]
    ids = torch.randint(1, 60, (4, 9))
    shallow = take_layers(model, [0, 1], exits=[1, 2]).eval()
    torch.testing.assert_close(shallow(ids).signals, model(ids).signals[:2])
    even = toys.encoder(head=head, signal=True, heads=[4, 4, 4])
    rows, neurons = [range(32)] * 3, [range(count) for count in even.config.ffn]
    torch.testing.assert_close(narrow(even, range(hidden), rows, rows, neurons).eval()(ids).signals, even(ids).signals)


def test_a_saved_model_has_its_signal_again(tmp_path: Path):
    model, ids = toys.encoder(signal=True), torch.randint(1, 60, (4, 9))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(type(model).from_pretrained(tmp_path)(ids).signals, model(ids).signals)
    with pytest.raises(UserError, match="without a signal"):
        Cascade.of(model, model)


@given(exits=st.integers(1, 12), count=st.integers(1, 20), outputs=st.integers(1, 3), signal=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_trace_keeps_what_there_is(tmp_path_factory, exits: int, count: int, outputs: int, signal: bool):
    rng = np.random.default_rng(exits)
    trace = toys.trace(rng.normal(size=(exits, count, outputs)))
    values = rng.normal(size=(exits, count)).astype(np.float32) if signal else None
    file = tmp_path_factory.mktemp("trace") / "trace.parquet"
    Trace(trace.idx, trace.labels, trace.lengths, None, trace.logits, values).save(file)
    loaded = Trace.load(file)
    np.testing.assert_array_equal(loaded.logits, trace.logits)
    assert (loaded.signal is None) == (values is None)
    assert values is None or np.array_equal(loaded.signal, values)


def test_points_say_where_an_own_rule_let_examples_go():
    """Whoever reads them does not need the rule's code."""
    model, examples, policy = toys.encoder(signal=True, num_labels=2), toys.examples(), Certainty()
    trace, costs = record(model, examples, 8), counting.measure(model)
    statistic = policy.statistic(trace.logits, trace.signal)
    vectors = np.quantile(statistic, [[0.2, 0.5, 0.8], [0.5, 0.5, 0.5]], axis=None).tolist()
    run, traces = points.RunName("sst2", "mine", "full", "Mine", 0), {"calibration": trace, "validation": trace}
    table = points.build(run, traces, costs, policy, task("sst2"), grid=9, vectors=vectors)
    swept = table[table["kind"].isin(["uniform", "per_exit"])]
    assert set(swept["policy"]) == {"certainty"} and set(swept["kind"]) == {"uniform", "per_exit"}
    for row in swept.to_dict("records"):
        threshold = row["thresholds"] if len(row["thresholds"]) else row["threshold"]
        np.testing.assert_array_equal(exits_taken(row, trace), replay(policy, statistic, threshold))
        np.testing.assert_array_equal(exits_taken(row, trace, policy), exits_taken(row, trace))
        shorter = toys.trace(trace.logits[:, :7])
        with pytest.raises(UserError, match="are recorded for"):
            exits_taken(row, shorter)
    for row in table[table["kind"].isin(["static", "fixed_exit"])].to_dict("records"):
        assert set(exits_taken(row, trace)) == {(row["exit"] or 3) - 1}
    assert "left" not in points.build(run, traces, costs, Entropy(), task("sst2"), grid=9)
    assert (np.diff(replay_many(policy, statistic, policy.thresholds(200, 3, 2)), axis=0) >= 0).all()


class Unnamed(Certainty):
    name = ""


class Taken(Certainty):
    name = "entropy"


class Unfinished(Policy):
    name = "unfinished"


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Unnamed, "a `name` of its own"),
        (Taken, "in use are entropy"),
        (Unfinished, "lacks decide, statistic, thresholds"),
        (object, "or a subclass of Policy"),
        ("entropie", "unknown exit policy 'entropie'"),
    ],
)
def test_what_is_no_rule_is_refused_in_a_line(policy, said: str):
    with pytest.raises(UserError, match=said):
        policy_for(policy, regression=False)


def test_an_own_rule_is_what_it_is_on_regression():
    assert policy_for(Certainty, regression=True, exit_start=2) == Certainty(2)
    assert policy_for("entropy", regression=True).name == "agreement"
