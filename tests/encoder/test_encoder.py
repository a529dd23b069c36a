"""The encoder computes what transformers' BERT computes, and a cut model what the masked one computes.

tests/encoder/test_modernbert.py compares ModernBERT's layout with transformers.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from bench.encoder import Cascade, Encoder, EncoderConfig
from bench.encoder.backbones import load
from bench.encoder.cut import cut, take_layers
from bench.encoder.shape import Shape
from bench.errors import UserError

LAYOUTS = {"bert": {}, "modernbert": {"layout": "modernbert", "type_vocab_size": 0, "windows": [None, 2, 3]}}


def small(**changes) -> Encoder:
    torch.manual_seed(0)
    values = {
        "vocab_size": 60, "max_positions": 32, "hidden_size": 32, "head_size": 8, "heads": [4] * 3, "ffn": [48] * 3,
        "exits": [1, 2, 3], "num_labels": 3, "initializer_range": 0.2,
    } | changes  # fmt: skip
    return Encoder(EncoderConfig(**values)).eval()


def batch(rows: int = 4, length: int = 9, vocabulary: int = 60) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, length + 1, (rows,), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(1, vocabulary, (rows, length), generator=generator) * mask
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(length) > 3).long() * mask,
    }


def logits(model: torch.nn.Module, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def test_equals_transformers_bert(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32, num_labels=3, initializer_range=0.2,
    )  # fmt: skip
    bert = BertForSequenceClassification(config).eval()
    bert.save_pretrained(tmp_path)
    ours = load(str(tmp_path), num_labels=3, head="pooler", pooling="cls").eval()
    ours.exit_heads[0].classifier.load_state_dict(bert.classifier.state_dict())
    torch.testing.assert_close(logits(ours, **batch()), logits(bert, **batch()), atol=1e-5, rtol=0)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in bert.parameters())


def test_equals_transformers_distilbert(tmp_path):
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=32, num_labels=3,
        initializer_range=0.2,
    )  # fmt: skip
    theirs = DistilBertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load(str(tmp_path), num_labels=3, head="distilbert", pooling="cls").eval()
    ours.dense.load_state_dict(theirs.pre_classifier.state_dict())
    ours.exit_heads[0].classifier.load_state_dict(theirs.classifier.state_dict())
    given_ = batch()
    expected = logits(theirs, input_ids=given_["input_ids"], attention_mask=given_["attention_mask"])
    torch.testing.assert_close(logits(ours, **given_), expected, atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_cut_equals_masked(data):
    layout = LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))]
    model = small(rank=data.draw(st.sampled_from([None, 8])), **layout)
    heads = [sorted(data.draw(st.sets(st.integers(0, 3), min_size=1))) for _ in range(3)]
    neurons = [sorted(data.draw(st.sets(st.integers(0, 47), min_size=1, max_size=12))) for _ in range(3)]
    masked = Encoder(model.config).eval()
    masked.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer, kept_heads, kept_neurons in zip(masked.layers, heads, neurons, strict=True):
            for head in set(range(4)) - set(kept_heads):
                layer.attention_output.weight[:, head * 8 : head * 8 + 8] = 0
            for neuron in set(range(48)) - set(kept_neurons):
                layer.ffn_out.weight[:, neuron] = 0
    smaller = cut(model, heads, neurons)
    torch.testing.assert_close(smaller(**batch()).exit_logits, masked(**batch()).exit_logits, atol=2e-5, rtol=1e-4)
    assert smaller.config.heads == [len(kept) for kept in heads]


def test_full_rank_svd_changes_nothing_and_rank_is_the_best_approximation():
    model = small()
    words = model.embeddings.words.weight.detach()
    cut8 = cut(model, rank=8)
    product = cut8.embeddings.words.weight @ cut8.embeddings.factor.weight.T
    singular = torch.linalg.svdvals(words)
    error = torch.linalg.norm(words - product)
    torch.testing.assert_close(error, singular[8:].square().sum().sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(cut(cut8, rank=8), **batch()), logits(cut8, **batch()))


@pytest.mark.parametrize("head", ["tanh", "pooler", "own-pooler", "tinybert", "distilbert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stepwise_equals_forward_and_padding_changes_nothing(head, pooling, layout):
    model, inputs = small(head=head, pooling=pooling, **LAYOUTS[layout]), batch()
    with torch.no_grad():
        whole = model(**inputs).exit_logits
        state = model.begin(**inputs)
        for exit_index in range(model.exit_count):
            state, step = model.advance(state, exit_index)
            torch.testing.assert_close(step, whole[exit_index], atol=1e-5, rtol=1e-5)
        wider = {k: torch.nn.functional.pad(v, (0, 5)) for k, v in inputs.items()}
        torch.testing.assert_close(model(**wider).exit_logits, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saves_and_loads_through_auto_model(tmp_path, layout):
    model = small(pooling="mean", **LAYOUTS[layout])
    model = cut(model, [[0, 2], [1], [0, 1, 3]], [range(10), range(20), range(5)], rank=4)
    model = take_layers(model, [1, 2], exits=[1, 2])
    model.save_pretrained(tmp_path / "encoder")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "encoder").eval()
    assert torch.equal(logits(loaded, **batch()), logits(model, **batch()))
    cascade = Cascade.of(take_layers(small(), [0]), small(exits=[3])).eval()
    cascade.save_pretrained(tmp_path / "cascade")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cascade").eval()
    assert torch.equal(again(**batch()).exit_logits, cascade(**batch()).exit_logits)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equilibrium_averages_the_gradients_of_the_exits(layout):
    model = small(dropout=0.0, attention_dropout=0.0, head_dropout=0.0, **LAYOUTS[layout])

    def gradients(exits: list[int], equilibrium: bool) -> list[torch.Tensor]:
        model.zero_grad()
        out = model(**batch(), equilibrium=equilibrium)
        assert torch.equal(out.exit_logits, model(**batch()).exit_logits)
        out.exit_logits[exits].sum((1, 2)).sum().backward()
        return [layer.ffn_in.weight.grad.clone() for layer in model.layers]

    balanced = gradients([0, 1, 2], equilibrium=True)
    plain = [gradients([e], equilibrium=False) for e in range(3)]
    for i in range(3):  # layer i gets the plain average over the exits at or above it
        expected = sum(plain[e][i] for e in range(i, 3)) / (3 - i)
        torch.testing.assert_close(balanced[i], expected, atol=1e-6, rtol=1e-4)


def test_attention_scores_are_those_before_the_softmax():
    model, inputs = small(), batch()
    out = model(**inputs, output_attention_scores=True, output_hidden_states=True)
    layer = model.layers[0]
    hidden = out.hidden_states[0]
    query, key = layer.query(hidden)[1, :, :8], layer.key(hidden)[1, :, :8]
    torch.testing.assert_close(out.attention_scores[0][1, 0], query @ key.T / 8**0.5)
    assert len(out.hidden_states) == 4 and len(out.attention_scores) == 3


def test_known_shapes():
    bert = Shape(30522, 512, 2, 768, 64, (12,) * 12, (3072,) * 12)
    assert sum(bert.layer_macs(i, 128) for i in range(12)) == 11_173_625_856
    assert bert.parameters() + 768 * 768 + 768 + 2 * 768 + 2 == 109_483_778
    costeff = EncoderConfig(heads=[2] * 12, ffn=[256] * 12, rank=128, exits=list(range(1, 13)), num_labels=2)
    with torch.device("meta"):
        assert sum(p.numel() for p in Encoder(costeff).parameters()) == 13_920_024


def test_impossible_cuts_are_refused():
    model = small()
    for arguments in (
        {"heads": [[0], [0], [9]]},
        {"heads": [[], [0], [0]]},
        {"rank": 33},
        {"neurons": [[1, 1]] * 3},
    ):
        with pytest.raises(UserError, match="cut"):
            cut(model, **arguments)
