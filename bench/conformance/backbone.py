"""Create a tiny encoder with random weights in either layout, which needs no network and no checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from bench.encoder.shape import LayoutName
from bench.tasks.catalogue import TASKS
from bench.tasks.sketch.generator import generate


def sketch_words() -> dict[str, int]:
    """Return a vocabulary of the words in the generated data of the sketch profile."""
    words = sorted({word for text in _texts() for word in text.lower().split()})
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return {entry: number for number, entry in enumerate(entries)}


def make_backbone(folder: Path, layout: LayoutName = "bert") -> Path:
    """Write a random encoder with 4 layers, hidden size 48 and 4 heads, and its tokenizer; return `folder`."""
    return _bert(folder) if layout == "bert" else _modernbert(folder)


def _texts() -> list[str]:
    return [
        row[column]
        for task in TASKS.values()
        for split in ("train", *task.validation_splits)
        for row in generate(task.name, split, 200, 0)
        for column in task.columns
    ]


def _bert(folder: Path) -> Path:
    vocabulary = sketch_words()
    BertTokenizer(vocab=vocabulary, do_lower_case=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def _modernbert(folder: Path) -> Path:
    """Write a ModernBERT with its masked-word head and a byte-level BPE, whose special tokens follow the others."""
    marks = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, show_progress=False, initial_alphabet=letters)
    bpe.train_from_iterator(_texts(), trainer)
    bpe.add_special_tokens(list(marks.values()))
    ids = {name: bpe.token_to_id(mark) for name, mark in marks.items()}
    bpe.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(marks[name], ids[name]) for name in ("cls_token", "sep_token")],
    )
    PreTrainedTokenizerFast(tokenizer_object=bpe, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=bpe.get_vocab_size() + 3,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
        global_attn_every_n_layers=3,
        local_attention=8,
        pad_token_id=ids["pad_token"],
        cls_token_id=ids["cls_token"],
        sep_token_id=ids["sep_token"],
        bos_token_id=None,
        eos_token_id=None,
    )
    ModernBertForMaskedLM(config).save_pretrained(folder)
    return folder
