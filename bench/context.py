"""What a recipe is given: the data, the backbone, other contestants' models, and the training loop."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import set_seed

from bench.analysis.points import predictions
from bench.encoder import backbones
from bench.encoder.saved import load_model
from bench.errors import UserError
from bench.measuring.recording import record
from bench.store import RunKey, run_folder
from bench.tasks.prepare import Survey, prepare, survey
from bench.tasks.scores import scores
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
"""The trace of the selection split -> the score by which a checkpoint is chosen; higher is better."""


@dataclass(frozen=True)
class Context:
    """What the training of one run is given.

    Attributes:
        settings: The settings.
        task: The task.
        key: The run.
        state: Folder for what a resumed run needs.
        attempt: How often the run was trained before and collapsed.
    """

    settings: Settings
    task: Task
    key: RunKey
    state: Path
    attempt: int = 0

    @property
    def seed(self) -> int:
        """Seed of weights and order: the run's, or after a collapse one derived from it. Data follow the run's."""
        return self.key.seed if not self.attempt else zlib.crc32(f"{self.key.seed} again {self.attempt}".encode())

    def again(self) -> Context:
        """Return the context of the next attempt after a collapse: the same data, another seed."""
        attempt = self.attempt + 1
        fresh = replace(self, attempt=attempt, state=self.state / f"attempt-{attempt}")
        fresh.__dict__.update({name: self.__dict__[name] for name in ("data", "tokenizer") if name in self.__dict__})
        return fresh

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return backbones.tokenizer(self.settings.backbone.name, self.settings.backbone.revision)

    @cached_property
    def data(self) -> TaskData:
        return task_data(self.settings, self.task, self.tokenizer, seed=self.key.seed)

    @property
    def train(self) -> Examples:
        """The training examples."""
        return self.data.splits["train"]

    @property
    def selection(self) -> Examples:
        """The examples on which checkpoints and thresholds are chosen."""
        return self.data.splits[self.settings.selection]

    @cached_property
    def device(self) -> torch.device:
        return pick_device(self.settings)

    @cached_property
    def machine(self) -> Machine:
        return machine_of(self.settings, self.device)

    def backbone(
        self, head: HeadKind, exits: str | list[int] = "last", name: str | None = None, signal: bool = False
    ) -> Encoder:
        """The settings' pre-trained encoder (or another checkpoint, by name) with fresh exits, drawn from the seed.

        `signal`: every exit says one more number, for a model that learns when to leave (`EncoderOutput.signals`).
        On regression every exit starts at the mean training score: Adam moves a bias by its learning rate a step, and
        short trainings would spend themselves on getting from 0 to there.
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
            device=self.device,
            signal=signal,
        )
        if self.task.regression:
            for key, parameter in model.exit_heads.named_parameters():
                if key.endswith("classifier.bias"):
                    torch.nn.init.constant_(parameter, float(self.train.labels.mean()))
        return model

    def model(self, contestant: str, variant: str) -> Any:
        """The finished model of another contestant, of the same task and seed, in eval mode."""
        key = RunKey(self.key.task, contestant, variant, self.key.seed)
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
        """Train `model` in place and return it; a killed run resumes under the name `stage`.

        Args:
            model: What is trained; moved to the context's device.
            loss: (model, batch, progress) -> scalar.
            plan: Length and optimizer.
            stage: Name of this training, unique within the run.
            select: Whether the epoch that scores highest on the selection split is kept, else the last one. The score
                is the mean of the ranking metric over all exits (True) or over some (their 0-based numbers), or what a
                function returns for the trace of that split.
            train: Training examples; default: the task's.
            whole_vocabulary: Whether the loss reads words that no example holds, or the word embedding itself.
        """
        return fit(
            model.to(self.device),
            loss,
            self.train if train is None else train,
            plan,
            state=self.state / stage,
            seed=zlib.crc32(f"{self.seed}/{stage}".encode()),  # a stage's own dropout and order of batches
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
        """`model` as a frozen teacher of the training examples; see `FrozenTeacher` for `attention` and `layers`."""
        budget = self.settings.training.kept_gigabytes * 1e9
        examples = self.train if train is None else train
        bfloat16 = self.machine.bfloat16
        return FrozenTeacher(model, examples, budget, hidden, attention=attention, layers=layers, bfloat16=bfloat16)

    def _criterion(self, model: Encoder | Cascade, select: bool | Sequence[int] | Criterion) -> float:
        """Return what `fit` ranks epochs by, computed on the selection split in the precision of training."""
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
    """Return the splits of a task as these settings want them.

    Args:
        settings: The settings.
        task: The task.
        tokenizer: The backbone's tokenizer.
        problems: See `bench.tasks.prepare.prepare`.
        seed: Seed of the run, which draws its training and calibration examples; None: the task's first.
    """
    seed = settings.seeds_of(task.name)[0] if seed is None else seed
    return prepare(task, tokenizer, settings.data.of(task.name), settings.selection, problems, seed)


def data_survey(settings: Settings, task: Task, seed: int | None = None) -> Survey:
    """Return what is known of the same without a tokenizer: the fingerprint and the sizes of its splits."""
    seed = settings.seeds_of(task.name)[0] if seed is None else seed
    return survey(task, settings.data.of(task.name), settings.selection, seed)


def usable_cores() -> int:
    """Return the cores that this process may use: of a container or `taskset`, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wants_gpu(settings: Settings) -> bool:
    """Whether these settings' jobs compute on a GPU, as far as this machine can tell."""
    wanted = settings.training.device
    return wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())


def pick_device(settings: Settings) -> torch.device:
    """The device of the settings. Raises UserError where a GPU is asked for and there is none."""
    if not wants_gpu(settings):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("training.device: cuda, but torch sees no GPU; use auto or cpu")
    return torch.device("cuda")


def machine_of(settings: Settings, device: torch.device) -> Machine:
    """How a run of these settings computes on `device`, and how often it saves."""
    training = settings.training
    bfloat16 = training.precision == "bfloat16" or (training.precision == "auto" and native_bfloat16(device))
    return Machine(device.type == "cpu", bfloat16, training.save_seconds, training.tf32 and device.type == "cuda")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (elsewhere it is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
