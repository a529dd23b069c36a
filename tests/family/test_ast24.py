"""AST: masks against all choices of 2 of 4, straight-through gradients, the loss, the times of new masks, FLOPs."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.context import Context
from bench.errors import UserError
from bench.method import contestant
from bench.settings import check
from bench.store import RunKey
from bench.tasks.batches import collate
from bench.training.targets import FrozenTeacher
from family.compression.ast24 import AstOptions, Masked, SparseLoss, densify, mask_of, nominal_speedup, sparsify

SIZES = {"heads": [4, 4, 4], "ffn": [48, 48, 48], "exits": [3]}


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 3).map(lambda n: 4 * n)),
        elements=st.floats(-9, 9, width=32),
    )
)
@settings(max_examples=50, deadline=None)
def test_of_every_four_weights_the_two_with_the_largest_sum_are_kept(weights):
    mask = mask_of(torch.from_numpy(weights)).numpy()
    assert set(mask.flat) <= {0.0, 1.0}
    for row, kept in zip(weights, mask, strict=True):
        for start in range(0, len(row), 4):
            group, own = np.abs(row[start : start + 4]), kept[start : start + 4]
            assert own.sum() == 2
            assert (group * own).sum() == max(group[list(pair)].sum() for pair in combinations(range(4), 2))


def test_the_gradient_passes_to_every_weight():
    weight = torch.randn(3, 8, requires_grad=True)
    masked = Masked(weight)
    torch.testing.assert_close(masked(weight), weight * mask_of(weight))
    slope = torch.randn(3, 8)
    (masked(weight) * slope).sum().backward()
    torch.testing.assert_close(weight.grad, slope)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.9])
def test_the_loss_and_its_gradient_are_their_formulas(outputs, progress):
    model, teacher = toys.encoder(num_labels=outputs, **SIZES), toys.encoder(5, num_labels=outputs, **SIZES)
    some, options = toys.examples(6, regression=outputs == 1), AstOptions(decay=0.5)
    batch = collate([some[i] for i in range(6)])
    masks = sparsify(model)
    frozen = FrozenTeacher(teacher, some, 1e9)
    found = SparseLoss(frozen, masks, 1000, options)(model, batch, progress)
    dense = masks[0][1]
    [slope] = torch.autograd.grad(found, [dense])
    inputs = [batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")]
    logits, target = model(*inputs).logits, teacher(*inputs).logits
    if outputs == 1:
        task = (logits[:, 0] - batch["labels"]).square().mean()
        taught = (logits - target).square().mean()
    else:
        task = F.cross_entropy(logits, batch["labels"])
        one, other = F.softmax(target / 2, dim=1), F.softmax(logits / 2, dim=1)
        taught = 4 * (one * (one / other).log()).sum(1).mean()
    plain = task / 3 + 2 / 3 * taught
    factor = 0.5 * min(1, progress / 0.25)
    others = sum(((1 - mask_of(weight)) * weight).square().sum() for _, weight in masks)
    torch.testing.assert_close(found, plain + factor / 2 * others)
    [without] = torch.autograd.grad(plain, [dense])
    torch.testing.assert_close(slope, without + factor * (1 - mask_of(dense)) * dense, atol=1e-5, rtol=1e-4)


def test_masks_change_at_the_interval_alone():
    model, some = toys.encoder(**SIZES), toys.examples(4)
    masks, batch = sparsify(model), collate([some[i] for i in range(4)])
    loss = SparseLoss(FrozenTeacher(toys.encoder(5, **SIZES), some, 1e9), masks, 95, AstOptions())
    changed = []
    for step in range(25):
        with torch.no_grad():
            masks[0][1].copy_(torch.randn_like(masks[0][1]))
        before = masks[0][0].mask.clone()
        loss(model, batch, step / 95)
        changed += [step] * (not torch.equal(before, masks[0][0].mask))
    assert changed == [0, 10, 20]


def test_the_model_is_an_ordinary_encoder_with_half_of_its_weights():
    model, some = toys.encoder(**SIZES), toys.examples(5)
    batch = collate([some[i] for i in range(5)])
    plain = model.state_dict().keys()
    sparsify(model)
    inputs = [batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")]
    before = model(*inputs).logits
    assert densify(model).state_dict().keys() == plain
    torch.testing.assert_close(model(*inputs).logits, before, atol=1e-5, rtol=1e-5)
    for layer in model.layers:
        for part in (layer.query, layer.key, layer.value, layer.attention_output, layer.ffn_in, layer.ffn_out):
            assert type(part) is torch.nn.Linear
            assert (part.weight.unflatten(1, (-1, 4)) != 0).sum(2).max() <= 2


def test_nominal_flops_are_in_the_label(tiny_settings, tmp_path):
    made = tiny_settings(tmp_path)
    method = contestant(made, "ast", "sst2")
    d, f, n = 48, 96, 128
    dense, half, attention = 4 * d * d * n + 2 * d * f * n, (4 * d * d * n + 2 * d * f * n) / 2, 2 * n * n * d
    assert nominal_speedup(method.backbone) == pytest.approx((dense + attention) / (half + attention))
    assert f"dense FLOPs, nominal {nominal_speedup(method.backbone):.2f}x fewer" in method.label("2to4")


def test_the_trained_model_is_sparse(tiny_settings, tmp_path):
    values = tiny_settings(tmp_path).model_dump()
    values["contestants"]["ast"]["options"]["epochs"] = 0.5
    made = check(values, "test")
    method = contestant(made, "ast", "sst2")

    class Ready(Context):
        def model(self, name, variant, task=None):
            return self.backbone("pooler").eval()

    model = method.train(Ready(made, method.task, RunKey("sst2", "ast", "2to4", 0), tmp_path / "state"), "2to4")
    weights = torch.cat([layer.ffn_in.weight.flatten() for layer in model.layers])
    assert (weights == 0).float().mean() == 0.5


def test_rows_that_are_not_groups_of_four_are_named(tiny_settings, tmp_path, monkeypatch):
    method = contestant(tiny_settings(tmp_path), "ast", "sst2")
    shape = toys.encoder(heads=[4, 2, 3], ffn=[48, 42, 56]).config.shape
    monkeypatch.setattr(type(method), "backbone", shape)
    with pytest.raises(UserError, match=r"rows of 4 n weights, the backbone has \[42\]"):
        method.check()
