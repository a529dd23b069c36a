"""Any fault of a checkpoint is refused in one line that names the checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import (
    POINTER,
    WORDS,
    Change,
    Tensors,
    changed,
    configure,
    cut_short,
    key_of,
    kind_of,
    loaded,
    no_vocabulary,
    opened,
    own_vocabulary,
    pickled,
    refused,
    renamed,
    replaced,
    rewrite,
    sharded,
    state,
    without,
    without_base,
)
from safetensors.torch import save_file

from bench.encoder import backbones
from bench.encoder.checkpoints import files


def moved(file: str) -> Change:
    return lambda folder: (folder / files.WEIGHTS).rename(folder / file) and None


def with_value(part: str, make: Callable[[torch.Tensor], torch.Tensor], end: str = "weight") -> Change:
    """Replace the values of the first weight whose name contains `part`."""

    def change(tensors: Tensors) -> None:
        key = key_of(tensors, part, end)
        tensors[key] = make(tensors[key].clone())

    return changed(change)


def first_as(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: values.index_fill(0, torch.tensor([0]), value)


def twice(tensors: Tensors) -> None:
    key = key_of(tensors, "embeddings.LayerNorm")
    tensors[key.replace("weight", "gamma")] = tensors[key].clone()


def two_encoders(tensors: Tensors) -> Tensors:
    return {f"{side}.{key}": value.clone() for key, value in tensors.items() for side in ("left", "right")}


def shard_gone(folder: Path) -> None:
    sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def index_of(content: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / files.WEIGHTS).unlink()
        (folder / files.INDEX).write_text(json.dumps(content))

    return change


class Harmful:
    """An object whose pickle runs code."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def pickle_of(content: Callable[[Path], Any]) -> Change:
    def change(folder: Path) -> None:
        torch.save(content(folder), folder / files.PICKLED)
        (folder / files.WEIGHTS).unlink()

    return change


def bin_cut_short(folder: Path) -> None:
    pickled(folder)
    cut_short(folder, files.PICKLED)


SPOILED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "cut short": (cut_short, ("model.safetensors", "cut short")),
    "Git-LFS pointer": (replaced(POINTER), ("model.safetensors", "git lfs pull")),
    "empty": (replaced(b""), ("model.safetensors", "empty")),
    "web page": (replaced(b"<!DOCTYPE html><html>sign in</html>"), ("model.safetensors", "web page")),
    "noise": (replaced(bytes(range(256)) * 9), ("model.safetensors", "damaged")),
    "no weights": (lambda folder: (folder / files.WEIGHTS).unlink(), ("model.safetensors", "pytorch_model.bin")),
    "TensorFlow": (moved("tf_model.h5"), ("tf_model.h5", "convert")),
    "an adapter": (moved("adapter_model.safetensors"), ("adapter_model.safetensors", "convert")),
    "a pickle that runs": (
        pickle_of(lambda folder: {"weight": Harmful()}),
        ("pytorch_model.bin", "not a PyTorch file of weights alone"),
    ),
    "a trainer's file": (
        pickle_of(lambda folder: {"state_dict": state(folder), "epoch": 3}),
        ("pytorch_model.bin", "state_dict"),
    ),
    "a bin cut short": (bin_cut_short, ("pytorch_model.bin",)),
    "a shard gone": (shard_gone, ("model-00002-of-00002.safetensors", "index")),
    "a shard's weight gone": (lambda folder: sharded(folder, "layer.1"), ("layer.1", "index", "it is not there")),
    "an index of nothing": (index_of({"weight_map": {}}), ("weight_map",)),
    "an index that is a list": (index_of([1]), ("list",)),
    "an index out of the folder": (index_of({"weight_map": {"a": "../x.safetensors"}}), ("../x.safetensors",)),
    "a layer removed": (without("layer.1."), ("layer.1.", "missing")),
    "the last layer removed": (without("layer.2."), ("layers = 3", "2 layers")),
    "a bias removed": (without("layer.0.attention.output.LayerNorm.bias"), ("LayerNorm.bias", "missing")),
    "no words": (without("word_embeddings"), ("word_embeddings.weight",)),
    "nothing at all": (lambda folder: save_file({}, folder / files.WEIGHTS), ("word_embeddings.weight", "nothing")),
    "another layout": (renamed(lambda key: key.replace("layer.", "blocks.")), ("layers = 3", "0 layers")),
    "RoBERTa's prefix": (renamed(lambda key: f"roberta.{without_base(key)}"), ("roberta.", "unlike those of")),
    "a weight too many": (changed(lambda t: t | {"lora.down": torch.ones(2)}), ("lora.down", "ignored")),
    "two of a name": (changed(twice), ("LayerNorm.gamma", "LayerNorm.weight", "same weight")),
    "two encoders": (changed(two_encoders), ("2 encoders", "left.", "right.")),
    "words resized": (
        with_value("word_embeddings", lambda words: torch.cat([words, words[:2]])),
        ("word_embeddings.weight", "[14, 16]", "vocab_size 12"),
    ),
    "a narrow matrix": (with_value("layer.2.", lambda values: values[..., :-1]), ("layer.2.", "in config.json")),
    "nan": (with_value("layer.1.", first_as(float("nan"))), ("layer.1.", "nan")),
    "infinite": (with_value("layer.1.", first_as(float("inf"))), ("layer.1.", "infinite")),
    "zeros": (with_value("layer.2.", torch.zeros_like), ("layer.2.", "zeros")),
    "int8": (with_value("layer.0.", lambda values: values.to(torch.int8)), ("layer.0.", "I8", "quantised")),
}


@pytest.mark.parametrize(("change", "said"), SPOILED.values(), ids=SPOILED)
def test_spoiled_weights_are_refused_by_check_and_by_load(checkpoint, change, said, capsys):
    if kind_of(checkpoint) == "distilbert" and "LayerNorm.bias" in said:
        said = ("missing", "sa_layer_norm.bias")
        change = without("layer.0.sa_layer_norm.bias")
    words = backbones.tokenizer(str(checkpoint))
    change(checkpoint)
    for act in (lambda: opened(checkpoint, words), lambda: loaded(checkpoint)):
        refused(act, str(checkpoint), *said)
    assert "run" not in capsys.readouterr().out


CONFIGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "another model": ({"model_type": "roberta"}, ("model_type = 'roberta'", "distilbert and modernbert")),
    "a model of nothing": ({"model_type": ["bert"]}, ("model_type",)),
    "no hidden size": ({"hidden_size": ...}, ("no hidden_size",)),
    "no heads": ({"num_attention_heads": ...}, ("no num_attention_heads",)),
    "text for a number": ({"hidden_size": "16"}, ("hidden_size = '16'", "whole number")),
    "heads that do not divide": ({"num_attention_heads": 3}, ("hidden_size = 16", "num_attention_heads, 3")),
    "no layer": ({"num_hidden_layers": 0}, ("num_hidden_layers = 0",)),
    "a billion layers": ({"num_hidden_layers": 10**9}, ("num_hidden_layers",)),
    "fewer layers": ({"num_hidden_layers": 2}, ("num_hidden_layers = 2", "3 layers")),
    "a larger vocabulary": ({"vocab_size": 13}, ("word_embeddings", "vocab_size 13")),
    "another FFN": ({"intermediate_size": 32}, ("intermediate.dense", "intermediate_size 32")),
    "more positions": ({"max_position_embeddings": 64}, ("position_embeddings", "max_position_embeddings 64")),
    "other segments": ({"type_vocab_size": 1}, ("token_type_embeddings", "type_vocab_size 1")),
    "no such activation": ({"hidden_act": "wavy"}, ("hidden_act = 'wavy'",)),
    "dropout as text": ({"hidden_dropout_prob": "0.1"}, ("hidden_dropout_prob = '0.1'",)),
    "dropout of one": ({"attention_probs_dropout_prob": 1.0}, ("attention_probs_dropout_prob = 1.0",)),
    "relative positions": ({"position_embedding_type": "relative_key"}, ("position_embedding_type",)),
    "a decoder": ({"is_decoder": True}, ("is_decoder",)),
    "padding outside": ({"pad_token_id": 99}, ("pad_token_id = 99", "vocab_size, 12")),
    "padding as text": ({"pad_token_id": "[PAD]"}, ("pad_token_id",)),
}


@pytest.mark.parametrize(("change", "said"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_that_cannot_be_is_refused(bert, change, said):
    words = backbones.tokenizer(str(bert))
    configure(bert, **change)
    for act in (lambda: opened(bert, words), lambda: loaded(bert)):
        refused(act, str(bert), *said)


@pytest.mark.parametrize("content", [b"", b'{"model_type": ', b"[]", b"\xff\xfe", POINTER])
def test_a_broken_configuration_is_refused(bert, content):
    (bert / "config.json").write_bytes(content)
    refused(lambda: backbones.shape_of(str(bert)), str(bert), "config.json")


@pytest.mark.parametrize(
    ("change", "said"),
    {
        "none": (no_vocabulary, "no tokenizer"),
        "empty": (replaced(b"", "tokenizer.json"), "empty"),
        "pointer": (replaced(POINTER, "tokenizer.json"), "git lfs"),
        "broken": (replaced(b'{"model": ', "tokenizer.json"), "not valid JSON"),
        "no words": (replaced(b'{"model": {}}', "tokenizer.json"), "model.vocab"),
        "half": (
            replaced(b'{"model": {"type": "WordPiece", "vocab": {"a": 0}}}', "tokenizer.json"),
            "cannot be loaded",
        ),
        "settings": (replaced(b"{", "tokenizer_config.json"), "cannot be loaded"),
        "not text": (lambda folder: own_vocabulary(folder, b"\xff\xfe\x00"), "UTF-8"),
        "no marks": (lambda f: own_vocabulary(f, ["a", "b"]), "has no [CLS]"),
    }.values(),
)
def test_a_tokenizer_that_is_not_there_or_broken_is_refused(bert, change, said):
    change(bert)
    refused(lambda: backbones.tokenizer(str(bert)), str(bert), said)


def test_a_student_is_fed_ids_of_its_own_vocabulary(whole, checkpoint):
    words = backbones.tokenizer(str(whole["bert"]))
    own_vocabulary(checkpoint, WORDS)
    assert opened(checkpoint, words)
    own_vocabulary(checkpoint, [*WORDS, "more"])
    assert opened(checkpoint, words)
    own_vocabulary(checkpoint, [*WORDS[:5], "b", "a", *WORDS[7:]])
    refused(lambda: opened(checkpoint, words), "'a' is 6 in one and 5", "2 tokens differ")
    own_vocabulary(checkpoint, WORDS[:-1])
    refused(lambda: opened(checkpoint, words), "'##e' is unknown")
    no_vocabulary(checkpoint)
    assert opened(checkpoint, words)


def test_what_the_benchmark_feeds_must_fit(bert):
    words = backbones.tokenizer(str(bert))
    refused(lambda: opened(bert, words, longest=33), "data.max_length", "33", "32 positions")
    configure(bert, pad_token_id=5)
    refused(lambda: opened(bert, words), "pad_token_id = 5", "write 0")
    configure(bert, pad_token_id=0)
    words.add_tokens(["one", "two", "three"])
    refused(lambda: opened(bert, words), "12 rows", "'three'")
    key = "bert.embeddings.token_type_embeddings.weight"
    rewrite(bert, lambda tensors: tensors | {key: tensors[key][:1].clone()})
    configure(bert, type_vocab_size=1)
    plain = backbones.tokenizer(str(bert))
    refused(lambda: opened(bert, plain), "type_vocab_size = 1", "2 segments")
    assert opened(bert, plain, pairs=False)
