"""The training context of a run: its data, backbone, models of other contestants and the training loop."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import set_seed

from bench.analysis.metrics import scores
from bench.analysis.points import predictions
from bench.encoder import backbones
from bench.encoder.saved import load_model
from bench.errors import TrainingFailed, UserError
from bench.measuring.recording import record
from bench.store import RunKey, needed_run, run_folder
from bench.tasks.prepare import Survey, prepare, survey
from bench.training.loop import Loss, Machine, Plan, fit
from bench.training.targets import FrozenTeacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.encoder import Cascade, Encoder
    from bench.encoder.exits import HeadKind
    from bench.settings import Settings
    from bench.tasks.catalogue import Task
    from bench.tasks.examples import Examples, TaskData
    from bench.trace import Trace

log = logging.getLogger(__name__)

Criterion = Callable[["Trace"], float]
"""Maps the trace of the selection split to the score that ranks checkpoints; higher is better."""


@dataclass(frozen=True)
class Context:
    """Inputs and services for the training of one run.

    Attributes:
        settings: Settings of the benchmark.
        task: Task of the run.
        key: Key of the run.
        state: Folder of the checkpoints from which an interrupted run resumes.
        attempt: Number of earlier trainings of this run that collapsed.
        stated: Number of optimizer steps that the method states in `stages`; None: no limit.
        steps: Optimizer steps of each stage so far.
        trainable: Number of trained parameters of each stage so far.
    """

    settings: Settings
    task: Task
    key: RunKey
    state: Path
    attempt: int = 0
    stated: int | None = None
    steps: list[int] = field(default_factory=list, compare=False)
    trainable: list[int] = field(default_factory=list, compare=False)

    @property
    def seed(self) -> int:
        """Seed of the initial weights and the order of batches.

        It is the seed of the run, or one derived from it after a collapse. The data always use the seed of the run.
        """
        return self.key.seed if not self.attempt else zlib.crc32(f"{self.key.seed} again {self.attempt}".encode())

    def again(self) -> Context:
        """Return the context of the next attempt after a collapse, with the same data and another seed."""
        attempt = self.attempt + 1
        fresh = replace(self, attempt=attempt, state=self.state / f"attempt-{attempt}", steps=[])
        fresh.__dict__.update({name: self.__dict__[name] for name in ("data", "tokenizer") if name in self.__dict__})
        return fresh

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the backbone."""
        return backbones.tokenizer(self.settings.backbone.name, self.settings.backbone.revision)

    @cached_property
    def data(self) -> TaskData:
        """The tokenized splits of the task."""
        return task_data(self.settings, self.task, self.tokenizer, seed=self.key.seed)

    @property
    def train(self) -> Examples:
        """The training examples."""
        return self.data.splits["train"]

    @property
    def selection(self) -> Examples:
        """The examples of the selection split, on which checkpoints and thresholds are chosen."""
        return self.data.splits[self.settings.selection]

    @cached_property
    def device(self) -> torch.device:
        """The device that the run computes on."""
        return pick_device(self.settings)

    @cached_property
    def machine(self) -> Machine:
        """The arithmetic of training on `device`, and the interval between checkpoints."""
        return machine_of(self.settings, self.device)

    def backbone(
        self, head: HeadKind, exits: str | list[int] = "last", name: str | None = None, signal: bool = False
    ) -> Encoder:
        """Load a pretrained encoder with new exit heads, which are initialized from `seed`.

        On regression the bias of every exit starts at the mean training score. Adam moves a bias by at most about one
        learning rate per step, so a short training that starts at 0 would not reach the scale of the scores.

        Args:
            head: Architecture of the exit heads.
            exits: "last", "all", or the numbers of the layers that have an exit.
            name: Checkpoint to load; default: the backbone of the settings.
            signal: Whether every exit has one additional output, for an exit policy that is learned
                (`EncoderOutput.signals`).
        """
        chosen = self.settings.backbone
        set_seed(self.seed)
        model = backbones.load(
            name or chosen.name,
            num_labels=self.task.outputs,
            head=head,
            pooling=chosen.pooling,
            exits=exits,
            revision=None if name else chosen.revision,
            depth=None if name else chosen.layers,
            device=self.device,
            signal=signal,
        )
        if self.task.regression:
            for key, parameter in model.exit_heads.named_parameters():
                if key.endswith("classifier.bias"):
                    torch.nn.init.constant_(parameter, float(self.train.labels.mean()))
        return model

    def model(self, contestant: str, variant: str, task: str | None = None) -> Any:
        """Return the trained model of another contestant, in evaluation mode; see `bench.method.Needed`."""
        key = needed_run(self.settings, self.key, contestant, variant, task)
        return load_model(run_folder(self.settings, key), self.device)

    def fit(
        self,
        model: nn.Module,
        loss: Loss,
        plan: Plan,
        stage: str,
        *,
        select: bool | Sequence[int] | Criterion = False,
        train: Examples | None = None,
        whole_vocabulary: bool = False,
    ) -> nn.Module:
        """Train `model` in place for one stage and return it. An interrupted stage resumes from its checkpoint.

        Args:
            model: Model to train; it is moved to the device of the context.
            loss: Function of (model, batch, progress) that returns a scalar; progress runs from 0 to 1.
            plan: Length, schedule and optimizer of the stage.
            stage: Name of the stage, unique within the run.
            select: How the checkpoint is chosen. False keeps the last epoch; every other value keeps the epoch with the
                highest score on the selection split. The score is the mean of the ranking metric over all exits (True),
                its mean over the exits with the given indices (0-based), or the value of a function of the trace.
            train: Training examples; default: those of the task.
            whole_vocabulary: Whether the loss reads the word embedding itself, or words that occur in no example.

        Raises:
            TrainingFailed: The stages of this run have more optimizer steps than the method states.
        """
        train = self.train if train is None else train
        self.steps.append(plan.step_count(len(train)))
        if self.stated is not None and sum(self.steps) > self.stated:
            raise TrainingFailed(
                f"{self.key.method}: it trains for {sum(self.steps)} optimizer steps up to the stage {stage!r}, but "
                f"its `stages` state {self.stated}; return every stage that `train` fits"
            )
        self.trainable.append(sum(part.numel() for part in model.parameters() if part.requires_grad))
        return fit(
            model.to(self.device),
            loss,
            train,
            plan,
            state=self.state / stage,
            seed=zlib.crc32(f"{self.seed}/{stage}".encode()),  # each stage has its own dropout and order of batches
            machine=self.machine,
            evaluate=(lambda trained: self._criterion(trained, select)) if select else None,
            whole_vocabulary=whole_vocabulary,
        )

    def teacher(
        self,
        model: Encoder,
        hidden: bool = False,
        train: Examples | None = None,
        attention: bool = False,
        layers: Sequence[int] | None = None,
    ) -> FrozenTeacher:
        """Return `model` as a frozen teacher of the training examples; the arguments are those of `FrozenTeacher`."""
        budget = self.settings.training.kept_gigabytes * 1e9
        examples = self.train if train is None else train
        bfloat16 = self.machine.bfloat16
        return FrozenTeacher(model, examples, budget, hidden, attention=attention, layers=layers, bfloat16=bfloat16)

    def _criterion(self, model: Encoder | Cascade, select: bool | Sequence[int] | Criterion) -> float:
        """Return the score that ranks epochs in `fit`, computed on the selection split in the precision of training."""
        trace = record(model, self.selection, self.settings.training.eval_batch_size, self.machine.bfloat16)
        if callable(select):
            return select(trace)
        found = scores(self.task, predictions(trace, self.task), trace.labels)[self.task.metrics[0]]
        return float(found.mean() if isinstance(select, bool) else found[list(select)].mean())


def task_data(
    settings: Settings,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[str] | None = None,
    seed: int | None = None,
) -> TaskData:
    """Return the tokenized splits of a task.

    Args:
        settings: Settings of the benchmark.
        task: Task to prepare.
        tokenizer: Tokenizer of the backbone.
        problems: See `bench.tasks.prepare.prepare`.
        seed: Seed that draws the training and calibration examples; default: the first seed of the task.
    """
    seed = settings.seeds_of(task.name)[0] if seed is None else seed
    return prepare(task, tokenizer, settings.data.of(task.name), settings.selection, problems, seed)


def data_survey(settings: Settings, task: Task, seed: int | None = None) -> Survey:
    """Return the fingerprint and the split sizes of the data of `task_data`; this needs no tokenizer."""
    seed = settings.seeds_of(task.name)[0] if seed is None else seed
    return survey(task, settings.data.of(task.name), settings.selection, seed)


def usable_cores() -> int:
    """Return the number of cores that this process may use, which a container or `taskset` may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wants_gpu(settings: Settings) -> bool:
    """Return whether the jobs of these settings compute on a GPU; for `device: auto`, whether this machine has one."""
    wanted = settings.training.device
    return wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())


def pick_device(settings: Settings) -> torch.device:
    """Return the device of the settings.

    Raises:
        UserError: If the settings require a GPU and torch finds none.
    """
    if not wants_gpu(settings):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("training.device is cuda, but PyTorch finds no GPU; use auto or cpu")
    return torch.device("cuda")


def machine_of(settings: Settings, device: torch.device) -> Machine:
    """Return the arithmetic of training on `device`, and the interval between checkpoints."""
    training = settings.training
    bfloat16 = training.precision == "bfloat16" or (training.precision == "auto" and native_bfloat16(device))
    return Machine(device.type == "cpu", bfloat16, training.save_seconds, training.tf32 and device.type == "cuda")


def native_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices in hardware; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
