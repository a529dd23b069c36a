"""Shared layers: the average, what is stored and counted, and the same outputs as copies of the layer."""

import pytest
import torch
import torch.nn.functional as F
import toys

from bench.encoder import Encoder, EncoderConfig
from bench.encoder.cut import cut, take_layers
from bench.encoder.early import engine
from bench.errors import UserError
from bench.exit_policies.deciding import rule
from bench.exit_policies.policies import Entropy, replay
from bench.measuring import counting
from bench.measuring.recording import record
from bench.tasks.batches import collate
from bench.training.targets import FrozenTeacher
from family.compression.shared import Distilled, averaged

EVEN = {"heads": [4, 4, 4], "ffn": [48, 48, 48]}


def test_every_weight_of_the_layer_is_the_mean_over_layers():
    model = toys.encoder(**EVEN)
    state, found = model.state_dict(), averaged(model).state_dict()
    assert {key.split(".")[1] for key in found if key.startswith("layers.")} == {"0"}
    for key, value in found.items():
        if key.startswith("layers."):
            name = key.removeprefix("layers.0.")
            value, expected = value.double(), sum(state[f"layers.{i}.{name}"].double() for i in range(3)) / 3
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
        else:
            torch.testing.assert_close(value, state[key])


@pytest.mark.parametrize("head", ["tanh", "pooler"])
def test_it_computes_what_copies_of_the_layer_compute(head, tmp_path):
    """In training's form, in the engine, and after saving; FLOPs are those of the copies, parameters of one layer."""
    model, some = averaged(toys.encoder(head=head, **EVEN)).eval(), toys.examples(20)
    copies = Encoder(EncoderConfig.from_dict(model.config.to_dict() | {"shared": False})).eval()
    state = model.state_dict()
    layer = {key.removeprefix("layers.0."): value for key, value in state.items() if key.startswith("layers.")}
    state |= {f"layers.{i}.{key}": value for i in range(3) for key, value in layer.items()}
    copies.load_state_dict(state)
    one, other = (record(each, some, 8) for each in (model, copies))
    torch.testing.assert_close(torch.from_numpy(one.logits), torch.from_numpy(other.logits))
    costs, theirs = counting.measure(model), counting.measure(copies)
    assert [costs.macs(e, 20) for e in range(3)] == [theirs.macs(e, 20) for e in range(3)]
    assert [int(costs.macs(e, 20)) for e in range(3)] == model.exit_macs(20)
    size = sum(value.numel() for value in layer.values())
    assert theirs.parameters - costs.parameters == theirs.parameters_encoder - costs.parameters_encoder == 2 * size
    for threshold in (0.5, 0.9):
        found = engine.run(model, some, rule(Entropy(), threshold), 8).exits
        assert (found == replay(Entropy(), one.logits, threshold)).all()
    model.save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path).eval()
    assert (record(again, some, 8).logits == one.logits).all()


def test_the_loss_is_its_formula():
    model, teacher = averaged(toys.encoder(**EVEN)).eval(), toys.encoder(5, exits=[3])
    some = toys.examples(6)
    batch = collate([some[i] for i in range(6)])
    found = Distilled(FrozenTeacher(teacher, some, 1e9), 0.3)(model, batch, 0.0)
    inputs = [batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")]
    target = F.softmax(teacher(*inputs).logits, dim=-1)
    expected = 0.0
    for logits in model(*inputs).exit_logits:
        log = F.log_softmax(logits, dim=-1)
        expected -= 0.3 * (target * log).sum(1).mean() + 0.7 * log[torch.arange(6), batch["labels"]].mean()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_shared_layers_are_neither_cut_alone_nor_of_two_sizes():
    model = averaged(toys.encoder(**EVEN))
    for attempt in (lambda: cut(model, [[0]] * 3), lambda: take_layers(model, [0])):
        with pytest.raises(UserError, match="share their weights"):
            attempt()
    with pytest.raises(UserError, match="the same heads and ffn"):
        averaged(toys.encoder())
