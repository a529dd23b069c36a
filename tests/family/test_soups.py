"""Sparse Model Soups: norms, equal parts of each phase, averages, the greedy soup against all subsets in its order."""

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.context import Context
from bench.method import contestant
from bench.settings import check
from bench.store import RunKey
from family.compression.soups import averaged, greedy_soup, magnitudes, pruned

EVEN = {"heads": [4, 4, 4], "ffn": [48, 48, 48], "exits": [3]}


def test_the_units_with_the_largest_norms_are_kept():
    model = toys.encoder(**EVEN)
    small = pruned(model, 2, 20)
    for before, after in zip(model.layers, small.layers, strict=True):
        q, k, v, o, i, f = (
            getattr(before, name).weight.detach().numpy()
            for name in ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
        )
        heads = [
            np.sqrt(sum((w[8 * h : 8 * h + 8] ** 2).sum() for w in (q, k, v)) + (o[:, 8 * h : 8 * h + 8] ** 2).sum())
            for h in range(4)
        ]
        neurons = [np.sqrt((i[n] ** 2).sum() + (f[:, n] ** 2).sum()) for n in range(48)]
        for found, expected in zip(magnitudes(before), (heads, neurons), strict=True):
            np.testing.assert_allclose(found.sqrt(), expected, rtol=1e-5)
        best = sorted(np.argsort(heads)[-2:])
        rows = np.concatenate([np.arange(8 * h, 8 * h + 8) for h in best])
        np.testing.assert_array_equal(after.query.weight.detach(), q[rows])
        np.testing.assert_array_equal(after.ffn_out.weight.detach(), f[:, sorted(np.argsort(neurons)[-20:])])


def test_every_weight_is_the_mean():
    models = [toys.encoder(seed, **EVEN) for seed in range(3)]
    states = [model.state_dict() for model in models]
    for key, value in averaged(models).state_dict().items():
        expected = np.mean([state[key].double().numpy() for state in states], axis=0)
        np.testing.assert_allclose(value, expected, atol=1e-6)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_copy_enters_the_greedy_soup_if_the_score_does_not_fall(values):
    """The score of a model is the distance of one weight from 1, below 0."""
    models = []
    for value in values:
        model = toys.encoder(heads=[4], ffn=[8], exits=[1])
        torch.nn.init.constant_(model.exit_heads[0].classifier.bias, float(value))
        models.append(model)

    def scored(model):
        return -abs(model.exit_heads[0].classifier.bias[0].item() - 1)

    order = sorted(range(len(values)), key=lambda i: abs(values[i] - 1))
    taken = [values[order[0]]]
    for i in order[1:]:
        if abs(np.mean([*taken, values[i]]) - 1) <= abs(np.mean(taken) - 1) + 1e-7:
            taken.append(values[i])
    found = greedy_soup(models, scored).exit_heads[0].classifier.bias[0].item()
    assert abs(found - 1) <= abs(np.mean(taken) - 1) + 1e-5
    assert abs(found - 1) <= min(abs(value - 1) for value in values) + 1e-5


@pytest.mark.parametrize("phases", [1, 2, 3])
def test_each_phase_prunes_the_same_part_and_all_copies_are_counted(tiny_settings, tmp_path, phases):
    values = tiny_settings(tmp_path).model_dump()
    values["contestants"]["soups"]["options"] |= {"phases": phases, "keep": [0.25], "copies": 2, "epochs": 0.2}
    made = check(values, "test")
    method = contestant(made, "soups", "sst2")
    [variant] = method.variants()
    stages = method.stages(variant, 100)
    assert len(stages) == 2 * phases
    neurons = [stage.shape.ffn[0] for stage in stages[::2]]
    assert neurons == [round(96 * 0.25 ** (p / phases)) for p in range(1, phases + 1)]
    assert stages[-1].shape.heads == (1,) * 4

    class Ready(Context):
        def model(self, name, variant, task=None):
            return self.backbone("pooler").eval()

    context = Ready(made, method.task, RunKey("sst2", "soups", variant, 0), tmp_path / "state")
    assert method.train(context, variant).config.shape == stages[-1].shape
    assert len(context.trainable) == 2 * phases
