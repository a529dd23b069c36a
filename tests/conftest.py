"""What several test folders share: a tiny random BERT in the Hub's layout, and settings that use it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic
import torch
from toys import sketch_words
from transformers import BertConfig, BertModel, BertTokenizer

from bench.settings import Settings, check, load

TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-layer BERT (hidden 48, 4 heads) whose vocabulary is the sketch's words."""
    folder = tmp_path_factory.mktemp("backbone")
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


@pytest.fixture(scope="session")
def tiny_settings(tiny_backbone: Path) -> Callable[..., Settings]:
    """`tiny_settings(results, **sections)`: tests/tiny.yaml on the tiny backbone, parts of it replaced."""

    def build(results: Path, **sections: Any) -> Settings:
        own = {"results": str(results), "backbone": {"name": str(tiny_backbone)}}
        values = load(TINY, own).model_dump()
        changed = {name: values[name] | section for name, section in sections.items()}
        return check(values | changed, "test")

    return build


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """A made-up results/<profile> folder of two seeds; read only."""
    return synthetic.write_results(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="session")
def points(results) -> pd.DataFrame:
    return synthetic.read_points(results)
