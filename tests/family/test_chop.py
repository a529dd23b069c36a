"""CHOP-style removal: which layers stay, the masked-word loss, and both kinds of backbone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM

from bench.conformance.backbone import make_backbone
from bench.context import Context
from bench.encoder.cut import take_layers
from bench.encoder.masked_lm import MaskedLM
from bench.errors import UserError
from bench.method import contestant
from bench.settings import check
from bench.store import RunKey
from bench.tasks.batches import collate
from bench.training.loop import Plan
from family.compression.chop import KEPT, MaskedWords


@pytest.mark.parametrize(
    ("which", "kept"),
    [("first", [3, 4, 5]), ("last", [0, 1, 2]), ("middle", [0, 4, 5]), ("even", [0, 2, 4])],
)
def test_the_layers_that_stay_of_six(which, kept):
    assert KEPT[which](6, 6 - len(kept)) == kept


@given(st.sampled_from(sorted(KEPT)), st.integers(2, 24), st.data())
@settings(deadline=None)
def test_every_choice_removes_the_named_layers(which, layers, data):
    removed = data.draw(st.integers(1, layers - 1))
    kept = KEPT[which](layers, removed)
    assert kept == sorted(set(kept)) and len(kept) == layers - removed and set(kept) <= set(range(layers))
    gone = np.setdiff1d(np.arange(layers), kept)
    if which == "middle":  # as many layers below as above, but for one
        assert gone[-1] - gone[0] == removed - 1 and abs(gone[0] - (layers - 1 - gone[-1])) <= 1
    if which == "even" and len(gone) > 1:
        assert np.ptp(np.diff(gone)) <= 1


def test_the_rate_decays_as_a_cosine():
    plan = Plan(1, 2e-3, warmup=0.1, schedule="cosine")
    rates = [plan.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([2e-3 * step / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([1e-3 * (1 + np.cos(np.pi * (step - 10) / 90)) for step in range(10, 100)])


def test_the_loss_is_the_cross_entropy_of_the_masked_words():
    torch.manual_seed(1)
    model = MaskedLM(toys.encoder(), torch.nn.Linear(32, 32), torch.randn(60)).eval()
    some = toys.examples(8)
    batch = collate([some[i] for i in range(8)])
    torch.manual_seed(3)
    found = MaskedWords(59, (0, 1, 2))(model, batch, 0.0)
    real = batch["attention_mask"].bool()
    torch.manual_seed(3)
    odds = torch.ones(60).index_fill(0, torch.tensor([0, 1, 2]), 0.0)
    weights = (odds[batch["input_ids"]] * real).flatten()
    chosen = torch.zeros(weights.shape, dtype=torch.bool)
    chosen[torch.multinomial(weights, int(np.ceil(0.15 * int(real.sum()))))] = True
    chosen = chosen.view_as(real)
    fate, drawn = torch.rand(real.shape), torch.randint(60, real.shape)
    seen = torch.where(chosen & (fate < 0.8), 59, batch["input_ids"])
    seen = torch.where(chosen & (fate >= 0.9), drawn, seen)
    states = model.encoder(seen, batch["attention_mask"], batch["token_type_ids"], output_hidden_states=True)
    logits = model.transform(states.hidden_states[-1]) @ model.encoder.embeddings.words.weight.T + model.bias
    torch.testing.assert_close(found, F.cross_entropy(logits[chosen], batch["input_ids"][chosen]))


def test_a_backbone_with_a_head_is_pretrained_further(tiny_settings, tmp_path):
    """The weights of a layer and of the word embedding move in the first stage; the label states it."""
    plain = tiny_settings(tmp_path)
    assert "no further pretraining" in contestant(plain, "chop", "sst2").label("even-2")
    folder = make_backbone(tmp_path / "with-head")
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    values = plain.model_dump() | {"backbone": {"name": str(folder), "pooling": "mean"}}
    values["contestants"]["chop"]["options"] |= {"pretrain_epochs": 0.3, "pretrain_rate": 1e-3, "epochs": 0.1}
    made = check(values, "test")
    method = contestant(made, "chop", "sst2")
    assert "no further pretraining" not in method.label("even-2")
    context = Context(made, method.task, RunKey("sst2", "chop", "even-2", 0), tmp_path / "state")
    seen = []

    class Watched(Context):
        def fit(self, model, loss, plan, stage, **rest):
            before = {name: value.clone() for name, value in model.state_dict().items()}
            done = super().fit(model, loss, plan, stage, **rest)
            moved = [name for name, value in done.state_dict().items() if not torch.equal(value, before[name])]
            seen.append((stage, plan.step_count(len(self.train)), moved))
            return done

    model = method.train(Watched(made, method.task, context.key, context.state), "even-2")
    start = take_layers(context.backbone("pooler"), [1, 3])
    assert model.config.shape == start.config.shape and len(model.layers) == 2
    told = method.stages("even-2", len(context.train))
    assert [(stage, steps) for stage, steps, _ in seen] == list(
        zip(("pretrain", "finetune"), (each.steps for each in told), strict=True)
    )
    assert {"encoder.embeddings.words.weight", "encoder.layers.0.query.weight", "bias"} <= set(seen[0][2])
    assert not any("exit_heads" in name for name in seen[0][2])


@pytest.mark.parametrize(
    ("remove", "said"),
    [
        ({"top": [1]}, "'top' is unknown; use first, last, middle, even"),
        ({"even": [4]}, r"remove\.even: 4 of 4 layers"),
    ],
)
def test_impossible_removals_are_named(tiny_settings, tmp_path, remove, said):
    values = tiny_settings(tmp_path).model_dump()
    values["contestants"]["chop"]["options"]["remove"] = remove
    with pytest.raises(UserError, match=said):
        contestant(check(values, "test"), "chop", "sst2").check()
