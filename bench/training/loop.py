"""The one training loop: transformers' Trainer, given a loss and a schedule of batches.

A stage that was killed goes on from its last complete checkpoint and gives the same weights as an unbroken one, bit for
bit on the CPU: the whole schedule of batches is drawn before the first step, and the Trainer restores the optimizer,
the learning rate and the random generators.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from bench.errors import TrainingFailed, UserError
from bench.tasks.batches import collate, length_batches
from bench.tasks.examples import Examples

log = logging.getLogger(__name__)

Loss = Callable[[Any, dict[str, Tensor], float], Tensor]
"""(model, batch, progress of the stage in [0, 1)) -> scalar."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast: epochs over the examples (fractions allowed) or `steps` of the optimizer.

    `warmup` is a fraction of the steps, at least `warmup_floor` steps. `schedule`: "linear" decays to 0, "constant".
    """

    epochs: float
    learning_rate: float
    batch_size: int = 32
    steps: int | None = None
    warmup: float = 0.1
    warmup_floor: int = 0
    schedule: str = "linear"
    weight_decay: float = 0.01
    clip: float = 1.0

    def step_count(self, examples: int) -> int:
        """Optimizer steps of this plan."""
        return self.steps or max(1, round(self.epochs * steps_per_epoch(examples, self.batch_size)))


@dataclass(frozen=True)
class Machine:
    """Where and how exactly a stage computes, and how often it saves."""

    cpu: bool
    bfloat16: bool
    save_seconds: float


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches that hold every example once; the last may be incomplete."""
    return math.ceil(examples / batch_size)


def batch_schedule(lengths: np.ndarray, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """The batches of a whole stage, epoch after epoch, each epoch shuffled anew and grouped by length."""
    generator = np.random.default_rng(seed)
    schedule: list[list[int]] = []
    while len(schedule) < steps:
        schedule += [positions.tolist() for positions in length_batches(lengths, batch_size, generator)]
    return schedule[:steps]


def fit(
    model: nn.Module,
    loss: Loss,
    examples: Examples,
    plan: Plan,
    *,
    state: Path,
    seed: int,
    machine: Machine,
    evaluate: Callable[[Any], float] | None = None,
) -> nn.Module:
    """Trains `model` in place and returns it in eval mode.

    With `evaluate` the weights of the epoch with the highest value are kept (the first of equals). `state` is the
    folder of this stage: checkpoints while it runs, its final weights once it has ended; a second call with the same
    folder goes on or returns at once. Raises TrainingFailed at a loss that is not finite, UserError where
    checkpoints cannot be written.
    """
    final = state / "final.safetensors"
    if final.is_file():
        model.load_state_dict(load_file(final))
        return model.eval()
    state.mkdir(parents=True, exist_ok=True)
    steps = plan.step_count(len(examples))
    set_seed(seed)
    arguments = TrainingArguments(
        output_dir=str(state),
        max_steps=steps,
        per_device_train_batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        lr_scheduler_type="linear" if plan.schedule == "linear" else "constant_with_warmup",
        warmup_steps=max(plan.warmup_floor, math.ceil(plan.warmup * steps)) if plan.warmup or plan.warmup_floor else 0,
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.clip,
        use_cpu=machine.cpu,
        seed=seed,
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=not machine.cpu,
    )
    callbacks: list[TrainerCallback] = [_SaveInTime(machine.save_seconds), _Report(state.name)]
    best = _Best(state, model, evaluate, steps_per_epoch(len(examples), plan.batch_size)) if evaluate else None
    trainer = _LossTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collate,
        callbacks=callbacks + ([best] if best else []),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.give(
        loss, batch_schedule(examples.lengths, plan.batch_size, steps, seed), steps, state.name, machine.bfloat16
    )
    try:
        trainer.train(resume_from_checkpoint=_complete_checkpoint(state))
    except OSError as error:
        raise UserError(
            f"{state.name}: cannot write to {state}: {error.strerror or error}; is the disk full?"
        ) from error
    if best:
        best.restore()
    temporary = final.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary)
    temporary.replace(final)
    for leftover in [*state.glob("checkpoint-*"), *state.glob("best.*")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return model.eval()


class _LossTrainer(Trainer):
    """Trainer with a given loss and a given list of batches, one "epoch" long."""

    def give(self, loss: Loss, schedule: list[list[int]], steps: int, stage: str, bfloat16: bool) -> None:
        self.loss, self.schedule, self.steps, self.stage = loss, schedule, steps, stage
        self.bfloat16 = bfloat16

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(self.train_dataset, batch_sampler=self.schedule, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        # Not the Trainer's own `bf16`: that patches the model's `forward` for good, so that every later evaluation
        # would be in bfloat16 too.
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.bfloat16):
            value = self.loss(model, inputs, self.state.global_step / self.steps)
        if not math.isfinite(value.item()):
            raise TrainingFailed(
                f"{self.stage}: the loss is {value.item()} at step {self.state.global_step + 1} of {self.steps} "
                f"(learning rate {self.args.learning_rate:g}); lower the learning rate"
            )
        return value


class _SaveInTime(TrainerCallback):
    """Asks for a checkpoint when the last is old enough, and marks each as complete once it is on the disk."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self.last >= self.seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()
        self.last = time.monotonic()


class _Report(TrainerCallback):
    """One line when a stage begins and ends; the bar is the Trainer's own."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.monotonic()
        log.info("%s: steps %d to %d", self.stage, state.global_step + 1, state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        log.info("%s: done in %.1f s", self.stage, time.monotonic() - self.began)


class _Best(TrainerCallback):
    """Keeps the weights of the epoch that scores highest."""

    def __init__(self, state: Path, model: nn.Module, evaluate: Callable[[Any], float], epoch: int) -> None:
        self.weights, self.note = state / "best.safetensors", state / "best.json"
        self.model, self.evaluate, self.epoch = model, evaluate, epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.epoch and state.global_step < state.max_steps:
            return
        training = self.model.training
        score = self.evaluate(self.model.eval())
        self.model.train(training)
        log.info("step %d: %.4f", state.global_step, score)
        if not self.note.is_file() or score > json.loads(self.note.read_text())["score"]:
            part = self.weights.with_suffix(".part")
            save_file({key: value.contiguous() for key, value in self.model.state_dict().items()}, part)
            part.replace(self.weights)
            part = self.note.with_suffix(".part")
            part.write_text(json.dumps({"score": score, "step": state.global_step}))
            part.replace(self.note)

    def restore(self) -> None:
        self.model.load_state_dict(load_file(self.weights))


def _complete_checkpoint(state: Path) -> str | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    complete = []
    for checkpoint in state.glob("checkpoint-*"):
        if (checkpoint / "complete").is_file():
            complete.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None
