"""Costs: fvcore's count is the closed form, exactly, and what it cannot count it refuses."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import cascade, encoder

from bench.errors import UserError
from bench.measuring.counting import measure
from bench.trace import Costs


@st.composite
def shapes(draw) -> dict:
    layers = draw(st.integers(1, 4))
    below = draw(st.sets(st.integers(1, layers - 1))) if layers > 1 else set()
    layout = draw(st.sampled_from(["bert", "modernbert"]))
    return {
        "layout": layout,
        "hidden_size": draw(st.integers(3, 40)),
        "head_size": draw(st.integers(1, 9) if layout == "bert" else st.sampled_from([2, 4, 6])),
        "heads": draw(st.lists(st.integers(1, 5), min_size=layers, max_size=layers)),
        "ffn": draw(st.lists(st.integers(1, 50), min_size=layers, max_size=layers)),
        "rank": draw(st.none() | st.integers(1, 20)),
        "exits": sorted(below | {layers}),
        "head": draw(st.sampled_from(["tanh", "pooler", "own-pooler", "tinybert", "distilbert"])),
        "pooling": draw(st.sampled_from(["cls", "mean"])),
        "num_labels": draw(st.integers(1, 4)),
        "type_vocab_size": draw(st.sampled_from([0, 2] if layout == "bert" else [0])),
    }


@settings(max_examples=25, deadline=None)
@given(shapes(), st.integers(1, 600))
def test_the_count_is_the_closed_form(shape, length):
    model = encoder(**shape)
    costs = measure(model)
    heads = [p.numel() for name, p in model.named_parameters() if name.startswith(("exit_heads.", "dense."))]
    assert costs.parameters == model.config.shape.parameters() + sum(heads)
    assert [int(costs.macs(e, length)) for e in range(model.exit_count)] == model.exit_macs(length)
    assert list(costs.layers) == shape["exits"]
    assert costs.parameters == sum(p.numel() for p in model.parameters())
    assert costs.parameters_encoder == costs.parameters - sum(p.numel() for p in model.embeddings.parameters())


def test_a_cascade_costs_the_sum_of_the_members_that_run():
    model = cascade(rank=5)
    costs = measure(model)
    small, big = (measure(member) for member in model.members)
    assert [int(costs.macs(e, 77)) for e in (0, 1)] == model.exit_macs(77)
    assert costs.macs(1, 77) == small.macs(0, 77) + big.macs(0, 77)
    assert costs.layers == (1, 4)
    assert costs.parameters_encoder == small.parameters_encoder + big.parameters_encoder


def test_bert_base_costs_what_is_published():
    """22.35 G FLOPs at length 128, attention's own products included, and 109.48 M parameters."""
    base = {"vocab_size": 30522, "max_positions": 512, "hidden_size": 768, "head_size": 64, "num_labels": 2}
    model = encoder(**base, heads=[12] * 12, ffn=[3072] * 12, exits=[12], head="pooler")
    costs = measure(model)
    assert costs.flops(128)[0] / 1e9 == pytest.approx(22.35, abs=0.005)
    assert costs.parameters / 1e6 == pytest.approx(109.48, abs=0.005)


class Einsum(nn.Linear):
    def forward(self, values):
        return torch.einsum("bd,cd->bc", values, self.weight) + self.bias


class Cubic(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, ids, types):
        square = ids.transpose(0, 1).float() @ ids.float()  # [n, n]
        return self.inner(ids, types) + (square @ square).sum() * 0


def test_products_that_cannot_be_counted_are_an_error():
    model = encoder()
    model.exit_heads[1].classifier = Einsum(32, 3)
    with pytest.raises(UserError, match="aten::einsum"):
        measure(model)


def test_a_cost_that_is_not_quadratic_is_an_error():
    model = encoder()
    model.embeddings = Cubic(model.embeddings)
    with pytest.raises(UserError, match="quadratic"):
        measure(model)


def test_measuring_leaves_the_model_as_it_was():
    model = encoder().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_costs_survive_the_disk_exactly(tmp_path):
    odd = Costs(
        10,
        5,
        (1, 3),
        ((Fraction(0), Fraction(1, 2), Fraction(1, 2)), (Fraction(2**53 + 1), Fraction(7), Fraction(3))),
    )
    for costs in (odd, measure(encoder())):
        costs.save(tmp_path / "costs.json")
        assert Costs.load(tmp_path / "costs.json") == costs
    assert "multiply-adds of matrix products" in (tmp_path / "costs.json").read_text()
    assert odd.macs(0, [1, 2, 3]).tolist() == [1, 3, 6]
    assert odd.macs(1, [0]).tolist() == [2**53 + 1]


@pytest.mark.parametrize("content", [None, "", "{}", '{"convention": "other"}', "[]"])
def test_unreadable_costs_are_named(tmp_path, content):
    path = tmp_path / "costs.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"costs\.json"):
        Costs.load(path)
