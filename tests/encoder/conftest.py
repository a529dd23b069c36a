"""Small checkpoints of each layout, as transformers writes them."""

import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_files import WORDS
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
)


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
