"""`EarlyExitClassifier` always answers with the weights that it has now, and can be copied to another process."""

import contextlib
import copy
import io
import json
import multiprocessing
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize
from toys import cascade, encoder
from transformers import AutoModelForSequenceClassification

from bench.encoder import EarlyExitClassifier
from bench.errors import UserError

LEAVING = {"kind": "uniform", "policy": "entropy", "exit_start": 1, "threshold": 0.4, "thresholds": [], "exit": 0}
LABELS = ("bad", "fair", "good")


def classifier(kind: str = "encoder", seed: int = 0) -> EarlyExitClassifier:
    model = cascade() if kind == "cascade" else encoder(seed)
    return EarlyExitClassifier.of(model, LEAVING, LABELS)


def inputs(count: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 17, (count, 1), generator=generator)
    mask = (torch.arange(16) < lengths).long()
    return {"input_ids": torch.randint(1, 60, (count, 16), generator=generator) * mask, "attention_mask": mask}


def answers(model: EarlyExitClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    output = model(**inputs())
    return output.logits, output.exits


def assert_as_fresh(model: EarlyExitClassifier) -> None:
    """`model` answers as a classifier that is built anew from its weights."""
    fresh = EarlyExitClassifier.of(copy.deepcopy(model.model), model.config.leaving, LABELS)
    for found, expected in zip(answers(model), answers(fresh), strict=True):
        assert torch.equal(found, expected)


class LowRank(nn.Module):
    """An update of low rank, as LoRA's."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(layer.out_features, 2))
        self.down = nn.Parameter(torch.randn(2, layer.in_features))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


def linears(model: EarlyExitClassifier) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def load_others(model: EarlyExitClassifier, assign: bool) -> None:
    other = classifier("cascade" if hasattr(model.model, "members") else "encoder")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-0.7)
    with contextlib.suppress(RuntimeError):  # parametrized by an earlier change: other names
        model.load_state_dict(other.state_dict(), assign=assign)


def train_a_step(model: EarlyExitClassifier, through: nn.Module) -> None:
    """One step of an optimizer; `through` is switched to training, and back."""
    through.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.model(**inputs()).exit_logits.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    through.eval()


@torch.no_grad()
def write_in_place(model: EarlyExitClassifier, which: int) -> None:
    list(model.parameters())[which % len(list(model.parameters()))].mul_(-1.5).add_(0.1)


def parametrize_one(model: EarlyExitClassifier, which: int) -> None:
    layer = linears(model)[which % len(linears(model))]
    parametrize.register_parametrization(layer, "weight", LowRank(layer))


def merge_all(model: EarlyExitClassifier, _: int) -> None:
    for layer in linears(model):
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")


def new_data(model: EarlyExitClassifier, which: int) -> None:
    parameter = list(model.parameters())[which % len(list(model.parameters()))]
    parameter.data = parameter.data * 0.5


CHANGES = {
    "load_state_dict": lambda model, _: load_others(model, assign=False),
    "load_state_dict, assigned": lambda model, _: load_others(model, assign=True),
    "a training step": lambda model, _: train_a_step(model, model),
    "a training step of the model inside": lambda model, _: train_a_step(model, model.model),
    "in place": write_in_place,
    "new data": new_data,
    "half and back": lambda model, _: model.half().float(),
    "half and back, inside": lambda model, _: model.model.half().float(),
    "to and back": lambda model, _: model.to(torch.float64).to(torch.float32),
    "shared memory": lambda model, _: model.share_memory(),
    "a parametrization": parametrize_one,
    "merged": merge_all,
    "another threshold": lambda model, which: model.config.leaving.update(threshold=which / 10),
    "another policy": lambda model, _: setattr(model.config, "leaving", LEAVING | {"kind": "static"}),
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["encoder", "cascade"]),
    st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 50)), min_size=1, max_size=4),
)
def test_after_any_change_it_answers_as_one_built_anew(kind, changes):
    model = classifier(kind)
    model.config.leaving = dict(LEAVING)
    answers(model)
    for name, which in changes:
        CHANGES[name](model, which)
        assert_as_fresh(model)


def test_the_changes_change_answers():
    """Otherwise the property above would hold of an engine that is never rebuilt."""
    for name in ("load_state_dict", "a training step", "in place", "new data", "a parametrization"):
        model = classifier()
        before = answers(model)[0].clone()
        CHANGES[name](model, 7)
        assert not torch.equal(before, answers(model)[0]), name


def test_the_engine_is_kept_while_nothing_changes():
    model = classifier()
    answers(model)
    kept = model._ready
    answers(model)
    assert kept is not None and model._ready is kept


def by_torch(model: EarlyExitClassifier) -> EarlyExitClassifier:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "deepcopy": copy.deepcopy, "torch.save": by_torch}


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("kind", ["encoder", "cascade"])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_answers_the_same_and_is_its_own(name, kind, used):
    model = classifier(kind)
    if used:
        answers(model)
    other = COPIES[name](model)
    for found, expected in zip(answers(other), answers(model), strict=True):
        assert torch.equal(found, expected)
    before = answers(model)[0].clone()
    write_in_place(other, 0)
    assert_as_fresh(other)
    assert torch.equal(answers(model)[0], before)


def test_another_process_answers_the_same():
    model = classifier()
    expected = answers(model)[0]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(answers, (model,))[0]
    torch.testing.assert_close(found, expected)


class Adapter(nn.Module):
    """A layer in place of another, with the other's weight and something more."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layer(values) + 1


@pytest.mark.parametrize("part", ["query", "attention_output", "ffn_out", "attention_norm"])
def test_what_plain_weights_do_not_say_is_refused(part):
    hooked, adapted = classifier(), classifier()
    getattr(hooked.model.layers[1], part).register_forward_hook(lambda module, given, output: output + 1)
    setattr(adapted.model.layers[1], part, Adapter(getattr(adapted.model.layers[1], part)))
    for model, named in ((hooked, "a hook on a "), (adapted, "an? Adapter in place of a ")):
        with pytest.raises(UserError, match=named):
            answers(model)


SAVED_BY_0_2 = {
    "architectures": ["EarlyExitClassifier"],
    "dtype": "float32",
    "id2label": {"0": "bad", "1": "good"},
    "label2id": {"bad": 0, "good": 1},
    "leaving": {"exit": 0, "exit_start": 1, "kind": "per_exit", "threshold": None, "policy": "entropy",
                "thresholds": [0.3, 0.0]},
    "model": {
        "architectures": ["Encoder"], "attention_dropout": 0.1, "dropout": 0.1, "dtype": "float32", "exits": [1, 2],
        "ffn": [6, 4], "head": "tanh", "head_dropout": 0.1, "head_size": 4, "heads": [2, 1], "hidden_act": "gelu",
        "hidden_size": 8, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "max_positions": 16,
        "model_type": "costeff-encoder", "pad_token_id": 0, "pooling": "mean", "rank": None, "signal": False,
        "type_vocab_size": 2, "vocab_size": 60,
    },
    "model_type": "costeff-early-exit",
    "problem_type": "single_label_classification",
}  # fmt: skip


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32], ids=str)
def test_a_mask_of_any_type_is_the_same_mask(kind):
    model, batch = classifier(), inputs()
    expected = model(**batch)
    found = model(batch["input_ids"], batch["attention_mask"].to(kind))
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.exits, expected.exits)


def test_an_empty_batch_is_one_line():
    with pytest.raises(UserError, match="an empty batch"):
        classifier()(torch.zeros((0, 4), dtype=torch.long))


def test_a_model_that_version_0_2_saved_loads(tmp_path):
    """Its configuration and the names and shapes of its weights, as version 0.2.0 wrote them."""
    shapes = {"embeddings.words": (60, 8), "embeddings.positions": (16, 8), "embeddings.segments": (2, 8)}
    weights = {f"model.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    linear = {"heads.0.classifier": (2, 8), "heads.1.classifier": (2, 8)}
    for i, (a, f) in enumerate(((8, 6), (4, 4))):
        parts = {"query": (a, 8), "key": (a, 8), "value": (a, 8), "attention_output": (8, a), "ffn_in": (f, 8)}
        linear |= {f"layers.{i}.{part}": shape for part, shape in (parts | {"ffn_out": (8, f)}).items()}
    norms = ["embeddings.norm", *(f"layers.{i}.{part}_norm" for i in (0, 1) for part in ("attention", "ffn"))]
    for name, shape in (linear | dict.fromkeys(norms, (8,))).items():
        weights |= {f"model.{name}.weight": torch.randn(shape), f"model.{name}.bias": torch.randn(shape[0])}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(SAVED_BY_0_2))
    model, found = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    assert_as_fresh(model)
    assert model.config.id2label == {0: "bad", 1: "good"}
