"""Create a tiny encoder with random weights, which needs no network and no checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from bench.tasks.catalogue import TASKS
from bench.tasks.sketch.generator import generate


def sketch_words() -> dict[str, int]:
    """Return a vocabulary of the words in the generated data of the sketch profile."""
    texts = [
        row[column]
        for task in TASKS.values()
        for split in ("train", *task.validation_splits)
        for row in generate(task.name, split, 200, 0)
        for column in task.columns
    ]
    words = sorted({word for text in texts for word in text.lower().split()})
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return {entry: number for number, entry in enumerate(entries)}


def make_backbone(folder: Path) -> Path:
    """Write a random BERT with 4 layers, hidden size 48 and 4 heads, and its tokenizer; return `folder`."""
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
