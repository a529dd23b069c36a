"""The checkpoints that config/paper.yaml names, small and random, in a cache of the Hub: names, layouts and commits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, BertTokenizer, DistilBertConfig, DistilBertForMaskedLM

from bench.conformance.backbone import sketch_words

PAPER = Path(__file__).parents[1] / "config" / "paper.yaml"
HIDDEN, HEADS, FFN, POSITIONS = 48, 12, 192, 128


def checkpoints(text: str = PAPER.read_text()) -> dict[str, str]:
    """Hub id -> commit of every checkpoint that the profile names; of those without a pin a made-up one."""
    named = re.findall(r"(?:name|checkpoint|small): ([\w.-]+/[\w.-]+)(?:@([0-9a-f]{40}))?", text)
    return {name: commit or "0" * 40 for name, commit in named}


def fill(cache: Path) -> None:
    """Writes them all into `cache` (HF_HUB_CACHE), as `hf download` would have."""
    words = sketch_words()
    for number, (name, commit) in enumerate(checkpoints().items()):
        torch.manual_seed(number)
        place = cache / f"models--{name.replace('/', '--')}"
        folder = place / "snapshots" / commit
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        KINDS[name](folder, len(words))
        BertTokenizer(vocab=words, do_lower_case=True).save_pretrained(folder)


def _bert(folder: Path, words: int, layers: int = 12, hidden: int = HIDDEN, ffn: int = FFN) -> None:
    config = BertConfig(
        vocab_size=words, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=HEADS,
        intermediate_size=ffn, max_position_embeddings=POSITIONS,
    )  # fmt: skip
    BertForPreTraining(config).save_pretrained(folder)


def _as_converted_from_tensorflow(folder: Path, words: int) -> None:
    """BERT-base: the LayerNorms' weights have their old names."""
    _bert(folder, words)
    file = folder / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {re.sub("|".join(old), lambda found: old[found[0]], key): value for key, value in load_file(file).items()}
    save_file(renamed, file)


def _distilbert(folder: Path, words: int) -> None:
    config = DistilBertConfig(
        vocab_size=words, dim=HIDDEN, n_layers=6, n_heads=HEADS, hidden_dim=FFN, max_position_embeddings=POSITIONS
    )
    DistilBertForMaskedLM(config).save_pretrained(folder)


def _pickled(folder: Path, words: int, layers: int, hidden: int, ffn: int, fits: int = 0) -> None:
    """One PyTorch file, a configuration without its model type; TinyBERT's has maps to its teacher."""
    _bert(folder, words, layers, hidden, ffn)
    tensors = load_file(folder / "model.safetensors")
    for i in range(fits):
        tensors |= {f"fit_denses.{i}.weight": torch.zeros(HIDDEN, hidden), f"fit_denses.{i}.bias": torch.zeros(HIDDEN)}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k not in ("model_type", "architectures")})
    )


KINDS: dict[str, Callable[[Path, int], None]] = {
    "google-bert/bert-base-uncased": _as_converted_from_tensorflow,
    "distilbert/distilbert-base-uncased": _distilbert,
    "huawei-noah/TinyBERT_General_4L_312D": lambda folder, words: _pickled(folder, words, 4, 24, 96, fits=5),
    "huawei-noah/TinyBERT_General_6L_768D": lambda folder, words: _pickled(folder, words, 6, HIDDEN, FFN, fits=7),
    "google/bert_uncased_L-2_H-768_A-12": lambda folder, words: _pickled(folder, words, 2, HIDDEN, FFN),
}
