"""The engine makes the decisions of the replay, and computes only the layers and rows that they need."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import cascade, encoder, examples

from bench.encoder.early.deployed import Batch, Pass, deploy
from bench.encoder.early.engine import answer, run
from bench.errors import UserError
from bench.exit_policies.deciding import rule
from bench.exit_policies.policies import Agreement, Confidence, Entropy, FullDepth, Patience, Policy, replay
from bench.measuring import latency
from bench.measuring.latency import Operated, measure
from bench.measuring.recording import record
from bench.tasks.batches import length_batches

POLICIES = [
    Entropy(),
    Confidence(),
    Patience(),
    FullDepth(),
    Entropy(exit_start=2),
    Patience(exit_start=2),
    Agreement(),
]


FIVE = {"heads": [4] * 5, "ffn": [40] * 5, "exits": [1, 2, 3, 4, 5]}


def thresholds(policy: Policy, logits: np.ndarray) -> list:
    """Numbers and vectors that part the examples, between the statistics and not on one, and both ends."""
    exits, _, outputs = logits.shape
    ends = policy.thresholds(5, exits, outputs)[[0, -1]]
    if policy.name in ("patience", "none"):
        return [*ends]
    values = np.sort(policy.statistic(logits)[policy.earliest :], axis=None)
    gaps = np.flatnonzero(np.diff(values) > 1e-4)
    between = [(values[i] + values[i + 1]) / 2 for i in gaps[[len(gaps) // 4, len(gaps) // 2, 3 * len(gaps) // 4]]]
    return [*ends, *between, [*between, *between][:exits]]


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("kind", ["encoder", "mean", "cascade", "static", "modernbert"])
def test_the_engine_agrees_with_the_replay(kind, policy, batch_size):
    outputs = 1 if policy.name == "agreement" else 3
    make = {
        "encoder": lambda: encoder(num_labels=outputs, head="pooler", **FIVE),
        "mean": lambda: encoder(
            num_labels=outputs, pooling="mean", heads=[4] * 4, ffn=[30] * 4, exits=[1, 2, 4], rank=9
        ),
        "cascade": lambda: cascade(num_labels=outputs),
        "static": lambda: encoder(num_labels=outputs, exits=[3]),
        "modernbert": lambda: encoder(num_labels=outputs, layout="modernbert", pooling="mean", **FIVE),
    }
    model, data = make[kind](), examples(45)
    trace = record(model, data, 16)
    parted = set()
    able = policy.earliest < model.exit_count - 1
    for threshold in thresholds(policy, trace.logits) if able else [np.nan]:
        expected = replay(policy, trace.logits, threshold)
        result = run(model, data, rule(policy, threshold), batch_size)
        np.testing.assert_array_equal(result.exits, expected)
        answers = trace.logits[expected, np.arange(len(data))]
        np.testing.assert_allclose(result.logits, answers, atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(result.logits.argmax(-1), answers.argmax(-1))
        parted |= set(expected.tolist())
    if able and policy.name != "none":
        assert len(parted) > 1, "no threshold parted the examples: the test shows nothing"


def test_rows_that_have_exited_are_not_computed_and_padding_shrinks(monkeypatch):
    model, data = encoder(), examples(60)
    statistic = Entropy().statistic(record(model, data, 32).logits)
    threshold = np.median(statistic[0]) + 1e-6
    # Only short examples stay beyond the first exit.
    data = data.take(np.flatnonzero((statistic[0] < threshold) | (data.lengths <= 12))[:32])
    shapes = []
    attend = Pass._attend

    def spy(self, projected):
        assert len(projected) == self.rows * self.width
        shapes.append((self.rows, self.width))
        return attend(self, projected)

    monkeypatch.setattr(Pass, "_attend", spy)
    exits = run(model, data, rule(Entropy(), threshold), 32).exits
    assert shapes == [((exits >= e).sum(), data.lengths[exits >= e].max()) for e in range(exits.max() + 1)]
    assert shapes[1][0] < shapes[0][0] and shapes[1][1] <= 12 < shapes[0][1]


def test_early_exit_computes_fewer_layers(monkeypatch):
    """Of twelve, one where all examples exit first, and all where none does before the last."""
    computed, attend = [], Pass._attend
    monkeypatch.setattr(Pass, "_attend", lambda self, projected: computed.append(self) or attend(self, projected))
    deep = {"heads": [4] * 12, "ffn": [64] * 12, "exits": list(range(1, 13))}
    model, reference = deploy(encoder(**deep)), deploy(encoder(**deep | {"exits": [12]}))
    all_exit, none_exit = rule(Entropy(), np.inf), rule(Entropy(), -1.0)
    for batch_size, batches in ((1, 16), (32, 1)):
        for one, depth in ((Operated(reference), 12), (Operated(model, all_exit), 1), (Operated(model, none_exit), 12)):
            computed.clear()
            [timing] = measure([one], examples(16), batch_size=batch_size, rounds=5, seed=0)
            # Without early exit once before the rounds; in each round one example that is not timed, and the batches.
            assert len(computed) == 12 + 5 * (1 + batches) * depth
            assert timing.seconds.shape == (5,) and 0 < timing.slow <= timing.seconds.max()


def test_every_round_has_an_order_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(latency, "answer", lambda model, batch, leaves: asked.append((leaves, len(batch.lengths))))
    marks = [lambda seen, i=i: seen for i in range(5)]
    model = deploy(encoder())
    measure([Operated(model, mark) for mark in marks], examples(3), batch_size=1, rounds=6, seed=0)
    passes = [marks.index(leaves) for leaves, _ in asked[1:]]
    order = [passes[i] for i in range(0, len(passes), 4)]  # one example to warm up, three that are timed
    assert all(passes[i : i + 4] == [one] * 4 for i, one in zip(range(0, len(passes), 4), order, strict=True))
    rounds = [tuple(order[i : i + 5]) for i in range(0, 30, 5)]
    assert all(sorted(each) == [0, 1, 2, 3, 4] for each in rounds) and len(set(rounds)) > 3


def test_latency_needs_something_to_time():
    model = Operated(deploy(encoder()))
    with pytest.raises(UserError, match="0 rounds"):
        measure([model], examples(4), batch_size=1, rounds=0, seed=0)
    with pytest.raises(UserError, match="0 examples"):
        measure([model], examples(4).take([]), batch_size=1, rounds=1, seed=0)
    elsewhere = Operated(deploy(encoder().to(torch.device("meta"))))
    with pytest.raises(UserError, match="cpu and meta"):
        measure([model, elsewhere], examples(4), batch_size=1, rounds=1, seed=0)


@given(seed=st.integers(0, 10_000), batch_size=st.integers(1, 12), count=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_models_with_random_weights_exit_at_the_given_exits(seed, batch_size, count):
    model, data = deploy(encoder(**FIVE)), examples(count, seed)
    left = np.random.default_rng(seed).integers(0, 5, count)
    asked = []
    one = Operated(model, lambda seen, signals: asked.append(len(seen[0])) or np.ones(len(seen[0]), dtype=bool), left)
    for _ in range(2):  # every pass begins anew
        for positions in length_batches(data.lengths, batch_size, None):
            with torch.inference_mode():
                exits, _ = answer(model, Batch.of(data, positions, torch.device("cpu")), one.policy(positions))
            assert exits.tolist() == left[positions].tolist()
    assert sum(asked) == 2 * np.minimum(left + 1, 4).sum()  # one decision for each remaining example
