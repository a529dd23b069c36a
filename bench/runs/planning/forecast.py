"""Forecast of the time that a plan takes on this machine, from a few timed training steps.

    seconds of a training step = a x multiply-adds + b x tokens x layers + c x parameters

a covers matrix products, b the other operations per token and layer (norms, softmax, activations), c the optimizer.
Forward passes without training (traces, teachers, selection) have a and b of their own. Coefficients are fitted to the
timed steps; counts come from `Method.stages` and the lengths of the tasks' texts.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from bench.context import machine_of, pick_device, usable_cores
from bench.encoder import Encoder, EncoderConfig, Shape, Width
from bench.errors import NoStages
from bench.measuring.recording import record
from bench.method import Stage, contestant
from bench.runs.plan import runs as planned_runs
from bench.runs.training.lineage import stages_of
from bench.settings import Settings
from bench.store import RunKey
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples, TaskData
from bench.training.loop import Machine, Plan, fit
from bench.training.losses import task_loss

JOB_SECONDS = 3.0
"""Seconds of a job besides its models: start, text, counting FLOPs, writing."""
REPORT_SECONDS = 40.0
"""Seconds of tables, figures and page."""
STEPS = 3
"""Timed steps of each kind."""
LAYERS = 2
"""Layers of the timed models."""
LARGEST = 2e10
"""Upper bound of the multiply-adds of a timed forward pass, so that large backbones take seconds too."""


@dataclass(frozen=True)
class Work:
    """Amount of work: multiply-adds of the forward pass, tokens x layers, parameters that a step changes."""

    macs: float = 0.0
    tokens: float = 0.0
    parameters: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.tokens + other.tokens, self.parameters + other.parameters)

    def __mul__(self, times: float) -> Work:
        return Work(self.macs * times, self.tokens * times, self.parameters * times)

    def __iter__(self) -> Iterator[float]:
        return iter((self.macs, self.tokens, self.parameters))


@dataclass(frozen=True)
class Pace:
    """Seconds per unit of work, in training and in forward passes alone."""

    training: Work
    reading: Work

    def seconds(self, trained: Work, read: Work) -> float:
        """Return the seconds of this much training and this many forward passes."""
        return float(np.dot([*self.training, *self.reading], [*trained, *read]))


@dataclass(frozen=True)
class Forecast:
    """Seconds of each run, of the latency job, and of the whole plan with `jobs` at once."""

    runs: Mapping[RunKey, float]
    clock: float
    jobs: int
    unknown: tuple[str, ...]
    """Contestants without `Method.stages`; their runs are not counted."""

    @property
    def whole(self) -> float:
        """Seconds of all runs, the latency job and the report."""
        return sum(self.runs.values()) / self.jobs + self.clock + REPORT_SECONDS

    def lines(self) -> Iterator[str]:
        """Yield the forecast as text: each task, then the whole."""
        tasks = dict.fromkeys(key.task for key in self.runs)
        for task in tasks:
            seconds = sum(value for key, value in self.runs.items() if key.task == task) / self.jobs
            yield f"forecast {task}: {duration(seconds)}"
        clock = duration(self.clock)
        yield f"forecast: {duration(self.whole)} in all, {self.jobs} jobs at once, {clock} of it for latency"
        for name in self.unknown:
            yield f"forecast: {name} has no `Method.stages`, so its runs are not included"


def duration(seconds: float) -> str:
    """Return seconds as text in s, min or h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def forecast(settings: Settings, runs: Sequence[RunKey], data: Mapping[str, TaskData], cores: int) -> Forecast:
    """Return how long these runs and the latency job take here with `cores` cores, after timing a few steps."""
    backbone = contestant(settings, settings.reference, settings.tasks[0]).backbone
    lengths = np.concatenate([data[task].splits["train"].lengths for task in settings.tasks])
    jobs = max(1, min(cores, usable_cores()) // settings.training.threads)
    measure = partial(measured_pace, settings, backbone, lengths)
    pace = _together(measure, jobs, pick_device(settings), settings.training.threads)
    found: dict[RunKey, float] = {}
    unknown: dict[str, None] = {}
    of_variant: dict[tuple[str, str, str], float] = {}  # all seeds of a variant take the same time
    for run in runs:
        variant = (run.task, run.method, run.variant)
        try:
            if variant not in of_variant:
                of_variant[variant] = pace.seconds(*work_of(settings, run, data[run.task])) + JOB_SECONDS
            found[run] = of_variant[variant]
        except NoStages:
            unknown[run.method] = None
    return Forecast(found, _clock(settings, data, pace), jobs, tuple(unknown))


def work_of(settings: Settings, key: RunKey, data: TaskData) -> tuple[Work, Work]:
    """Return the work of a run in training and in forward passes alone.

    Raises:
        NoStages: If its method has no `stages`.
    """
    method = contestant(settings, key.method, key.task)
    train, selection = data.splits["train"], data.splits[settings.selection]
    stages, words = stages_of(method, key.variant, len(train)), _used_words(train)
    trained, read = Work(), Work()
    for stage in stages:
        step = _step(stage, train, words)
        trained += step * stage.steps + Work(macs=stage.other_macs)
        if stage.scored:
            trained += replace(step, parameters=0.0) * (stage.scored / stage.plan.batch_size)
        if stage.selects:
            read += _work(stage.shape, selection.lengths) * stage.plan.choices(stage.examples)
        if stage.kept:
            read += _work(stage.kept, train.lengths)
        if stage.beside:
            read += (
                replace(_step(replace(stage, shape=stage.beside, depth=None), train, words), parameters=0.0)
                * stage.steps
            )
    traced = next((stage.shape for stage in reversed(stages) if stage.selects), stages[-1].shape)
    for split, examples in data.splits.items():
        if split != "train":
            read += _work(traced, examples.lengths)
    return trained, read


def measured_pace(settings: Settings, backbone: Shape, lengths: NDArray[np.int64]) -> Pace:
    """Return the pace of this process, from steps of the backbone's first layers, at full width and narrow."""
    torch.set_num_threads(settings.training.threads)
    device = pick_device(settings)
    machine = replace(machine_of(settings, device), save_seconds=math.inf)
    whole = backbone.truncated(min(LAYERS, backbone.layers))
    narrow = whole.narrowed(Width(max(1, whole.heads[0] // 6), max(1, whole.ffn[0] // 12), whole.hidden))
    short, long = (max(4, round(float(np.percentile(lengths, part)))) for part in (10, 90))
    trained, read, training, reading = [], [], [], []
    for shape, rows, length in ((whole, 32, short), (whole, 32, long), (narrow, 32, long), (whole, 2, short)):
        each = _work(shape, np.array([length]))
        rows = max(1, min(rows, int(LARGEST / each.macs)))
        examples = _random_words(rows, length, shape.vocabulary)
        step, evaluation = _timed(Encoder(_config(shape)).to(device), examples, machine)
        trained.append([*(each * rows + Work(parameters=_parameters(shape, _used_words(examples))))])
        read.append([*(each * rows)][:2])
        training.append(step)
        reading.append(evaluation)
    return Pace(Work(*_coefficients(trained, training)), Work(*_coefficients(read, reading)))


def _coefficients(work: list[list[float]], seconds: list[float]) -> NDArray[np.float64]:
    """Return the non-negative coefficients with the least squared relative error."""
    relative = np.array(work) / np.array(seconds)[:, None]
    scale = relative.max(axis=0)
    return nnls(relative / scale, np.ones(len(seconds)))[0] / scale


def _timed(model: Encoder, examples: Examples, machine: Machine) -> tuple[float, float]:
    """Return the median seconds of a training step on `examples`, and of a forward pass."""
    began: list[float] = []

    def loss(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        began.append(_now(model.device))
        logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits
        return task_loss(logits, batch["labels"])

    plan = Plan(epochs=1, steps=STEPS + 2, learning_rate=0.0, batch_size=len(examples))
    with tempfile.TemporaryDirectory() as state, _quiet("bench.training.loop"):
        fit(model, loss, examples, plan, state=Path(state), seed=0, machine=machine)
    read = []
    for _ in range(STEPS):
        start = _now(model.device)
        record(model, examples, len(examples))
        read.append(_now(model.device) - start)
    return float(np.median(np.diff(began)[1:])), float(np.median(read))


def _now(device: torch.device) -> float:
    """Return the time in seconds, after the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger below warnings."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)


def _together(measure: Callable[[], Pace], jobs: int, device: torch.device, threads: int) -> Pace:
    """Return the mean pace of `jobs` processes at once, which share memory and cores; on a GPU that of this one.

    Processes of several threads are started afresh, since a forked process cannot use OpenMP threads after its parent
    has used them.
    """
    if jobs == 1 or device.type != "cpu":
        return measure()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork" if threads == 1 else "spawn")) as pool:
        found = [future.result() for future in [pool.submit(measure) for _ in range(jobs)]]
    return Pace(
        *(Work(*np.mean([[*getattr(pace, kind)] for pace in found], axis=0)) for kind in ("training", "reading"))
    )


def _step(stage: Stage, data: Examples, used_words: int) -> Work:
    """Return the mean work of a training step of a stage, over one epoch."""
    lengths = data.lengths
    batches = length_batches(lengths, stage.plan.batch_size, np.random.default_rng(0))
    padded = [int(lengths[rows].max()) for rows in batches]
    depth = stage.depth
    work = sum(
        (_work(stage.shape, np.full(len(rows), n), depth) for rows, n in zip(batches, padded, strict=True)), Work()
    )
    words = sum(len(rows) * n for rows, n in zip(batches, padded, strict=True)) * stage.words
    work += Work(macs=words * stage.shape.vocabulary * stage.shape.hidden)
    used = _parameters(stage.shape, used_words) + bool(stage.words) * stage.shape.vocabulary * stage.shape.hidden
    return work * (1 / len(batches)) + Work(parameters=used)


def _work(shape: Shape, lengths: NDArray[np.int64], depth: float | None = None) -> Work:
    """Return the work of a forward pass over examples of these lengths [N] in tokens, padding included.

    `depth` is the number of layers that are computed, on average, if it is not that of the shape.
    """
    counts = {int(n): int(many) for n, many in zip(*np.unique(lengths, return_counts=True), strict=True)}
    times = 1 if depth is None else depth / shape.layers
    macs = sum(
        many * (shape.embedding_macs(n) + times * sum(shape.layer_macs(layer, n) for layer in range(shape.layers)))
        for n, many in counts.items()
    )
    return Work(macs, float(lengths.sum()) * shape.layers * times)


def _config(shape: Shape) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=shape.vocabulary,
        max_positions=shape.positions,
        type_vocab_size=shape.segments,
        hidden_size=shape.hidden,
        head_size=shape.head_size,
        heads=list(shape.heads),
        ffn=list(shape.ffn),
        rank=shape.rank,
        layout=shape.layout,
        attention_norms=list(shape.attention_norms),
        num_labels=2,
    )


def _used_words(data: Examples) -> int:
    return len(set(chain.from_iterable(data.input_ids)))


def _parameters(shape: Shape, used_words: int) -> float:
    """Return the parameters that a step changes: layers, positions, and the embeddings of the words in the text."""
    layers = sum(shape.layer_parameters(layer) for layer in range(shape.layers))
    return float(layers + shape.position_rows * shape.hidden + used_words * (shape.rank or shape.hidden))


def _random_words(rows: int, length: int, vocabulary: int) -> Examples:
    words = np.random.default_rng(0).integers(vocabulary, size=(rows, length))
    none = np.zeros(rows, dtype=np.int64)
    return Examples(np.arange(rows), none, words.tolist(), np.zeros_like(words).tolist())


def _clock(settings: Settings, data: Mapping[str, TaskData], pace: Pace) -> float:
    """Return the seconds of the latency job: each run at full depth and at two cheaper points, and the reference."""
    seconds = 0.0
    for run in planned_runs(settings):
        task = run.key.task
        if run.key.seed != settings.seeds_of(task)[0]:
            continue
        method = contestant(settings, run.key.method, task)
        try:
            shape = stages_of(method, run.key.variant, len(data[task].splits["train"]))[0].shape
        except NoStages:
            shape = method.backbone
        mean = _work(shape, data[task].splits["validation"].lengths) * (1 / len(data[task].splits["validation"]))
        read = mean * (2 * settings.latency.examples * settings.latency.rounds * 2)
        seconds += 0.5 + pace.seconds(Work(), read)
    return seconds
