"""`backbone.layers`: the first layers of a checkpoint, as if it had no others."""

import pytest
import torch

from bench.context import Context
from bench.encoder import backbones
from bench.errors import UserError
from bench.method import contestant
from bench.runs.identity import Identities
from bench.store import RunKey

KEY = RunKey("sst2", "teacher", "full", 0)


def with_layers(tiny_settings, folder, layers):
    return tiny_settings(folder, backbone={"layers": layers})


def test_they_are_the_first_layers_of_the_checkpoint(tiny_settings, tiny_backbone, tmp_path):
    """Hidden states after k layers are those of the whole backbone, and shape and costs are those of k layers."""
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    whole = backbones.load(str(tiny_backbone), num_labels=2, head="tanh", pooling="mean", exits="all").eval()
    after = whole(ids, torch.ones_like(ids), output_hidden_states=True).hidden_states
    identities = set()
    for layers in (1, 2, 3, 4, None):
        settings = with_layers(tiny_settings, tmp_path, layers)
        method = contestant(settings, "teacher", "sst2")
        model = Context(settings, method.task, KEY, tmp_path).backbone("tanh", "all").eval()
        depth = layers or 4
        assert method.backbone == model.config.shape == whole.config.shape.truncated(depth)
        found = model(ids, torch.ones_like(ids), output_hidden_states=True).hidden_states
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, after, strict=False))
        assert len(found) == depth + 1
        identities.add(Identities(settings).of(KEY).hash)
    assert len(identities) == 5


@pytest.mark.parametrize("layers", [5, 100])
def test_more_layers_than_there_are_is_one_line(layers, tiny_settings, tiny_backbone, tmp_path):
    settings = with_layers(tiny_settings, tmp_path, layers)
    with pytest.raises(UserError, match=f"backbone.layers: {layers}, but checkpoint .* has 4 layers") as caught:
        _ = contestant(settings, "teacher", "sst2").backbone
    assert "\n" not in str(caught.value)
