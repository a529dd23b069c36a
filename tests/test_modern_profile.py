"""Profiles on a backbone in ModernBERT's layout: the workflow from end to end, and the profile of Ettin-17M."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from transformers import ModernBertConfig, ModernBertModel

from bench.conformance.backbone import make_backbone
from bench.method import contestant
from bench.runs import plan
from bench.settings import load

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_tiny_profile_runs_on_a_modern_backbone(tmp_path):
    """Every contestant but TinyBERT, with a ratio study, in a folder with a space."""
    home = tmp_path / "a folder"
    backbone = make_backbone(home / "backbone", "modernbert")
    profile = {
        "extends": str(ROOT / "config" / "tiny.yaml"),
        "profile": "modern",
        "results": str(home / "results"),
        "backbone": {"name": str(backbone), "pooling": "mean"},
        "tasks": ["sst2", "stsb"],
        "contestants": {
            "tinybert": None,
            "teacher-long": {"options": {"as_long_as": {"contestant": "costeff", "variant": "half-width"}}},
            "costeff": {
                "options": {"sizes": {"half-width": {"heads": "1/2", "ffn": "1/2", "rank": "1/2"}, "sixth-width": None}}
            },
        },
    }
    (home / "modern.yaml").write_text(yaml.safe_dump(profile))
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2", "--configfile"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(home / "modern.yaml")], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = home / "results" / "modern"
    points = pd.read_parquet(results / "all-points.parquet")
    assert (points["status"] == "ok").all() and (results / "complete").is_file()
    planned = {run.key.method for run in plan.runs(load(home / "modern.yaml"))}
    assert set(points["method"]) == planned and "tinybert" not in planned
    slender = points.query("method == 'costeff' and kind == 'static' and split == 'validation'")
    assert (slender["speedup"] > 1.5).all() and (slender["latency_1"] > 0).all()


def test_the_profile_of_ettin_fits_its_shape(tmp_path, monkeypatch):
    """The plan on a random checkpoint of Ettin-17M's layers, with a small vocabulary."""
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=300, hidden_size=256, intermediate_size=384, num_hidden_layers=7, num_attention_heads=4,
        pad_token_id=0,
    )  # fmt: skip
    ModernBertModel(config).save_pretrained(tmp_path / "ettin")
    monkeypatch.setenv("GLUE_DIR", str(tmp_path))
    settings = load(ROOT / "config" / "ettin-17m.yaml", {"backbone": {"name": str(tmp_path / "ettin")}})
    runs = plan.runs(settings)
    assert {run.key.variant for run in runs if run.key.method == "costeff"} == {"half-width", "quarter-width"}
    for name in settings.contestants:
        contestant(settings, name, "sst2").check()
    method = contestant(settings, "costeff", "sst2")
    full, small = method.backbone, method.backbone.narrowed(method._width("quarter-width"))
    macs = [sum(shape.layer_macs(layer, 64) for layer in range(7)) for shape in (full, small)]
    assert macs[0] / macs[1] == pytest.approx(4, rel=0.01)
