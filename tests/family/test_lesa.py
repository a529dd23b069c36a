"""LESA: where new layers stand, the common SVD, the loss, and layers that a predictor can reproduce."""

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from bench.context import Context
from bench.errors import UserError
from bench.method import contestant
from bench.settings import check
from bench.store import RunKey
from family.training import lesa
from family.training.lesa import grown, places, predicted, slice_loss

EVEN = {"heads": [4, 4, 4, 4], "ffn": [48] * 4, "exits": [4]}


@given(st.integers(3, 24), st.data())
@settings(deadline=None)
def test_old_layers_keep_their_order_and_new_ones_stand_between_the_last_pairs(layers, data):
    depth = data.draw(st.integers(layers + 1, 2 * layers - 1))
    order = places(layers, depth)
    assert len(order) == depth
    assert [layer for layer, new in order if not new] == list(range(layers))
    assert [layer for layer, new in order if new] == list(range(2 * layers - depth - 1, layers - 1))
    assert all(order[i - 1] == (layer, False) for i, (layer, new) in enumerate(order) if new)


def test_a_new_matrix_is_u_s_times_a_slice_predicted_from_both_neighbours(monkeypatch):
    """The predictor is replaced by the mean of its two inputs, which gives the mean of the neighbours' matrices."""
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(6, 5)) for _ in range(4)]
    seen = {}

    def mean(predictor, inputs, targets, updates):
        seen.update(inputs=inputs, targets=targets)
        predictor.forward = lambda values: (values[:, :5] + values[:, 5:]) / 2

    monkeypatch.setattr(lesa, "learn", mean)
    made = predicted([torch.from_numpy(each) for each in matrices], [1, 2], 1)
    for found, i in zip(made, (1, 2), strict=True):
        np.testing.assert_allclose(found, (matrices[i] + matrices[i + 1]) / 2, atol=1e-10)
    left, singular, right = np.linalg.svd(np.concatenate(matrices, axis=1), full_matrices=False)
    slices = np.split(right, 4, axis=1)
    for i, matrix in enumerate(matrices):
        np.testing.assert_allclose(left @ np.diag(singular) @ slices[i], matrix, atol=1e-10)
    for window, (below, target, above) in enumerate([slices[:3], slices[1:]]):
        rows = slice(6 * window, 6 * window + 6)
        signs = np.sign((seen["targets"][rows].numpy() * target).sum(1, keepdims=True))  # of a singular vector: either
        np.testing.assert_allclose(seen["targets"][rows], signs * target, atol=1e-8)
        np.testing.assert_allclose(seen["inputs"][rows], signs * np.concatenate([below, above], axis=1), atol=1e-8)


def test_the_loss_is_its_formula():
    found, target = torch.randn(7, 5, dtype=torch.double), torch.randn(7, 5, dtype=torch.double)
    error = ((found - target) ** 2).sum() / 35
    norms = ((found**2).sum() ** 0.5 - (target**2).sum() ** 0.5) ** 2
    torch.testing.assert_close(slice_loss(found, target), 0.9995 * error + 0.0005 * norms)


def test_the_predictor_learns():
    torch.manual_seed(0)
    slices = torch.randn(2000, 4)
    inputs = torch.cat([slices - 0.1, slices + 0.1], dim=1)
    predictor = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    before = slice_loss(predictor(inputs), slices).item()
    lesa.learn(predictor, inputs, slices, 1)
    assert slice_loss(predictor(inputs), slices).item() < 0.2 * before


def test_a_new_matrix_is_not_of_low_rank():
    """Six matrices that have nothing in common, such as those of a small encoder; with 10 epochs the rank is 1."""
    torch.manual_seed(0)
    matrices = [torch.randn(64, 64) for _ in range(6)]
    [made] = predicted(matrices, [3], 4800)
    energy = torch.linalg.svdvals(made).square()
    share = energy / energy.sum()
    assert torch.exp(-(share * share.log()).sum()) > 10  # effective rank


@given(st.integers(1, 20_000), st.integers(1, 10_000))
def test_a_predictor_has_at_least_the_updates_asked_for(rows, updates):
    passes, batches = lesa.passes(rows, updates), -(-rows // lesa.ROWS)
    assert passes * batches >= updates and (passes == 10 or passes * batches < updates + batches)


def test_old_layers_and_everything_else_are_unchanged_and_biases_are_means():
    model = toys.encoder(**EVEN)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    larger = grown(model, 6, 0, 1)
    assert larger.config.exits == [6] and len(larger.layers) == 6
    before, after = model.state_dict(), larger.state_dict()
    assert places(4, 6) == [(0, False), (1, False), (1, True), (2, False), (2, True), (3, False)]
    old = {0: 0, 1: 1, 2: 3, 3: 5}
    for name, value in before.items():
        if not name.startswith("layers."):
            assert torch.equal(after[name], value), name
        else:
            _, number, rest = name.split(".", 2)
            assert torch.equal(after[f"layers.{old[int(number)]}.{rest}"], value), name
    for new, below in ((2, 1), (4, 2)):
        for part in ("query.bias", "ffn_norm.weight"):
            mean = (before[f"layers.{below}.{part}"] + before[f"layers.{below + 1}.{part}"]) / 2
            torch.testing.assert_close(after[f"layers.{new}.{part}"], mean)
        assert after[f"layers.{new}.query.weight"].norm() > 0
    assert all(torch.equal(value, after[name]) for name, value in grown(model, 6, 0, 1).state_dict().items())


def test_depths_that_cannot_be_grown_are_named(tiny_settings, tmp_path):
    values = tiny_settings(tmp_path).model_dump()
    for depth in (4, 8):
        values["contestants"]["lesa"]["options"]["depths"] = [depth]
        with pytest.raises(UserError, match=rf"lesa\.options\.depths: {depth} from a backbone of 4; use 5 to 7"):
            contestant(check(values, "test"), "lesa", "sst2").check()


def test_the_stage_has_the_shape_of_the_model(tiny_settings, tmp_path):
    made = tiny_settings(tmp_path)
    method = contestant(made, "lesa", "sst2")
    context = Context(made, method.task, RunKey("sst2", "lesa", "depth6", 0), tmp_path)
    [stage] = method.stages("depth6", 100)
    model = context.backbone("pooler")
    with FlopCounterMode(display=False) as counted:
        larger = grown(model, 6, 0, 1)
    assert stage.shape == larger.config.shape
    # A step has the passes forward and backward to the weights, and backward to the inputs but for the first layer.
    assert 0.8 * counted.get_total_flops() < 6 * stage.other_macs < 1.4 * counted.get_total_flops()
