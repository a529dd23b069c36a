"""The loop's maths is transformers' Trainer's, whatever part of the word embedding is trained."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toys import encoder, examples
from transformers import Trainer, TrainingArguments

from baselines.finetuned import supervised
from baselines.tinybert import Mapped
from bench.encoder import Encoder
from bench.encoder.cut import cut
from bench.encoder.masked_lm import MaskedLM
from bench.errors import TrainingFailed, UserError
from bench.tasks.batches import collate
from bench.training.loop import Machine, Plan, batch_schedule, decays, fit
from bench.training.saving import CHECKPOINT, FINAL

STILL = {"dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
BERT_ADAM = {"bias_correction": False, "clip_each": True, "epsilon": 1e-6}
SHAPES = [{}, {"rank": 8}, {"type_vocab_size": 0}, {"heads": [4], "ffn": [48], "exits": [1]}, {"head": "pooler"}]


def machine(save_seconds: float = 600) -> Machine:
    return Machine(cpu=True, bfloat16=False, save_seconds=save_seconds)


class Reference(Trainer):
    """The Trainer over the same batches."""

    schedule: list[list[int]]

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_sampler=self.schedule, collate_fn=collate)

    def compute_loss(self, model, inputs, *_, **__):
        return supervised(model, inputs, 0.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("plan", [Plan(3, 1e-3, 8), Plan(2, 1e-3, 8, warmup=0, schedule="constant", weight_decay=0.3)])
def test_a_stage_is_what_the_trainer_makes_of_it(shape, plan, tmp_path):
    data, start = examples(), encoder(**STILL, **shape)
    ours = encoder(**STILL, **shape)
    fit(ours, supervised, data, plan, state=tmp_path / "ours", seed=3, machine=machine())
    steps = plan.step_count(len(data))
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "theirs"), max_steps=steps, learning_rate=plan.learning_rate, report_to="none",
        lr_scheduler_type="linear" if plan.schedule == "linear" else "constant_with_warmup", use_cpu=True,
        warmup_steps=int(np.ceil(plan.warmup * steps)), weight_decay=plan.weight_decay, max_grad_norm=plan.clip,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, seed=3,
    )  # fmt: skip
    trainer = Reference(model=start, args=arguments, train_dataset=data)
    trainer.schedule = batch_schedule(data.lengths, plan.batch_size, steps, 3)
    trainer.train()
    theirs = start.state_dict()
    for name, weight in ours.state_dict().items():
        # Adam divides by a gradient's size: where that is 0 but for rounding, a step may point anywhere.
        torch.testing.assert_close(weight, theirs[name], rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("build", [lambda: encoder(), lambda: Mapped(encoder(), 48), lambda: encoder(head="pooler"),
                                   lambda: MaskedLM(encoder(), nn.LayerNorm(32), torch.zeros(60))])  # fmt: skip
def test_what_decays_is_what_decays_in_the_trainer(build: Callable[[], nn.Module]) -> None:
    model = build()
    theirs = Trainer.get_decay_parameter_names(None, model)  # type: ignore[arg-type]
    assert decays(model) == set(theirs)


@hypothesis(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31), st.booleans(), st.sampled_from([{}, BERT_ADAM]))
def test_training_the_used_words_alone_gives_the_weights_of_the_whole_table(count, words, seed, chosen, optimizer):
    """Also for the rows that no example uses, which only decay; for one-word texts; and with epochs chosen."""
    data = examples(count, seed=seed % 97, longest=3 + words)
    plan = Plan(3, 1e-2, 4, weight_decay=0.5, **optimizer)
    made = []
    for whole in (False, True):
        model = encoder(**STILL)
        scores = iter([0.2, 0.9, 0.1] * 20)

        def evaluate(_: Encoder, scores=scores) -> float:
            return next(scores)

        with tempfile.TemporaryDirectory() as folder:
            where = {"state": Path(folder), "seed": seed, "machine": machine(), "whole_vocabulary": whole}
            fit(model, supervised, data, plan, evaluate=evaluate if chosen else None, **where)
        made.append(model)
    for (name, ours), theirs in zip(made[0].state_dict().items(), made[1].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_evaluation_reads_the_whole_table(tmp_path):
    """Also words that no training example holds, decayed as far as the others are trained."""
    data, seen = examples(), []
    model = encoder(**STILL)
    before = model.embeddings.words.weight.clone()
    plan = Plan(2, 1e-2, 8, weight_decay=0.5, warmup=0)

    def evaluate(trained: Encoder) -> float:
        assert not trained.training
        ids = torch.arange(60)[None]
        seen.append(trained.embeddings.words(ids)[0].detach())
        return float(len(seen))

    data = data.take([i for i in range(len(data)) if 7 not in data.input_ids[i]])
    fit(model, supervised, data, plan, state=tmp_path, seed=0, machine=machine(), evaluate=evaluate)
    steps = plan.step_count(len(data))
    factor = np.prod([1 - plan.rate(step, steps) * 0.5 for step in range(steps)])
    assert len(seen) == plan.choices(len(data)) == 2
    torch.testing.assert_close(seen[-1][7], before[7] * float(factor))
    torch.testing.assert_close(seen[-1], model.embeddings.words.weight.detach())


@pytest.mark.parametrize("epochs", [0.5, 1])
def test_one_choice_is_not_scored(epochs, tmp_path):
    data, plan = examples(), Plan(epochs, 1e-2, 8)

    def evaluate(_: Encoder) -> float:
        raise AssertionError

    made = [
        fit(encoder(), supervised, data, plan, state=tmp_path / name, seed=0, machine=machine(), evaluate=given)
        for name, given in (("chosen", evaluate), ("last", None))
    ]
    for (name, one), other in zip(made[0].state_dict().items(), made[1].state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("how", ["another word", "the table itself"])
def test_a_loss_that_uses_other_words_is_an_error(how, tmp_path):
    data = examples()
    data = data.take([i for i in range(len(data)) if 7 not in data.input_ids[i]])

    def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        if how == "another word":
            batch = batch | {"input_ids": torch.full_like(batch["input_ids"], 7)}
            return supervised(model, batch, progress)
        return supervised(model, batch, progress) + model.embeddings.words.weight.square().sum()

    with pytest.raises(UserError, match="whole_vocabulary"):
        fit(encoder(), loss, data, Plan(1, 1e-3, 8), state=tmp_path, seed=0, machine=machine())
    fit(encoder(), loss, data, Plan(1, 1e-3, 8), state=tmp_path, seed=0, machine=machine(), whole_vocabulary=True)


@pytest.mark.parametrize("asked_always", [True, False])
@pytest.mark.parametrize("at", [0, 4, 13])
def test_a_loss_that_is_not_finite_names_its_step(at, asked_always, tmp_path):
    steps = iter(range(100))

    def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        value = supervised(model, batch, progress)
        return value * float("nan") if next(steps) == at else value

    where = Machine(cpu=asked_always, bfloat16=False, save_seconds=600)
    with pytest.raises(TrainingFailed, match=rf"at step {at + 1} of 14 .*lower the learning rate"):
        fit(encoder(), loss, examples(), Plan(0, 1e-3, 8, steps=14), state=tmp_path, seed=0, machine=where)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 6, 9])
@pytest.mark.parametrize("rank", [None, 8])  # a cut embedding's second factor lies transposed in memory
@pytest.mark.parametrize("optimizer", [{}, BERT_ADAM], ids=["adamw", "bert_adam"])
def test_a_stage_goes_on_bit_for_bit(at, rank, optimizer, tmp_path):
    """With dropout, a loss that draws from every random generator, and the best epoch behind it."""
    data, plan = examples(), Plan(2, 1e-2, 8, weight_decay=0.5, **optimizer)

    def stage(folder: Path, save_seconds: float, until: int | None = None) -> Encoder:
        steps = []

        def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
            step = round(progress * 10)
            steps.append(step)
            if step == until:
                raise Killed
            drawn = random.random() + np.random.rand() + torch.rand(()).item()
            return supervised(model, batch, progress) * (0.5 + drawn)

        model = cut(encoder(), rank=rank)
        resumed = (folder / CHECKPOINT).is_file()
        epochs = iter([0.2] if resumed and at > 5 else [0.9, 0.2])
        where = {"state": folder, "seed": 1, "machine": machine(save_seconds)}
        fit(model, loss, data, plan, evaluate=lambda _: next(epochs), **where)
        assert steps[0] == (at if resumed else 0)
        return model

    whole = stage(tmp_path / "whole", 600)
    assert not list(tmp_path.rglob("*.safetensors"))  # a young run leaves nothing
    with pytest.raises(Killed):
        stage(tmp_path / "broken", 1e-9, until=at)
    resumed = stage(tmp_path / "broken", 600)
    assert (tmp_path / "broken" / FINAL).is_file()  # a run that was killed before writes what ends
    assert not (tmp_path / "broken" / CHECKPOINT).exists()
    stage(tmp_path / "kept", 1e-9)
    following = [torch.rand(3), np.random.rand(3), random.random()]
    fit(cut(encoder(), rank=rank), supervised, data, plan, state=tmp_path / "kept", seed=1, machine=machine(600))
    for drawn, again in zip(following, [torch.rand(3), np.random.rand(3), random.random()], strict=True):
        assert np.array_equal(drawn, again)  # a stage that is resumed at its end changes nothing that follows
    for (name, ours), theirs in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
