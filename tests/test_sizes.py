"""`costeff size`: parameters and multiply-adds from a shape alone, against published numbers."""

import json
import subprocess
import sys

import pytest

from bench.errors import UserError
from bench.runs.planning.checks import size_of

BASE = {
    "layers": 12, "hidden": 768, "heads": 12, "ffn": 3072, "rank": None, "classes": 2, "length": 128, "head_size": 64,
    "vocabulary": 30522, "positions": 512, "pooler": False,
}  # fmt: skip


def test_the_command_prints_json():
    shape = {"layers": 12, "hidden": 768, "heads": 2, "ffn": 256, "rank": 128, "classes": 2, "length": 128}
    arguments = [*(f"--{name}={value}" for name, value in shape.items()), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "size", *arguments], capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    assert facts["parameters"] == 13_920_024 and len(facts["exits"]) == 12
    assert all(exit_["flops"] == 2 * exit_["macs"] for exit_ in facts["exits"])


def test_published_sizes():
    assert size_of(**BASE | {"heads": 6, "ffn": 1536, "rank": 384})["parameters"] == 54_984_984
    base = size_of(**BASE | {"pooler": True})
    assert base["parameters"] == 109_483_778
    assert base["layers_macs"] == 11_173_625_856  # 11.174 GMAC = 22.35 GFLOP


@pytest.mark.parametrize("change", [{"rank": 769}, {"heads": 0}, {"length": 513}, {"layers": 0}])
def test_impossible_shapes_are_refused(change):
    with pytest.raises(UserError, match=f"--{next(iter(change))}"):
        size_of(**BASE | change)
