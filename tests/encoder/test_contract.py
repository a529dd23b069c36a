"""Variants and checkpoints that a contestant declares, and the check of both."""

import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

from bench.encoder import backbones
from bench.errors import UserError
from bench.method import contestant
from bench.runs import plan
from bench.runs.planning.checks import check_checkpoints
from bench.settings import load

SIZE = {"layers": 2, "hidden": 24, "ffn": 48, "heads": 4}


def entry(method: str, **options) -> dict:
    return {"method": method, "options": options}


def built(tiny_settings, tmp_path, **contestants):
    teacher = entry("baselines.finetuned:Finetuned", head="tinybert")
    sections = {"contestants": {"teacher": teacher} | contestants}
    whole = tiny_settings(tmp_path, data={"max_length": [64, 64]})
    values = whole.model_dump() | sections | {"studies": [], "ablations": {}, "depth_reference": None}
    return type(whole).model_validate(values)


@pytest.mark.parametrize("variant", ["1/2", "", "..", "a b", "-x", "x\n"])
def test_a_variant_that_is_no_name_is_refused(tiny_settings, tmp_path, variant):
    tiny = entry("baselines.tinybert:TinyBert", sizes={variant: SIZE})
    with pytest.raises(UserError, match=r"contestants\.tinybert\.options.*the variant name"):
        plan.runs(built(tiny_settings, tmp_path, tinybert=tiny))


def test_a_variant_that_is_there_twice_is_refused(tiny_settings, tmp_path):
    cut = entry("baselines.finetuned:Finetuned", depths=[2, 2])
    with pytest.raises(UserError, match="'depth2' is named twice"):
        plan.runs(built(tiny_settings, tmp_path, cut=cut))


def test_variants_of_a_method():
    settings = load("config/sketch-full.yaml")
    for name in settings.contestants:
        method = contestant(settings, name, "sst2")
        assert all(method.accepts(variant) for variant in method.variants())
        assert not any(method.accepts(variant) for variant in ("banana", "", "depth99", "h1-f1"))
    search = contestant(settings, "search", "sst2")
    assert search.accepts("h12-f1536-r384") and search.accepts("h1-f1-r1") and not search.variants()
    for impossible in ("h13-f1536-r384", "h12-f1537-r384", "h12-f1536-r385", "h0-f1-r1", "h01-f1-r1", "h1-f1-r1 "):
        assert not search.accepts(impossible)
    assert not contestant(settings, "teacher", "sst2").accepts("h1-f1-r1")


def test_the_paper_names_its_checkpoints():
    settings = load("config/paper.yaml")
    found = {
        name: [c for variant in method.variants() for c in method.checkpoints(variant)]
        for name in settings.contestants
        for method in [contestant(settings, name, "sst2")]
    }
    named = {name: [part.partition("@")[0] for part in parts] for name, parts in found.items() if parts}
    assert named == {
        "distilbert": ["distilbert/distilbert-base-uncased"],
        "tinybert": ["huawei-noah/TinyBERT_General_4L_312D", "huawei-noah/TinyBERT_General_6L_768D"],
        "cascadebert": ["google/bert_uncased_L-2_H-768_A-12"],
    }


def test_the_check_opens_every_checkpoint_that_a_contestant_names(tiny_settings, tiny_backbone, tmp_path):
    backbone = backbones.shape_of(str(tiny_backbone))
    config = BertConfig(
        vocab_size=backbone.vocabulary, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=backbone.positions,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "general")
    tiny = entry("baselines.tinybert:TinyBert", sizes={"2L": SIZE | {"checkpoint": str(tmp_path / "general")}})
    settings = built(tiny_settings, tmp_path / "results", tinybert=tiny)
    words = backbones.tokenizer(str(tiny_backbone))
    lines = list(check_checkpoints(settings, plan.runs(settings), words))
    assert len(lines) == 2 and "4 layers of 48" in lines[0] and "2 layers of 24" in lines[1]
    (tmp_path / "general" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"contestants\.tinybert \(2L\): .*git lfs pull"):
        list(check_checkpoints(settings, plan.runs(settings), words))
    shutil.rmtree(tmp_path / "general")
    with pytest.raises(UserError, match="no such folder"):
        plan.runs(settings)
