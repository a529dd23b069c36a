"""BERxiT's loss against its formula, step by step."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys

from bench.tasks.batches import collate
from family.exits.berxit import Alternating, Certainty


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_odd_steps_train_the_last_exit_and_even_ones_all_exits_beside_the_certainty(step, outputs):
    model = toys.encoder(signal=True, num_labels=outputs)
    some = toys.examples(6, regression=outputs == 1)
    batch = collate([some[i] for i in range(6)])
    found = Alternating(4)(model, batch, step / 4)
    output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    labels = batch["labels"]
    expected = torch.zeros(())
    for e, logits in enumerate(output.exit_logits):
        if outputs == 1:
            values = logits[:, 0]
            loss, target = F.mse_loss(values, labels.float()), 1 - torch.tanh((values - labels).abs())
        else:
            loss, target = F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float()
        certainty = (torch.sigmoid(output.signals[e]) - target.detach()).square().mean()
        expected = expected + certainty / 3
        if step % 2 or e == 2:
            expected = expected + loss
    torch.testing.assert_close(found, expected)


def test_thresholds_resolve_certainties_wherever_they_are():
    """For regression they are around 0.4, for classification around 0.9."""
    thresholds = Certainty().thresholds(200, 6, 1)
    assert thresholds[0] == 0 and thresholds[-1] == 1 and len(thresholds) == 200
    assert np.diff(thresholds).max() < 0.0051
