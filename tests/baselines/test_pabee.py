"""PABEE's loss and the shape of its model."""

import torch
import torch.nn.functional as F

from baselines.pabee import Pabee, PabeeOptions, weighted_loss
from bench.context import Context
from bench.encoder import Encoder, EncoderConfig
from bench.store import RunKey
from bench.tasks.catalogue import TASKS


def inputs(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = torch.arange(1, 13).reshape(3, 4)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "labels": labels,
    }


def model(labels: int) -> Encoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "max_positions": 8, "hidden_size": 16, "head_size": 8}
    layers = {"heads": [2, 2, 2], "ffn": [16, 16, 16], "exits": [1, 2, 3]}
    config = EncoderConfig(**sizes, **layers, head="pooler", num_labels=labels, initializer_range=0.3)
    return Encoder(config).eval()


def test_later_exits_weigh_more_in_the_loss():
    encoder, batch = model(labels=3), inputs(torch.tensor([0, 2, 1]))
    exits = encoder(**{key: value for key, value in batch.items() if key != "labels"}).exit_logits
    first, second, third = (F.cross_entropy(logits, batch["labels"]) for logits in exits)
    torch.testing.assert_close(weighted_loss(encoder, batch, 0.0), (first + 2 * second + 3 * third) / 6)


def test_regression_uses_the_squared_error():
    encoder, batch = model(labels=1), inputs(torch.tensor([0.5, 4.0, 2.0]))
    exits = encoder(**{key: value for key, value in batch.items() if key != "labels"}).exit_logits[..., 0]
    first, second, third = ((values - batch["labels"]).square().mean() for values in exits)
    torch.testing.assert_close(weighted_loss(encoder, batch, 0.0), (first + 2 * second + 3 * third) / 6)


def test_trains_the_whole_model_with_one_pooler_and_an_exit_a_layer(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    method = Pabee("pabee", TASKS["sst2"], PabeeOptions(epochs=0.2, learning_rate=1e-2), settings)
    context = Context(settings, TASKS["sst2"], RunKey("sst2", "pabee", "full", 0), tmp_path / "state")
    before = context.backbone("pooler", exits="all").state_dict()
    trained = method.train(context, "full")
    assert trained.config.exits == [1, 2, 3, 4]
    assert trained.dense is not None
    unmoved = {name for name, weight in trained.state_dict().items() if torch.equal(weight, before[name])}
    assert not unmoved - {"layers.0.key.bias", "layers.1.key.bias", "layers.2.key.bias", "layers.3.key.bias"}
