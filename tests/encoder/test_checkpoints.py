"""Checkpoints of known layouts are read bit for bit, wherever they are."""

import hashlib
import shutil
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from checkpoint_files import (
    MINILM,
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
    opened,
    own_vocabulary,
    pickled,
    refused,
    renamed,
    replaced,
    rewrite,
    same,
    sharded,
    state,
    without,
    without_base,
)
from safetensors.torch import load_file
from transformers import (
    BertForPreTraining,
    BertModel,
    DistilBertForMaskedLM,
)

from bench.context import load_model
from bench.encoder import Cascade, Encoder, EncoderConfig, backbones
from bench.encoder.checkpoints import files, layouts
from bench.encoder.masked_lm import has_head, with_head


def old_names(key: str) -> str:
    return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


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


def test_every_exit_may_start_from_a_copy_of_the_pooler(bert):
    own = backbones.load(str(bert), num_labels=2, head="own-pooler", pooling="cls", exits="all").state_dict()
    copies = [values for name, values in own.items() if name.endswith(".dense.weight")]
    assert len(copies) == 3 and all(torch.equal(copy, loaded(bert)["dense.weight"]) for copy in copies)


def test_a_missing_pooler_is_initialised_and_reported(bert):
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
def test_a_missing_checkpoint_is_named(name, said, whole, monkeypatch):
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


def test_the_sketchs_backbone_is_what_transformers_reads_and_is_checked_in_a_few_passes():
    theirs, ours = BertModel.from_pretrained(files.find(MINILM)).state_dict(), loaded(MINILM)
    layout = layouts.read(MINILM, files.find(MINILM))
    names = {f"{t}.{part}": f"{o}.{part}" for t, o, _ in layout.modules() for part in ("weight", "bias")}
    assert {names[key] for key in theirs} == {key for key in ours if not key.startswith("exit_heads.")}
    assert all(torch.equal(ours[names[key]], value) for key, value in theirs.items())
    assert not has_head(MINILM) and backbones.word_head(MINILM) is None
    words, began = backbones.tokenizer(MINILM), time.process_time()
    assert "6 layers of 384, F32, with a pooler" in backbones.check(MINILM, words=words, longest=128, pairs=True)
    checked, file = time.process_time(), files.find(MINILM) / files.WEIGHTS
    hashlib.sha256(file.read_bytes())
    assert all(values.isfinite().all() for values in load_file(file).values())
    once = time.process_time() - checked
    assert checked - began < 10 * once, "as long as ten times one hash and one look at all values"


# -- models of our own ----------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path) -> Path:
    config = EncoderConfig(vocab_size=12, max_positions=8, hidden_size=16, head_size=4, heads=[4, 2], ffn=[8, 6])
    Encoder(config).save_pretrained(tmp_path / "model")
    return tmp_path


def test_an_own_model_is_loaded_unchanged(trained, tmp_path):
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
        "broken configuration": (replaced(b"{", "config.json"), "config.json: Expecting property name"),
        "impossible configuration": (lambda folder: configure(folder, exits=[5]), "cannot be loaded"),
        "another shape": (lambda folder: configure(folder, ffn=[8, 7]), "cannot be loaded"),
        "a weight missing": (without("layers.1.query.weight"), "missing layers.1.query.weight"),
        "a head missing": (without("exit_heads.0"), "missing exit_heads.0"),
        "a weight too many": (renamed(lambda key: key.replace("layers.1.key", "layers.7.key")), "layers."),
    }.values(),
)
def test_a_damaged_own_model_is_refused(trained, change, said):
    change(trained / "model")
    refused(lambda: load_model(trained, torch.device("cpu")), str(trained / "model"), said, "run again")


def test_a_foreign_model_is_refused(trained, whole):
    shutil.rmtree(trained / "model")
    shutil.copytree(whole["bert"], trained / "model")
    refused(lambda: load_model(trained, torch.device("cpu")), "BertForSequenceClassification")
    shutil.rmtree(trained / "model")
    refused(lambda: load_model(trained, torch.device("cpu")), "no trained model")
