"""ModernBERT's layout: checkpoints are read as transformers reads them, and cut as BERT's are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertForSequenceClassification, ModernBertModel

from bench.conformance.backbone import make_backbone
from bench.encoder import Encoder, EncoderConfig, backbones
from bench.encoder.cut import cut, narrow, take_layers
from bench.encoder.layers.attention import attention_bias
from bench.encoder.masked_lm import has_head, with_head
from bench.errors import UserError
from bench.method import contestant
from bench.runs.planning.checks import size_of

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "global_attn_every_n_layers": 2,
    "local_attention": 6,
    "initializer_range": 0.2,
    "pad_token_id": 57,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}


def written(folder: Path, kind: Any = ModernBertForMaskedLM, **changes: Any) -> Any:
    """Write a random checkpoint whose norms are not 1, and return transformers' model."""
    torch.manual_seed(0)
    model = kind(ModernBertConfig(**SMALL | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def loaded(folder: Path, **changes: Any) -> Encoder:
    given_ = {"num_labels": 3, "head": "tanh", "pooling": "mean", "exits": "all"} | changes
    return backbones.load(str(folder), **given_).eval()


def texts(lengths: list[int], vocabulary: int = 57) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(3, vocabulary, mask.shape, generator=generator) * mask, "attention_mask": mask}


def assert_same_states(model: Encoder, theirs: ModernBertModel, lengths: list[int]) -> None:
    """What an exit reads after each layer is the final norm of transformers' hidden state there."""
    inputs = texts(lengths)
    real = inputs["attention_mask"].bool()
    ends: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, output: ends.append(output)) for layer in theirs.layers]
    with torch.no_grad():
        last, expected = theirs(**inputs).last_hidden_state, [theirs.final_norm(end) for end in ends]
        embedded = theirs.embeddings(inputs["input_ids"])
        found = model(**inputs, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found[-1][real], last[real], atol=1e-5, rtol=0)
    for ours, other in zip(found, [embedded, *expected], strict=True):
        torch.testing.assert_close(ours[real], other[real], atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    layers=st.integers(1, 5),
    every=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4, 8]),
    ffn=st.integers(1, 40),
    local=st.integers(1, 12),
    thetas=st.tuples(st.sampled_from([50.0, 160_000.0]), st.sampled_from([20.0, 10_000.0])),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_equals_transformers(tmp_path_factory, layers, every, heads, ffn, local, thetas, lengths):
    folder = tmp_path_factory.mktemp("a folder")
    theirs = written(
        folder, ModernBertModel, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=ffn,
        global_attn_every_n_layers=every, local_attention=local, global_rope_theta=thetas[0],
        local_rope_theta=thetas[1],
    )  # fmt: skip
    model = loaded(folder)
    assert_same_states(model, theirs, lengths)
    heads_of_exits = sum(parameter.numel() for parameter in model.exit_heads.parameters())
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(p.numel() for p in model.parameters()) - heads_of_exits == parameters == model.config.shape.parameters()


def test_windows_and_positions_matter(tmp_path):
    """The comparison with transformers would notice another window, another theta, or none."""
    written(tmp_path)
    model, inputs = loaded(tmp_path), texts([30])
    with torch.no_grad():
        expected = model(**inputs).logits
        for change in ({"windows": [None] * 4}, {"windows": [None, 2, None, 2]}, {"thetas": [10_000.0] * 4}):
            other = Encoder(EncoderConfig.from_dict(model.config.to_dict() | change)).eval()
            other.load_state_dict(model.state_dict())
            assert (other(**inputs).logits - expected).abs().max() > 1e-3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(0, 22), st.integers(0, 4))
def test_tokens_read_the_tokens_in_their_window_and_all_positions_read_something(lengths, window, padding):
    mask = (torch.arange(max(lengths) + padding) < torch.tensor(lengths)[:, None]).long()
    bias = attention_bias(mask, torch.float32, window)
    places = torch.arange(mask.shape[1])
    near = (places[:, None] - places).abs() <= window
    expected = (near & mask.bool()[:, None]).broadcast_to(len(lengths), *near.shape)
    read = torch.ones_like(expected) if bias is None else (bias == 0)[:, 0].broadcast_to(expected.shape)
    real = mask.bool()
    assert torch.equal(read[real], expected[real]) and read.any(-1).all()


def test_attention_scores_are_those_of_transformers(tmp_path):
    written(tmp_path)
    theirs = ModernBertModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    model, inputs = loaded(tmp_path), texts([20, 9])
    seen = model._attention_inputs(inputs["attention_mask"], torch.float32)
    with torch.no_grad():
        expected = theirs(**inputs, output_attentions=True).attentions
        found = model(**inputs, output_attention_scores=True).attention_scores
    for scores, layer, weights in zip(found, seen, expected, strict=True):
        for row, length in enumerate([20, 9]):
            ours = (scores if layer.bias is None else scores + layer.bias).softmax(-1)[row, :, :length]
            torch.testing.assert_close(ours, weights[row, :, :length], atol=1e-5, rtol=0)


def test_the_word_head_is_transformers_own_and_a_classifier_has_none(tmp_path):
    theirs = written(tmp_path / "words")
    model = with_head(loaded(tmp_path / "words"), str(tmp_path / "words")).eval()
    inputs = texts([12])
    with torch.no_grad():
        found = model.words(model(**inputs, token_type_ids=None))
        torch.testing.assert_close(found, theirs(**inputs).logits, atol=1e-5, rtol=0)
    written(tmp_path / "classes", ModernBertForSequenceClassification)
    assert loaded(tmp_path / "classes") and not has_head(str(tmp_path / "classes"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file({name: value.contiguous() for name, value in change(load_file(file)).items()}, file)


def configure(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; a value of `...` removes the key."""
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def as_before_transformers_5(folder: Path) -> None:
    """As on the Hub: thetas of their own and every k-th layer, and keys that do not concern the encoder."""
    configure(
        folder, layer_types=..., rope_parameters=..., global_rope_theta=160_000.0, local_rope_theta=10_000.0,
        position_embedding_type="sans_pos", layer_norm_eps=1e-5, tie_word_embeddings=True, torch_dtype="float32",
    )  # fmt: skip


WRAPPINGS: dict[str, Callable[[Path], None]] = {
    "as before transformers 5": as_before_transformers_5,
    "the encoder alone": lambda folder: rewrite(
        folder, lambda t: {k.removeprefix("model."): v for k, v in t.items() if k.startswith("model.")}
    ),
    "module.": lambda folder: rewrite(folder, lambda t: {f"module.{k}": v for k, v in t.items()}),
    "with its tied matrix": lambda folder: rewrite(
        folder, lambda t: t | {"decoder.weight": t["model.embeddings.tok_embeddings.weight"].clone()}
    ),
    "no optional keys": lambda folder: configure(folder, norm_eps=..., mlp_dropout=..., hidden_activation=...),
}


@pytest.mark.parametrize("change", WRAPPINGS.values(), ids=WRAPPINGS)
def test_other_wrappings_of_the_same_weights_are_read_alike(tmp_path, change):
    written(tmp_path)
    torch.manual_seed(0)
    before = loaded(tmp_path)
    change(tmp_path)
    torch.manual_seed(0)
    after = loaded(tmp_path)
    assert after.config.to_dict() == before.config.to_dict()
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in after.state_dict().items())


FAULTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    **{
        f"{key} = {value}": (lambda folder, key=key, value=value: configure(folder, **{key: value}), (key,))
        for key, value in {
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "classifier_bias": True,
            "rope_scaling": {"type": "yarn"},
            "embedding_dropout": 0.1,
            "classifier_activation": "silu",
            "local_attention": 0,
            "layer_types": ["full_attention"],
            "rope_parameters": {"full_attention": 3},
            "intermediate_size": 25,
        }.items()
    },
    "no pairs": (lambda folder: configure(folder, num_attention_heads=32), ("num_attention_heads = 32", "even")),
    "old: a theta as text": (
        lambda folder: configure(folder, rope_parameters=..., local_rope_theta="10000"),
        ("local_rope_theta",),
    ),
    "old: every layer of none": (lambda folder: configure(folder, global_attn_every_n_layers=0), ("every_n_layers",)),
    "a norm gone": (
        lambda folder: rewrite(folder, lambda t: {k: v for k, v in t.items() if "final_norm" not in k}),
        ("model.final_norm.weight is missing",),
    ),
    "a norm too many": (
        lambda folder: rewrite(folder, lambda t: t | {"model.layers.0.attn_norm.weight": torch.ones(32)}),
        ("model.layers.0.attn_norm.weight", "ignored"),
    ),
    "a bias": (
        lambda folder: rewrite(folder, lambda t: t | {"model.layers.1.mlp.Wo.bias": torch.ones(32)}),
        ("model.layers.1.mlp.Wo.bias", "ignored"),
    ),
    "a layer gone": (
        lambda folder: rewrite(folder, lambda t: {k: v for k, v in t.items() if "layers.3." not in k}),
        ("num_hidden_layers = 4", "3 layers"),
    ),
    "a narrow matrix": (
        lambda folder: rewrite(folder, lambda t: t | {"model.layers.2.attn.Wqkv.weight": torch.ones(95, 32)}),
        ("Wqkv", "[96, 32]", "3 x hidden_size 96"),
    ),
    "BERT's weights": (
        lambda folder: rewrite(folder, lambda t: {k.replace("tok_", "word_"): v for k, v in t.items()}),
        ("tok_embeddings", "modernbert's layout"),
    ),
}


@pytest.mark.parametrize(("change", "said"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_read_is_one_line(tmp_path, change, said):
    written(tmp_path)
    change(tmp_path)
    with pytest.raises(UserError) as caught:
        loaded(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert all(part in str(caught.value) for part in said), str(caught.value)


@settings(max_examples=20, deadline=None)
@given(kept=st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
def test_layers_that_are_taken_compute_what_they_did(kept):
    torch.manual_seed(0)
    config = EncoderConfig(
        layout="modernbert", vocab_size=60, hidden_size=32, head_size=8, heads=[4, 2, 3, 1], ffn=[20, 9, 30, 5],
        type_vocab_size=0, windows=[None, 2, 3, None], thetas=[50.0, 20.0, 30.0, 50.0], initializer_range=0.3,
        exits=[1, 2, 3, 4],
    )  # fmt: skip
    model, inputs = Encoder(config).eval(), texts([15, 7])
    taken = take_layers(model, kept, exits=range(1, len(kept) + 1))
    assert taken.config.shape.parameters() + sum(p.numel() for p in taken.exit_heads.parameters()) == sum(
        p.numel() for p in taken.parameters()
    )
    with torch.no_grad():
        hidden = model.embeddings(inputs["input_ids"], None)
        seen = model._attention_inputs(inputs["attention_mask"], hidden.dtype)
        states = taken(**inputs, output_hidden_states=True).hidden_states
        for layer, state in zip(kept, states[1:], strict=True):
            hidden, _ = model.layers[layer](hidden, seen[layer])
            torch.testing.assert_close(state, model.final_norm(hidden), atol=1e-6, rtol=1e-6)


def test_first_layers_and_factors_of_a_checkpoint(tmp_path):
    """The first k layers are transformers' first k layers, and at full rank a factorised embedding changes nothing."""
    theirs = written(tmp_path)
    model = take_layers(loaded(tmp_path), [0, 1])
    theirs.model.layers = theirs.model.layers[:2]
    assert_same_states(model, theirs.model, [30, 4])
    factorised = cut(model, rank=32)
    assert factorised.config.rank is None  # of full rank: one matrix is smaller than two factors
    assert torch.equal(factorised(**texts([9])).logits, model(**texts([9])).logits)
    with pytest.raises(UserError, match="rotary"):
        narrow(model, range(16), [range(16)] * 2, [range(16)] * 2, [range(8)] * 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 7, "num_attention_heads": 4},  # Ettin, 17m
        {},  # ModernBERT-base
    ],
)
def test_published_shapes(changes):
    config = ModernBertConfig(**changes)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in ModernBertModel(config).parameters())
    facts = size_of(
        layers=config.num_hidden_layers, hidden=config.hidden_size, heads=config.num_attention_heads,
        ffn=config.intermediate_size, rank=None, classes=2, length=128, head_size=64, vocabulary=config.vocab_size,
        positions=config.max_position_embeddings, pooler=False, layout="modernbert",
    )  # fmt: skip
    exit_heads = config.num_hidden_layers * (2 * config.hidden_size + 2)
    assert facts["parameters"] == parameters + exit_heads
    d, f, n = config.hidden_size, config.intermediate_size, 128
    assert facts["layers_macs"] == config.num_hidden_layers * (4 * d * d * n + 3 * d * f * n + 2 * n * n * d)


def test_configurations_that_do_not_fit_are_refused():
    for arguments, said in (
        ({"layout": "gpt"}, "bert or modernbert"),
        ({"layout": "modernbert"}, "segments"),
        ({"layout": "modernbert", "type_vocab_size": 0, "head_size": 9}, "even"),
        ({"layout": "modernbert", "type_vocab_size": 0, "windows": [3]}, "one for each of 12 layers"),
        ({"windows": [3] * 12}, "BERT's none"),
    ):
        with pytest.raises(UserError, match=said):
            EncoderConfig(**arguments)
    with pytest.raises(UserError, match="--head-size 9"):
        size_of(
            layers=2, hidden=18, heads=2, ffn=8, rank=None, classes=2, length=8, head_size=9, vocabulary=60,
            positions=16, pooler=False, layout="modernbert",
        )  # fmt: skip


def test_methods_for_berts_layout_refuse_it_before_training(tiny_settings, tmp_path):
    backbone = make_backbone(tmp_path / "modern", "modernbert")
    whole = tiny_settings(tmp_path / "results", backbone={"name": str(backbone)})
    for_bert = {"tinybert", "kcm", "shared", "lesa", "apollo", "smile", "arithmetic", "ast", "sherl", "soups"}
    for name in set(whole.contestants):
        if name not in for_bert:
            contestant(whole, name, "sst2").check()
            continue
        with pytest.raises(UserError, match=rf"contestants\.{name}: .* has modernbert's layout"):
            contestant(whole, name, "sst2").check()


def test_the_checkpoint_of_the_conformance_checks_is_as_on_the_hub(tmp_path):
    """A BPE whose padding is not id 0, special tokens after the words, and more rows than tokens."""
    folder = make_backbone(tmp_path / "a folder", "modernbert")
    words = backbones.tokenizer(str(folder))
    shape = backbones.shape_of(str(folder))
    assert words.pad_token_id > 1000 and shape.vocabulary > len(words)
    assert "4 layers of 48, F32, without a pooler" in backbones.check(str(folder), words=words, longest=512, pairs=True)
    encoded = words("tea at noon", "a film", return_token_type_ids=True)
    assert encoded["input_ids"][0] == words.cls_token_id and set(encoded["token_type_ids"]) == {0, 1}
    configure(shutil.copytree(folder, tmp_path / "other"), pad_token_id=0)
    with pytest.raises(UserError, match=f"pads with {words.pad_token_id}"):
        backbones.check(str(tmp_path / "other"), words=words, longest=512, pairs=True)
