"""PABEE's loss, the shape of its model, its schedule, and how a checkpoint is chosen."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import trace

from baselines.pabee import Pabee, PabeeOptions, mean_over_patience, weighted_loss
from bench.context import Context
from bench.encoder import Encoder, EncoderConfig
from bench.exit_policies.policies import Patience
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


def test_the_rate_decays_to_0_without_warmup_and_nothing_else_decays(tiny_settings, tmp_path):
    method = Pabee("pabee", TASKS["stsb"], PabeeOptions(learning_rate=1e-3, tolerance=0.3), tiny_settings(tmp_path))
    [stage] = method.stages("full", 320)
    rates = [stage.plan.rate(step, stage.steps) for step in range(stage.steps)]
    np.testing.assert_allclose(rates, 1e-3 * (1 - np.arange(50) / 50))
    assert stage.plan.weight_decay == 0 and stage.selects
    assert method.exit_policy() == Patience(tolerance=0.3)


@pytest.mark.parametrize("task", ["sst2", "mrpc", "stsb"])
@pytest.mark.parametrize("exits", [1, 2, 6])
def test_a_checkpoint_is_scored_at_each_patience(task, exits):
    """Written out: one example after the other, for patience 1 to E - 1."""
    rng, each = np.random.default_rng(exits), TASKS[task]
    logits = rng.normal(size=(exits, 60, each.outputs))
    labels = rng.uniform(0, 5, 60).astype(np.float32) if each.regression else rng.integers(2, size=60)
    found = []
    for patience in range(1, max(2, exits)):
        answers = []
        for i in range(60):
            values = logits[:, i, 0].astype(np.float32) if each.regression else logits[:, i].argmax(-1)
            counter, answer = 0, values[-1]
            for earlier, later in pairwise(values):
                same = abs(float(later) - float(earlier)) < 0.5 if each.regression else later == earlier
                counter = counter + 1 if same else 0
                if counter == patience:
                    answer = later
                    break
            answers.append(answer)
        predicted = np.array(answers)
        if each.regression:
            found.append(np.corrcoef(predicted, labels)[0, 1])
        elif task == "mrpc":
            hits = ((predicted == 1) & (labels == 1)).sum()
            found.append(2 * hits / ((predicted == 1).sum() + (labels == 1).sum()))
        else:
            found.append((predicted == labels).mean())
    value = mean_over_patience(Patience(tolerance=0.5), each)(trace(logits, labels))
    assert value == pytest.approx(np.mean(found), abs=1e-6)
