"""Apollo: the depths that are drawn, their mean, the shared layers, growth, and the cost of training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.context import task_data
from bench.encoder.backbones import tokenizer
from bench.encoder.cut import take_layers
from bench.errors import UserError
from bench.method import contestant
from bench.runs.planning.forecast import work_of
from bench.settings import check
from bench.store import RunKey
from bench.tasks.batches import collate
from bench.training.loop import batch_schedule
from family.training.apollo import ApolloOptions, AtDepth, depth_at, logits_at, mean_depth, spread


@given(st.integers(1, 24), st.data())
@settings(deadline=None, max_examples=40)
def test_low_depths_are_drawn_more_often_and_the_mean_is_exact(layers, data):
    unique = data.draw(st.integers(1, layers))
    grid = (np.arange(2000) + 0.5) / 2000
    depths = np.array([depth_at(x, unique, layers) for x in grid])
    assert depths.min() == unique and depths.max() == layers
    assert (np.diff(depths) <= 0).all()
    counts = np.bincount(depths, minlength=layers + 1)[unique:]
    assert counts[0] == counts.max()
    assert mean_depth(unique, layers) == pytest.approx(depths.mean(), abs=0.02)


def test_the_curve_is_the_authors():
    """Written out: ratio 4, a hyperbola through 4.4 at 0 and 0.6 at 1."""
    for x in (0.0, 0.1, 0.35, 0.9):
        y = 4.4 * 0.6 / (4.4 - 0.6) / (x + 0.6 / (4.4 - 0.6))
        assert depth_at(x, 3, 12) == int(3 * min(4, max(1, y)))


@pytest.mark.parametrize(
    ("unique", "depth", "expected"), [(1, 4, [0] * 4), (3, 6, [0, 0, 1, 1, 2, 2]), (3, 4, [0, 0, 1, 2])]
)
def test_neighbours_share_weights(unique, depth, expected):
    assert spread(unique, depth) == expected


@pytest.mark.parametrize("depth", [3, 4, 5, 6])
def test_a_step_at_a_depth_is_the_model_that_has_grown_to_it(depth):
    model, some = toys.encoder(heads=[4, 4, 4], ffn=[48] * 3, exits=[3], head="pooler"), toys.examples(6)
    batch = collate([some[i] for i in range(6)])
    larger = take_layers(model, spread(3, depth)).eval()
    expected = larger(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits
    torch.testing.assert_close(logits_at(model, batch, depth), expected)


def test_the_loss_is_the_tasks_at_the_drawn_depth():
    model, some = toys.encoder(exits=[3]), toys.examples(6)
    batch = collate([some[i] for i in range(6)])
    torch.manual_seed(4)
    depth = depth_at(torch.rand(()).item(), 3, 12)
    torch.manual_seed(4)
    found = AtDepth(12)(model, batch, 0.0)
    torch.testing.assert_close(found, F.cross_entropy(logits_at(model, batch, depth), batch["labels"]))


def test_training_flops_are_those_of_the_drawn_depths(tiny_settings, tmp_path, monkeypatch):
    """Each step is counted as it is computed: layers x their multiply-adds, at the padded length of its batch."""
    made = tiny_settings(tmp_path)
    values = made.model_dump()
    values["contestants"]["apollo"]["options"] |= {"epochs": 12, "batch_size": 8}
    made = check(values, "test")
    method = contestant(made, "apollo", "sst2")
    data = task_data(made, method.task, tokenizer(made.backbone.name))
    trained, _ = work_of(made, RunKey("sst2", "apollo", "full", 0), data)
    shape, lengths = method.backbone, data.splits["train"].lengths
    rng, drawn, full = np.random.default_rng(0), 0.0, 0.0
    for stage in method.stages("full", len(lengths)):
        for rows in batch_schedule(lengths, 8, stage.steps, 0):
            layer = len(rows) * shape.layer_macs(0, int(lengths[rows].max()))
            drawn += depth_at(rng.uniform(), stage.shape.layers, 4) * layer
            full += 4 * layer
    assert trained.macs == pytest.approx(drawn, rel=0.05)
    assert trained.macs < 0.95 * full


def test_stages_that_do_not_fit_are_named(tiny_settings, tmp_path):
    values = tiny_settings(tmp_path).model_dump()
    for layers, said in (([1, 2, 6], "the last is 6; use the backbone's 4"), ([2, 1, 4], "increasing numbers")):
        values["contestants"]["apollo"]["options"]["layers"] = layers
        with pytest.raises(UserError, match=said):
            contestant(check(values, "test"), "apollo", "sst2").check()
    with pytest.raises(ValueError, match="their sum is 1"):
        ApolloOptions(parts=[0.5, 0.5, 0.5])
