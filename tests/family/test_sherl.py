"""SHERL: weights of the side module written out with loops, what trains, what is counted, saved and run."""

import numpy as np
import pytest
import torch
import toys

from bench.context import Context
from bench.encoder.early import engine
from bench.encoder.saved import load_model
from bench.errors import UserError
from bench.exit_policies.deciding import never
from bench.measuring import counting
from bench.measuring.recording import record
from bench.method import contestant
from bench.settings import check
from bench.store import RunKey
from bench.tasks.batches import collate
from family.training.sherl import Side, with_side

EVEN = {"heads": [4, 2, 3], "ffn": [48, 40, 56], "exits": [3], "head": "pooler"}


def test_the_side_module_is_its_formula():
    torch.manual_seed(0)
    side = Side(4, 6, 5, 0.0, 1e-12).double().eval()
    torch.nn.init.constant_(side.gate, 0.03)
    states = [torch.randn(2, 3, 6, dtype=torch.double) for _ in range(4)]
    found = side(states).detach().numpy()

    def norm(values, layer):
        centred = values - values.mean()
        return centred / np.sqrt((centred**2).mean()) * layer.weight.detach().numpy() + layer.bias.detach().numpy()

    def linear(values, layer):
        return layer.weight.detach().numpy() @ values + layer.bias.detach().numpy()

    for b, p in np.ndindex(2, 3):
        *features, guide = [
            norm(linear(state[b, p].numpy(), down[0]), down[1]) for state, down in zip(states, side.down, strict=True)
        ]
        raw = []
        for one in features:
            cosines = [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in features]
            raw.append(max(0.0, linear(one * guide, side.attention)[0]) / sum(max(0.0, each) for each in cosines))
        total = sum(raw)
        summed = guide + (sum(a / total * x for a, x in zip(raw, features, strict=True)) if total > 0 else 0)
        expected = norm(linear(np.maximum(summed, 0), side.up[1]), side.up[2]) + np.tanh(0.3) * states[-1][b, p].numpy()
        np.testing.assert_allclose(found[b, p], expected, atol=1e-9)


def test_weights_are_not_negative_and_sum_to_one_or_are_all_zero():
    side = Side(6, 8, 7, 0.0, 1e-12)
    weights = side.weights(torch.randn(50, 5, 7), torch.randn(50, 1, 7)).squeeze(-1)
    sums = weights.sum(-1)
    assert weights.min() >= 0
    assert (torch.isclose(sums, torch.ones(50)) | (sums == 0)).all() and (sums > 0.5).any()


def test_the_saved_model_and_the_engine_compute_the_same_and_costs_are_counted(tmp_path):
    model, some = with_side(toys.encoder(**EVEN), 2).eval(), toys.examples(20)
    trace = record(model, some, 8).logits
    model.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path, torch.device("cpu"))
    assert (record(again, some, 8).logits == trace).all()
    np.testing.assert_allclose(engine.run(model, some, never, 1).logits, trace[-1], atol=1e-5)
    costs = counting.measure(model)
    assert [int(costs.macs(0, n)) for n in (1, 20)] == [model.exit_macs(n)[0] for n in (1, 20)]


def test_only_side_module_and_exit_change_and_they_are_the_trained_parameters(tiny_settings, tmp_path):
    values = tiny_settings(tmp_path).model_dump()
    values["contestants"]["sherl"]["options"]["epochs"] = 0.3
    made = check(values, "test")
    method = contestant(made, "sherl", "sst2")
    context = Context(made, method.task, RunKey("sst2", "sherl", "full", 0), tmp_path / "state")
    before = with_side(context.backbone("pooler"), 2).state_dict()
    model = method.train(context, "full")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith(("embeddings.", "layers.")) for name in changed)
    sizes = {name: part.numel() for name, part in model.named_parameters()}
    assert context.trainable == [sum(n for key, n in sizes.items() if not key.startswith(("embeddings.", "layers.")))]


def test_the_cost_of_a_step_has_the_side_module(tiny_settings, tmp_path):
    made = tiny_settings(tmp_path)
    method = contestant(made, "sherl", "sst2")
    context = Context(made, method.task, RunKey("sst2", "sherl", "full", 0), tmp_path / "state")
    model = with_side(context.backbone("pooler"), method.options.factor)
    (stage,) = method.stages("full", 100)
    layers, hidden = method.backbone.layers, method.backbone.hidden
    (first, _) = model.side.down[0]
    side = (stage.depth - (layers - 1) / 3 - 2 / 3) * method.backbone.layer_macs(0, 1)
    assert side == pytest.approx(model.side.macs() - layers * hidden * first.out_features / 3)


def test_no_gradient_is_kept_for_the_layers_below_the_last():
    model, some = with_side(toys.encoder(**EVEN), 2), toys.examples(4)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("embeddings.", "layers.")))
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output[0].requires_grad))
    batch = collate([some[i] for i in range(4)])
    model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    assert seen == [False, False, True]


@pytest.mark.parametrize(("name", "layers"), [("sherl", 1), ("deebert", 1), ("fpabee", 2)])
def test_too_few_layers_for_a_method_are_refused(tiny_settings, tmp_path, name, layers):
    values = tiny_settings(tmp_path).model_dump() | {"studies": []}
    values["contestants"]["fpabee"]["options"]["patience"] = 1
    for count in (layers, layers + 1):
        backbone = values["backbone"] | {"layers": count}
        method = contestant(check(values | {"backbone": backbone}, "test"), name, "sst2")
        if count == layers:
            with pytest.raises(UserError, match=f"contestants.{name}: "):
                method.check()
        else:
            method.check()


def test_a_side_module_of_size_one_is_refused(tiny_settings, tmp_path):
    values = tiny_settings(tmp_path).model_dump()
    hidden = contestant(check(values, "test"), "sherl", "sst2").backbone.hidden
    for factor, refused in ((hidden // 2, False), (hidden, True)):
        values["contestants"]["sherl"]["options"]["factor"] = factor
        method = contestant(check(values, "test"), "sherl", "sst2")
        if refused:
            with pytest.raises(UserError, match=f"factor: {factor} .* at most {hidden // 2}"):
                method.check()
        else:
            method.check()


def test_a_patience_beyond_the_layers_is_refused(tiny_settings, tmp_path):
    values = tiny_settings(tmp_path).model_dump()
    values["contestants"]["fpabee"]["options"]["patience"] = 50
    with pytest.raises(UserError, match=r"contestants.fpabee.options.patience: 50"):
        contestant(check(values, "test"), "fpabee", "sst2").check()
