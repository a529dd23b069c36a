"""DeeBERT: the loss of the exits, and what the second stage leaves as it is."""

import torch
import torch.nn.functional as F
import toys

from bench.context import Context
from bench.store import RunKey
from bench.tasks.batches import collate
from bench.tasks.catalogue import TASKS
from family.exits.deebert import DeeBert, DeeBertOptions, early_exits


def test_the_loss_of_the_exits_leaves_out_the_last():
    model, some = toys.encoder(), toys.examples(6)
    batch = collate([some[i] for i in range(6)])
    exits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).exit_logits
    expected = sum(F.cross_entropy(logits, batch["labels"]) for logits in exits[:2])
    torch.testing.assert_close(early_exits(model, batch, 0.0), expected)


def test_the_second_stage_moves_the_early_exits_alone(tiny_settings, tmp_path):
    made = tiny_settings(tmp_path)
    states = []

    class Watched(Context):
        def fit(self, model, *given, **rest):
            done = super().fit(model, *given, **rest)
            states.append({name: value.clone() for name, value in done.state_dict().items()})
            return done

    method = DeeBert("deebert", TASKS["sst2"], DeeBertOptions(epochs=0.2, exit_epochs=0.2, learning_rate=1e-2), made)
    context = Watched(made, TASKS["sst2"], RunKey("sst2", "deebert", "full", 0), tmp_path / "state")
    method.train(context, "full")
    first, second = states
    moved = {name for name, value in second.items() if not torch.equal(value, first[name])}
    layers = ("classifier", "dense")
    assert moved == {
        f"exit_heads.{e}.{layer}.{part}" for e in range(3) for layer in layers for part in ("weight", "bias")
    }
    start = context.backbone("own-pooler", exits="all").state_dict()
    assert all(torch.equal(first[name], start[name]) for name in moved), "the first stage trains the last exit alone"
