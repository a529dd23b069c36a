"""DistilBERT: where the student starts, its three losses, and what comes out of training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import DistilBertConfig, DistilBertModel

from baselines.distilbert import SoftTargets, ThreeLosses, corrupt, masking_odds, spread, without_segments
from bench.context import Context
from bench.encoder import Encoder, EncoderConfig
from bench.encoder.cut import take_layers
from bench.encoder.masked_lm import MaskedLM, with_head
from bench.errors import UserError
from bench.measuring.recording import record
from bench.method import Needed, contestant
from bench.runs.train_run import produce
from bench.store import RunKey
from bench.tasks.batches import collate, length_batches
from bench.tasks.examples import Examples

SPECIAL = [0, 1, 2, 3]
ODDS = torch.ones(40).index_fill(0, torch.tensor(SPECIAL), 0.0)


def model(layers: int, seed: int, **changes) -> Encoder:
    torch.manual_seed(seed)
    values = {
        "vocab_size": 40, "max_positions": 32, "hidden_size": 24, "head_size": 6, "heads": [4] * layers,
        "ffn": [32] * layers, "exits": [layers], "head": "distilbert", "initializer_range": 0.2,
    } | changes  # fmt: skip
    return Encoder(EncoderConfig(**values)).eval()


def masked(encoder: Encoder) -> MaskedLM:
    bias = torch.linspace(-1, 1, encoder.config.vocab_size)
    return MaskedLM(encoder, nn.Linear(24, 24), bias).eval()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = (torch.arange(20) < torch.tensor([20, 12, 7])[:, None]).long()
    ids = torch.randint(4, 40, (3, 20), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def method(settings, name="distilbert", **options):
    values = settings.model_dump()
    values["contestants"][name] = {"method": "baselines.distilbert:DistilBert", "options": options}
    return contestant(type(settings).model_validate(values), name, "sst2")


def test_layers_are_spread_as_the_authors_spread_theirs():
    assert spread(12, 6) == [0, 2, 4, 7, 9, 11]
    assert spread(6, 3) == [0, 2, 5]
    for layers in range(1, 13):
        assert spread(layers, layers) == list(range(layers))
        assert all(len(set(spread(layers, kept))) == kept for kept in range(1, layers + 1))


def test_dropping_the_segments_changes_nothing_for_a_single_sentence():
    whole, inputs = model(2, 0), batch()
    expected = whole(**inputs).logits
    slim = without_segments(take_layers(whole, [0, 1]))
    torch.testing.assert_close(slim(**inputs).logits, expected)
    assert slim.config.type_vocab_size == 0 and slim.num_parameters() == whole.num_parameters() - 2 * 24


def padded(lengths: list[int], vocabulary: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids between two special ones, and which are real."""
    rng = np.random.default_rng(seed)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.from_numpy(rng.integers(4, vocabulary, real.shape))
    ids[:, 0], ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 2, 3
    return torch.where(real, ids, 0), real


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), seed=st.integers(0, 2**31))
def test_of_all_tokens_15_percent_are_drawn_and_none_of_them_is_special_or_padding(lengths, seed):
    torch.manual_seed(seed)
    ids, real = padded(lengths, 40, seed)
    seen, chosen = corrupt(ids, real, ODDS, mask_id=1)
    maskable = real & ~torch.isin(ids, torch.tensor(SPECIAL))
    assert not (chosen & ~maskable).any()
    assert int(chosen.sum()) == min(int(np.ceil(0.15 * sum(lengths))), int(maskable.sum()))
    assert torch.equal(seen[~chosen], ids[~chosen])


def test_what_is_drawn_becomes_the_mask_a_random_word_or_stays():
    torch.manual_seed(0)
    ids, real = torch.randint(4, 1000, (200, 100)), torch.ones(200, 100, dtype=torch.bool)
    seen, chosen = corrupt(ids, real, torch.ones(1000), mask_id=1)
    hidden, same = (seen[chosen] == 1).float().mean(), (seen[chosen] == ids[chosen]).float().mean()
    np.testing.assert_allclose([hidden, same], [0.8, 0.1], atol=0.02)


def test_odds_are_the_counts_to_the_power_of_minus_0_7():
    texts = [[2, 5, 5, 5, 6, 3], [2, 6, 7, 3]]
    data = Examples(np.arange(2), np.zeros(2), texts, [[0] * len(each) for each in texts])
    odds = masking_odds(data, 10, SPECIAL)
    expected = [0, 0, 0, 0, 1, 3**-0.7, 2**-0.7, 1, 1, 1]  # a word that does not occur counts as once
    np.testing.assert_allclose(odds.numpy(), expected, rtol=1e-6)


def test_rare_words_are_masked_more_often():
    """One draw a batch: how often each word is drawn is its share of the odds, exactly."""
    torch.manual_seed(0)
    texts = [[2] + [5] * 50 + [6] * 8 + [7] + [3]]
    data = Examples(np.arange(1), np.zeros(1), texts, [[0] * len(texts[0])])
    odds = masking_odds(data, 10, SPECIAL)
    ids = torch.tensor([[2, 5, 6, 7, 3, 0]])  # five real tokens: one is drawn
    drawn = np.zeros(10)
    for _ in range(6000):
        _, chosen = corrupt(ids, ids > 0, odds, mask_id=1)
        assert chosen.sum() == 1
        drawn[int(ids[chosen])] += 1
    shares = np.array([50, 8, 1]) ** -0.7
    np.testing.assert_allclose(drawn[[5, 6, 7]] / 6000, shares / shares.sum(), atol=0.02)


@pytest.mark.parametrize("soft_targets", ["masked", "all"])
def test_the_loss_is_its_formula(soft_targets):
    teacher, student, inputs = masked(model(4, 0)), masked(model(2, 1)), batch()
    inputs["token_type_ids"] = torch.ones_like(inputs["input_ids"]) * inputs["attention_mask"]
    loss = ThreeLosses(teacher, ODDS, mask_id=1, soft_targets=soft_targets)
    torch.manual_seed(5)
    value = loss(student, inputs, 0.0)

    real = inputs["attention_mask"].bool()
    torch.manual_seed(5)
    seen, chosen = corrupt(inputs["input_ids"], real, ODDS, 1)
    assert chosen.any() and not (chosen & ~real).any()
    given = inputs | {"input_ids": seen}
    ours = student.encoder(**given, output_hidden_states=True).hidden_states[-1]
    given["token_type_ids"] = torch.zeros_like(seen)  # the teacher reads no segments
    theirs = teacher.encoder(**given, output_hidden_states=True).hidden_states[-1]
    weights = teacher.encoder.embeddings.words.weight
    target = teacher.transform(theirs) @ weights.T + teacher.bias
    logits = student.transform(ours) @ student.encoder.embeddings.words.weight.T + student.bias
    where = real if soft_targets == "all" else chosen
    p, q = (F.softmax(values[where] / 2, dim=-1) for values in (target, logits))
    soft = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    words = -F.log_softmax(logits[chosen], dim=-1)[torch.arange(chosen.sum()), inputs["input_ids"][chosen]].mean()
    cosine = (1 - (ours * theirs).sum(-1) / (ours.norm(dim=-1) * theirs.norm(dim=-1)))[real].mean()
    torch.testing.assert_close(value, 5 * soft + 2 * words + cosine)


def test_a_copy_of_the_teacher_has_only_the_word_loss_left():
    teacher = masked(model(2, 0))
    copy = teacher.around(take_layers(teacher.encoder, [0, 1])).eval()
    loss, inputs = ThreeLosses(teacher, ODDS, mask_id=1), batch()
    torch.manual_seed(5)
    value = loss(copy, inputs, 0.0)
    torch.manual_seed(5)
    seen, chosen = corrupt(inputs["input_ids"], inputs["attention_mask"].bool(), ODDS, 1)
    logits = copy.words(copy(seen, inputs["attention_mask"], inputs["token_type_ids"])[chosen])
    expected = 2 * F.cross_entropy(logits, inputs["input_ids"][chosen])
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


def test_a_batch_without_a_masked_token_has_a_finite_loss():
    inputs = batch()
    inputs["input_ids"] = torch.full((3, 20), 2) * inputs["attention_mask"]
    for soft_targets in ("all", "masked"):
        loss = ThreeLosses(masked(model(2, 0)), ODDS, 1, soft_targets)
        assert loss(masked(model(1, 1)), inputs, 0.0).isfinite()


def test_the_distillation_has_the_authors_optimizer(tiny_settings, tmp_path):
    distil, finetune = (stage.plan for stage in method(tiny_settings(tmp_path), depths=[2]).stages("depth2", 1000))
    assert (distil.batch_size, distil.warmup, distil.weight_decay, distil.clip) == (250, 0.05, 0, 5.0)
    assert (distil.betas, distil.epsilon, distil.learning_rate) == ((0.9, 0.98), 1e-6, 5e-4)
    assert (distil.schedule, distil.step_count(1000)) == ("linear", 12)
    assert (finetune.betas, finetune.clip, finetune.batch_size) == ((0.9, 0.999), 1.0, 32)


def test_published_size():
    with torch.device("meta"):
        theirs = Encoder(EncoderConfig(type_vocab_size=0, heads=[12] * 6, ffn=[3072] * 6, head="distilbert"))
    assert theirs.num_parameters() == 66_955_010  # 66.96 M with two labels
    assert theirs.exit_macs(128)[-1] * 2 == pytest.approx(11.17e9, rel=0.001)


def test_distillation_brings_the_student_to_its_teacher(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    made = method(settings, depths=[2], distil_epochs=2, distil_rate=3e-3, distil_batch_size=16, epochs=0.1)
    context = Context(settings, made.task, RunKey("sst2", "distilbert", "depth2", 0), tmp_path / "state")
    whole = masked_whole(context)
    odds = masking_odds(context.train, whole.encoder.config.vocab_size, context.tokenizer.all_special_ids)
    loss = ThreeLosses(whole, odds, context.tokenizer.mask_token_id)
    start = whole.around(without_segments(take_layers(whole.encoder, spread(4, 2)))).eval()
    student = made.train(context, "depth2")
    end = whole.around(student).eval()
    everything = context.train
    values = []
    for learner in (start, end):
        torch.manual_seed(0)
        values.append(mean_loss(loss, learner, everything))
    assert values[1] < 0.9 * values[0]
    assert student.config.type_vocab_size == 0 and len(student.layers) == 2 and student.config.head_dropout == 0.2
    assert record(student, context.selection, 32).logits.shape == (1, len(context.selection), 2)


def masked_whole(context: Context) -> MaskedLM:
    return with_head(context.backbone("distilbert"), context.settings.backbone.name)


def mean_loss(loss, learner, examples) -> float:
    batches = [collate([examples[i] for i in rows]) for rows in length_batches(examples.lengths, 32, None)]
    with torch.no_grad():
        return float(np.mean([loss(learner, each, 0.0) for each in batches]))


@pytest.mark.parametrize("classes", [1, 3])
def test_the_loss_of_fine_tuning_is_its_formula(classes):
    student, inputs = model(2, 1, num_labels=classes), batch()
    labels = torch.tensor([0.5, 2.0, -1.0]) if classes == 1 else torch.tensor([0, 2, 1])
    target = torch.randn(1, 3, classes, generator=torch.Generator().manual_seed(0))
    loss = SoftTargets(lambda given: SimpleNamespace(logits=target))
    value = loss(student, inputs | {"labels": labels}, 0.0)
    logits = student(**inputs).logits[-1] if student(**inputs).logits.dim() == 3 else student(**inputs).logits
    if classes == 1:
        expected = ((logits - target[0]) ** 2).mean() / 2 + ((logits.squeeze() - labels) ** 2).mean() / 2
    else:
        p, q = F.softmax(target[0] / 2, -1), F.softmax(logits / 2, -1)
        hard = -F.log_softmax(logits, -1)[torch.arange(3), labels].mean()
        expected = 4 * (p * (p / q).log()).sum(-1).mean() / 2 + hard / 2
    torch.testing.assert_close(value, expected)


def test_a_student_can_learn_from_a_teacher_of_the_task(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    produce(settings, RunKey("sst2", "teacher", "full", 0))
    made = method(settings, depths=[2], distil="fine-tuning", epochs=1, learning_rate=3e-3)
    made.check()
    assert made.needs("depth2") == [Needed("teacher", "full")]
    assert made.label("depth2") == "DistilBERT-style (distilled while fine-tuned), 2 layers"
    first = method(settings, depths=[2], distil="fine-tuning", start="first")
    assert first.label("depth2") == "DistilBERT-style (distilled while fine-tuned, first layers), 2 layers"
    context = Context(settings, made.task, RunKey("sst2", "distilbert", "depth2", 0), tmp_path / "state")
    student = made.train(context, "depth2")
    assert len(student.layers) == 2 and student.config.type_vocab_size == 0
    (stage,) = made.stages("depth2", len(context.train))
    assert stage.plan.epochs == 1 and stage.kept == settings_shape(settings)
    assert contestant(settings, "distilbert", "sst2").needs("depth3") == []


def settings_shape(settings):
    return contestant(settings, "teacher", "sst2").backbone


def test_a_checkpoint_is_only_fine_tuned(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    torch.manual_seed(3)
    config = DistilBertConfig(vocab_size=2000, dim=24, n_layers=2, n_heads=4, hidden_dim=32)
    DistilBertModel(config).save_pretrained(tmp_path / "distilbert")
    made = method(settings, checkpoint=str(tmp_path / "distilbert"), epochs=0.1, learning_rate=1e-9)
    context = Context(settings, made.task, RunKey("sst2", "distilbert", "full", 0), tmp_path / "state")
    made.check()
    student = made.train(context, "full")
    assert made.variants() == ["full"] and made.label("full") == "DistilBERT"
    start = context.backbone("distilbert", name=str(tmp_path / "distilbert"))
    for name, weight in start.named_parameters():
        torch.testing.assert_close(student.get_parameter(name), weight, atol=1e-6, rtol=0)


def test_labels_in_tables_and_refused_options(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    made = method(settings, depths=[1, 3])
    assert made.variants() == ["depth1", "depth3"]
    assert made.label("depth3") == "DistilBERT-style (task text), 3 layers"
    assert method(settings, name="other", depths=[3]).label("depth3").endswith("3 layers, other")
    for options in ({}, {"depths": [3], "checkpoint": "x"}):
        with pytest.raises(UserError, match="either checkpoint"):
            method(settings, **options)
    with pytest.raises(UserError, match="5 of a backbone with 4 layers"):
        method(settings, depths=[5]).check()
