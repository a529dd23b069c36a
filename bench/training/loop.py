"""Training loop with AdamW or BertAdam, a schedule of the learning rate, and checkpoints.

An interrupted stage resumes from its checkpoint and gives the same weights as an uninterrupted one, bit for bit on the
CPU: the schedule of all batches is drawn before the first step, and a checkpoint holds the optimizer, the best weights
and the states of the random generators. Gradient clipping, learning rate and the selection of decayed parameters are
those of the Trainer of transformers; a test compares them.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import TrainingFailed
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples
from bench.training import saving
from bench.training.feeding import feed
from bench.training.optimizers import adam, clip
from bench.training.saving import CHECKPOINT, FINAL, Saving
from bench.training.words import UsedWords

log = logging.getLogger(__name__)

Loss = Callable[[Any, dict[str, Tensor], float], Tensor]
"""Function (model, batch, progress of the stage in [0, 1)) -> scalar loss."""

LOOK = 25
"""Interval, in steps, of the check for a finite loss on a GPU. Each check waits for the GPU."""
LOG_SECONDS = 30.0
"""Interval, in seconds, of progress lines in the log."""


@dataclass(frozen=True)
class Plan:
    """Length and optimizer of a training stage.

    The defaults are those of fine-tuning BERT with the Trainer of transformers. BertAdam, the optimizer of the original
    BERT code, is `bias_correction=False, clip_each=True, epsilon=1e-6`.
    """

    epochs: float
    """Passes over the examples; may be a fraction."""
    learning_rate: float
    """Peak learning rate."""
    batch_size: int = 32
    rows_at_once: int | None = None
    """Largest number of rows in a forward pass. Larger batches are split (gradient accumulation). None: no limit."""
    steps: int | None = None
    """Number of optimizer steps; overrides `epochs`. 0: a stage that does not train (`Stage.untrained`)."""
    warmup: float = 0.1
    """Fraction of the steps in which the learning rate increases from 0; at least `warmup_floor` steps."""
    warmup_floor: int = 0
    schedule: str = "linear"
    """Learning rate after the warm-up: "linear" and "cosine" decrease to 0, "constant" stays."""
    weight_decay: float = 0.01
    """Decoupled weight decay of all parameters except biases and LayerNorm weights."""
    clip: float = 1.0
    """Largest Euclidean norm of the gradient."""
    clip_each: bool = False
    """Whether `clip` limits the gradient of each parameter separately instead of all of them together."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the moments of Adam."""
    epsilon: float = 1e-8
    """Epsilon of Adam."""
    bias_correction: bool = True
    """Whether the moments of Adam are corrected for their start at 0."""

    def step_count(self, examples: int) -> int:
        """Return the number of optimizer steps for this many examples."""
        if self.steps is not None:
            return self.steps
        return max(1, round(self.epochs * steps_per_epoch(examples, self.batch_size)))

    def choices(self, examples: int) -> int:
        """Return how often a stage that keeps its best epoch evaluates the model: after each epoch and at the end.

        It is 0 if there would be only one evaluation.
        """
        count = math.ceil(self.step_count(examples) / steps_per_epoch(examples, self.batch_size))
        return count if count > 1 else 0

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of update `step` (0-based) of `steps`."""
        warmup = max(self.warmup_floor, math.ceil(self.warmup * steps)) if self.warmup or self.warmup_floor else 0
        if step < warmup:
            return self.learning_rate * (step / warmup)
        remaining = max(0.0, (steps - step) / max(1, steps - warmup))
        if self.schedule == "cosine":
            return self.learning_rate * (1 - math.cos(math.pi * remaining)) / 2
        return self.learning_rate * (remaining if self.schedule == "linear" else 1)


@dataclass(frozen=True)
class Machine:
    """Device and arithmetic of a run, and when it saves checkpoints."""

    cpu: bool
    bfloat16: bool
    save_seconds: float
    tf32: bool = False
    """Whether float32 matrix products on a GPU use TF32."""
    saving: Saving = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "saving", Saving(self.save_seconds))


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the number of batches in an epoch; the last batch may be incomplete."""
    return math.ceil(examples / batch_size)


def batch_schedule(lengths: np.ndarray, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Return the batches of a whole stage as positions of examples.

    Each epoch is shuffled again, with examples of similar length in the same batch.
    """
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
    whole_vocabulary: bool = False,
) -> nn.Module:
    """Train `model` in place and return it in eval mode.

    Args:
        model: The model to train.
        loss: The loss of the stage.
        examples: The training examples.
        plan: Length and optimizer of the stage.
        state: Folder of the stage. Once the run is old enough (`Saving`) it holds a checkpoint during the stage and the
            final weights afterwards. A second call with the same folder resumes or returns at once.
        seed: Seed of the schedule of batches and of dropout.
        machine: Device and arithmetic.
        evaluate: Function that scores the model after each epoch. The weights with the highest score are kept, the
            earliest of equal ones. None: the last weights are kept.
        whole_vocabulary: Whether all word embeddings are trained in every step, for losses that use words outside the
            examples or the word embedding itself.

    Raises:
        TrainingFailed: The loss is not finite.
    """
    final = state / FINAL
    if final.is_file():
        model.load_state_dict(saving.read(final)[0])
        machine.saving.resumed()
        _seed(seed + 1)
        return model.eval()
    _seed(seed)
    stage = _Stage(model, examples, plan, state, whole_vocabulary)
    if not plan.choices(len(examples)):
        evaluate = None
    try:
        stage.run(loss, batch_schedule(examples.lengths, plan.batch_size, stage.steps, seed), machine, evaluate)
    finally:
        for words in stage.words:
            words.close()
    if machine.saving.old_enough():
        saving.write(model.state_dict(), final)
        (state / CHECKPOINT).unlink(missing_ok=True)
        machine.saving.wrote()
    _seed(seed + 1)  # what follows is the same after a stage that is resumed at its end
    return model.eval()


def _seed(seed: int) -> None:
    """Seed the global random generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def decays(model: nn.Module) -> set[str]:
    """Return the names of the parameters with weight decay: all except biases and LayerNorm weights."""
    norms = {name for name, part in model.named_modules() if isinstance(part, nn.LayerNorm)}
    return {
        name
        for name, _ in model.named_parameters()
        if name.rpartition(".")[0] not in norms and name.rpartition(".")[2] != "bias"
    }


class _Stage:
    """State of a training stage: model, optimizer, best weights, and the number of steps done."""

    def __init__(self, model: nn.Module, examples: Examples, plan: Plan, folder: Path, whole_vocabulary: bool) -> None:
        self.model, self.examples, self.plan, self.folder = model, examples, plan, folder
        self.steps = plan.step_count(len(examples))
        self.epoch = steps_per_epoch(len(examples), plan.batch_size)
        self.words = [] if whole_vocabulary else UsedWords.of(model, examples)
        rows = {id(words.table.weight): words.rows for words in self.words}
        self.trained = {
            name: rows.get(id(parameter), parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        decayed = decays(model)
        groups = [
            {"params": [p for n, p in self.trained.items() if n in decayed], "weight_decay": plan.weight_decay},
            {"params": [p for n, p in self.trained.items() if n not in decayed], "weight_decay": 0.0},
        ]
        self.optimizer = adam(groups, plan.learning_rate, plan.betas, plan.epsilon, plan.bias_correction)
        self.device = next(model.parameters()).device
        self.done = 0
        self.best: dict[str, Tensor] | None = None
        self.best_score = -math.inf
        self.broken = torch.full((), -1, device=self.device)
        """First step (0-based) with a loss that is not finite; -1 if there is none."""

    def run(
        self,
        loss: Loss,
        schedule: list[list[int]],
        machine: Machine,
        evaluate: Callable[[Any], float] | None,
    ) -> None:
        if (self.folder / CHECKPOINT).is_file():
            self._load()
            machine.saving.resumed()
        log.info("%s: steps %d to %d", self.folder.name, self.done + 1, self.steps)
        began = logged = time.monotonic()
        self.model.train()
        batches = feed(self.examples, schedule[self.done :], self.device)
        for step in range(self.done, self.steps):
            self._step(loss, next(batches), step, machine.bfloat16)
            self.done = step + 1
            chosen = evaluate is not None and (self.done % self.epoch == 0 or self.done == self.steps)
            saved = machine.saving.due() and self.done < self.steps
            if chosen or saved or machine.cpu or self.done % LOOK == 0 or self.done == self.steps:
                self._check()
            if evaluate is not None and chosen:
                self._choose(evaluate)
            if saved:
                self._save()
                machine.saving.wrote()
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                log.info("%s: step %d of %d", self.folder.name, self.done, self.steps)
        for words in self.words:
            words.write_back()
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.zero_grad(set_to_none=True)
        log.info("%s: done in %.1f s", self.folder.name, time.monotonic() - began)

    def _step(self, loss: Loss, batch: dict[str, Tensor], step: int, bfloat16: bool) -> None:
        for part, share in _parts(batch, self.plan.rows_at_once):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                value = loss(self.model, part, step / self.steps)
            (value * share).backward()
            first = (self.broken < 0) & ~torch.isfinite(value.detach())
            self.broken = torch.where(first, step, self.broken)
        clip(list(self.trained.values()), self.plan.clip, self.plan.clip_each)
        rate = self.plan.rate(step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for words in self.words:
            words.decayed(1 - rate * self.plan.weight_decay)
        self.optimizer.zero_grad()

    def _check(self) -> None:
        for words in self.words:
            words.check()
        step = int(self.broken)
        if step >= 0:
            raise TrainingFailed(
                f"{self.folder.name}: the loss is not finite at step {step + 1} of {self.steps} "
                f"(learning rate {self.plan.learning_rate:g}); lower the learning rate"
            )

    def _choose(self, evaluate: Callable[[Any], float]) -> None:
        """Keep a copy of the weights in memory if their score is the highest so far."""
        for words in self.words:
            words.write_back()
        score = evaluate(self.model.eval())
        self.model.train()
        log.info("step %d: %.4f", self.done, score)
        if self.best is not None and not score > self.best_score:
            return
        self.best_score = score
        self.best = {key: value.clone() for key, value in self.model.state_dict().items()}

    def _save(self) -> None:
        tensors, plain = saving.random_state()
        tensors |= {f"model.{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in (self.best or {}).items()}
        for name, parameter in self.trained.items():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        # Not written back to the table, whose rounding would then differ from that of an uninterrupted stage.
        tensors |= {f"words.{i}": words.rows.detach() for i, words in enumerate(self.words)}
        notes = {
            "step": self.done,
            "score": self.best_score,
            "factors": [words.factor for words in self.words],
            "random": plain,
        }
        saving.write(tensors, self.folder / CHECKPOINT, notes)

    @torch.no_grad()
    def _load(self) -> None:
        tensors, notes = saving.read(self.folder / CHECKPOINT)
        self.done, self.best_score = notes["step"], notes["score"]
        self.model.load_state_dict(_under("model.", tensors))
        self.best = {key: value.to(self.device) for key, value in _under("best.", tensors).items()} or None
        for i, words in enumerate(self.words):
            words.rows.copy_(tensors[f"words.{i}"])
            words.factor = notes["factors"][i]
        for name, parameter in self.trained.items():
            found = _under(f"optimizer.{name}.", tensors)
            if found:  # empty before the first gradient of the parameter
                # The fused step needs the memory layout of the parameter.
                likes = {"exp_avg": parameter, "exp_avg_sq": parameter, "step": torch.zeros((), device=self.device)}
                state = {key: torch.empty_like(like).copy_(found[key]) for key, like in likes.items()}
                self.optimizer.state[parameter] = state
        saving.set_random_state(tensors, notes["random"])


def _parts(batch: dict[str, Tensor], rows: int | None) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Yield a batch in parts of at most `rows` rows, each with its fraction of the rows."""
    count = len(batch["idx"])
    if rows is None or count <= rows:
        yield batch, 1.0
        return
    for start in range(0, count, rows):
        part = {key: value[start : start + rows] for key, value in batch.items()}
        yield part, len(part["idx"]) / count


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
