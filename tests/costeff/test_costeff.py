"""COST-EFF's parts: the schedule, the importance, the losses, the sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.encoder import Encoder, EncoderConfig, Width, ratio_width
from bench.errors import UserError
from bench.method import contestant
from bench.settings import Settings
from bench.tasks.examples import Examples
from bench.training.losses import hidden_loss, soft_loss, task_loss
from bench.training.targets import FrozenTeacher
from costeff.distillation import Distillation, assistant_loss
from costeff.importance import taylor
from costeff.slenderise import shallow, widths

BERT, MINILM = Width(12, 3072, 768), Width(12, 1536, 384)


def encoder(seed: int = 0, **changes) -> Encoder:
    torch.manual_seed(seed)
    values = {
        "vocab_size": 60, "max_positions": 32, "hidden_size": 32, "head_size": 8, "heads": [4] * 3, "ffn": [48] * 3,
        "exits": [1, 2, 3], "num_labels": 2, "initializer_range": 0.2, "pooling": "mean",
    } | changes  # fmt: skip
    return Encoder(EncoderConfig(**values)).eval()


@pytest.fixture
def examples() -> Examples:
    generator = np.random.default_rng(0)
    ids = [generator.integers(1, 60, size).tolist() for size in generator.integers(3, 12, 23)]
    labels = generator.integers(0, 2, len(ids))
    return Examples(np.arange(len(ids)), labels, ids, [[0] * len(row) for row in ids])


def collated(examples: Examples) -> dict[str, torch.Tensor]:
    from bench.tasks.batches import collate

    return collate([examples[i] for i in range(len(examples))])


def test_ratios_give_the_papers_shapes():
    assert ratio_width(BERT, 1 / 2, 1 / 2, 1 / 2) == Width(6, 1536, 384)
    assert ratio_width(BERT, 1 / 6, 1 / 12, 1 / 6) == Width(2, 256, 128)
    assert ratio_width(MINILM, 1 / 2, 1 / 2, 1 / 2) == Width(6, 768, 192)
    assert ratio_width(MINILM, 1 / 6, 1 / 12, 1 / 6) == Width(2, 128, 64)
    for heads, message in ((0.4, "k/12"), (0.0, "above 0"), (1.5, "at most 1")):
        with pytest.raises(UserError, match=message):
            ratio_width(BERT, heads, 0.5, 0.5)


@given(st.integers(1, 12), st.integers(1, 3072), st.integers(1, 768))
def test_slenderising_ends_at_the_target_one_head_a_step(heads, ffn, rank):
    target = Width(heads, ffn, rank)
    steps = widths(BERT, target)
    assert steps[-1] == target and widths(BERT, target, iterative=False) == [target]
    assert len(steps) == max(1, 12 - heads)
    for before, after in zip([BERT, *steps], steps, strict=False):
        assert before.heads - after.heads == (1 if heads < 12 else 0)
        assert before.ffn >= after.ffn and before.rank >= after.rank


def test_hidden_loss_is_the_papers_formula():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)  # 2 levels, 3 rows of 4 tokens, d = 5
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    expected = 0.0
    for level in range(2):
        rows = []
        for row in range(3):
            real = int(mask[row].sum())
            square = (student[level, row, :real] - teacher[level, row, :real]) ** 2
            rows.append(square.mean(-1).sum() / real)
        expected += sum(rows) / 3
    torch.testing.assert_close(hidden_loss(tuple(student), tuple(teacher), mask), torch.as_tensor(expected))


def test_assistant_loss_is_the_mean_of_soft_and_hard_over_exits(examples):
    teacher, model, batch = encoder(1, exits=[3]), encoder(2), collated(examples)
    frozen = FrozenTeacher(teacher, examples, 1e9)
    target = teacher(batch["input_ids"], batch["attention_mask"]).logits.detach()
    logits = model(batch["input_ids"], batch["attention_mask"]).exit_logits
    expected = sum(soft_loss(z, target) + task_loss(z, batch["labels"]) for z in logits) / 2
    torch.testing.assert_close(assistant_loss(frozen, True)(model, batch, 0.0), expected, rtol=1e-5, atol=1e-6)


def test_kept_targets_are_those_computed_live(examples):
    teacher, batch = encoder(1), collated(examples)
    kept, live = (
        FrozenTeacher(teacher, examples, 1e9, hidden=True)(batch),
        FrozenTeacher(teacher, examples, 0, hidden=True)(batch),
    )
    torch.testing.assert_close(kept.logits, live.logits, rtol=1e-4, atol=1e-5)
    real = batch["attention_mask"].bool()
    for ours, theirs in zip(kept.hidden, live.hidden, strict=True):
        torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-5)


def test_a_student_equal_to_its_teacher_has_no_hidden_loss(examples):
    model, batch = encoder(), collated(examples)
    distillation = Distillation(FrozenTeacher(encoder(), examples, 1e9, hidden=True))
    assert distillation.representations(model, batch, 0.0).item() == pytest.approx(0, abs=1e-8)
    period = distillation.while_slenderising(0.7)
    assert period(model, batch, 0.69).item() == pytest.approx(0, abs=1e-8)  # hidden states alone
    entropy = period(model, batch, 0.7).item()  # then soft CE too: the teacher's own entropy, summed over exits
    probabilities = model(batch["input_ids"], batch["attention_mask"]).exit_logits.softmax(-1)
    assert entropy == pytest.approx(-(probabilities * probabilities.log()).sum(-1).mean(1).sum().item(), rel=1e-4)


LAYOUTS = [{}, {"layout": "modernbert", "type_vocab_size": 0, "windows": [None, 2, 3]}]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["bert", "modernbert"])
def test_importance_finds_dead_heads_and_neurons(examples, layout):
    model, teacher = encoder(0, **layout), encoder(1, **layout)
    with torch.no_grad():
        model.layers[1].attention_output.weight[:, 8:16] = 0  # head 1 of layer 1 writes nothing
        model.layers[2].ffn_out.weight[:, 5] = 0  # neuron 5 of layer 2 neither ...
        for part in model.neuron_rows:
            getattr(model.layers[2], part).weight[5] = 0  # ... nor reads anything
    distillation = Distillation(FrozenTeacher(teacher, examples, 1e9, hidden=True))
    scores = taylor(model, distillation.importance, examples, np.arange(len(examples)), batch_size=8)
    heads, neurons = scores.best(3, 47)
    assert heads[1] == [0, 2, 3] and 5 not in neurons[2]
    assert all(len(kept) == 3 for kept in heads) and all(len(kept) == 47 for kept in neurons)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["bert", "modernbert"])
def test_importance_is_weight_times_gradient(examples, layout):
    """On one batch the head score equals sum |w * dL/dw| over its columns of the output projection, by hand."""
    model, teacher, batch = encoder(0, **layout), encoder(1, **layout), collated(examples)
    distillation = Distillation(FrozenTeacher(teacher, examples, 1e9, hidden=True))
    scores = taylor(model, distillation.importance, examples, np.arange(len(examples)), batch_size=len(examples))
    distillation.importance(model, batch).backward()
    layer = model.layers[0]
    product = (layer.attention_output.weight * layer.attention_output.weight.grad).abs()
    torch.testing.assert_close(scores.heads[0][2], product[:, 16:24].sum().detach(), rtol=1e-3, atol=1e-7)
    matrices = [layer.ffn_in.weight] + ([layer.ffn_gate.weight] if layout else [])
    first = sum((weight * weight.grad).abs().sum(1) for weight in matrices)
    second = (layer.ffn_out.weight * layer.ffn_out.weight.grad).abs().sum(0)
    torch.testing.assert_close(scores.neurons[0], (first + second).detach(), rtol=1e-3, atol=1e-7)


def test_every_exit_counts_unless_only_the_last_is_selected(examples):
    model, teacher, batch = encoder(0), encoder(1), collated(examples)
    frozen = FrozenTeacher(teacher, examples, 1e9, hidden=True)
    model.zero_grad()
    Distillation(frozen, exits=[-1], hidden=False).predictions(model, batch, 0.0).backward()
    assert not model.exit_heads[0].classifier.weight.grad.any() and model.exit_heads[2].classifier.weight.grad.any()
    model.zero_grad()
    Distillation(frozen, hidden=False).predictions(model, batch, 0.0).backward()
    assert all(head.classifier.weight.grad.any() for head in model.exit_heads)


def test_a_shallow_model_has_about_the_parameters_of_the_slender_one():
    model = encoder(heads=[4] * 8, ffn=[48] * 8, exits=list(range(1, 9)), vocab_size=60)
    target = Width(2, 24, 16)
    short, kept = shallow(model, target)
    slender = model.config.shape.narrowed(target).parameters()
    layer = model.config.shape.layer_parameters(0)
    assert abs(short.config.shape.parameters() - slender) <= layer / 2
    assert kept == sorted(set(kept)) and kept[-1] == 7 and short.exit_count == len(kept)


def test_a_head_ratio_that_leaves_half_a_head_is_refused_before_training(tiny_settings, tmp_path: Path):
    def settings(heads: float) -> Settings:
        values = tiny_settings(tmp_path).model_dump()["contestants"]
        values["costeff"]["options"]["sizes"]["half-width"]["heads"] = heads
        return tiny_settings(tmp_path, contestants=values)

    with pytest.raises(UserError, match=r"contestants.costeff.options.sizes.half-width: ratio heads: 0.4 of 4"):
        contestant(settings(0.4), "costeff", "sst2").check()
    with pytest.raises(UserError, match="less than or equal to 1"):
        contestant(settings(1.4), "costeff", "sst2")
