"""Checks before training: the plan, the data, the checkpoints and the disk; and the size of a shape."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from bench.context import data_survey, pick_device, task_data
from bench.encoder import Encoder, EncoderConfig, backbones
from bench.encoder.shape import layout_named
from bench.errors import DataError, UserError
from bench.method import contestant
from bench.runs.collect import made_by_other_code
from bench.runs.identity import Identities
from bench.runs.plan import Planned, runs, summary
from bench.runs.planning.coming import Coming, coming
from bench.runs.planning.forecast import forecast
from bench.runs.planning.recipes import recipes
from bench.runs.training.lineage import steps_in_all
from bench.settings import Settings
from bench.store import RunKey, check_folders, run_folder
from bench.tasks.catalogue import task as task_named
from bench.tasks.quality import findings, overview

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.tasks.examples import TaskData

KEPT = 0.81
"""Size of a run's model / size of the backbone's float32 weights: the mean over 133 runs of the profile sketch-full."""
REST = 1.5e6
"""Bytes of the files of a run besides its weights, such as the tokenizer."""


def report(settings: Settings, cores: int) -> Iterator[str]:
    """Yield the report of `costeff check`: the plan, the data of each task with their quality, and a forecast.

    Args:
        settings: Settings of the benchmark.
        cores: Number of cores in the forecast.

    Raises:
        UserError: For the first thing that is missing. All problems of the data are yielded before.
    """
    yield from recipes(settings)  # first, since they need no checkpoint
    yield from summary(settings)
    yield f"device: {_device(settings)}"
    planned = runs(settings)
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    texts: dict[str, TaskData] = {}
    problems: list[str] = []
    for task in settings.tasks:
        count = sum(run.key.task == task for run in planned)
        yield from _check_data(settings, task, tokenizer, count, texts, problems)
    if problems:
        many = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise UserError(f"the data cannot be used as it is: {many}, listed above as `problem`")
    identities = Identities(settings)
    found = coming(settings, identities)
    if settings.training.budget:
        named = {run.key: f"{run.key.method} {run.key.variant}" for run in planned}
        yield from _check_budget(settings, named | {key: f"{key.method} (trials)" for key in found.trials}, texts)
    yield from found.lines()
    yield from _untested(settings, planned, identities, found)
    yield from made_by_other_code(settings)
    yield check_room(settings, found)
    yield from check_checkpoints(settings, planned, tokenizer)
    yield "check passed: settings, data, disk space and checkpoints"
    if _device(settings) in ("cpu", "cuda"):
        yield from forecast(settings, [*found.runs, *found.trials], texts, cores).lines()


def _check_budget(settings: Settings, runs: Mapping[RunKey, str], texts: Mapping[str, TaskData]) -> Iterator[str]:
    """Yield the optimizer steps of each name in `runs`, over its tasks and variants.

    Raises:
        UserError: If a variant cannot be fitted to the training budget on a task.
    """
    steps: dict[str, list[int]] = {}
    for key, name in {replace(key, seed=0): name for key, name in runs.items()}.items():
        method = contestant(settings, key.method, key.task)
        count = steps_in_all(method, key.variant, len(texts[key.task].splits["train"]))
        steps.setdefault(name, []).append(count)
    for name, found in steps.items():
        few, many = min(found), max(found)
        yield f"training budget: {name} {few if few == many else f'{few} to {many}'} steps"


def _untested(settings: Settings, planned: Sequence[Planned], identities: Identities, found: Coming) -> Iterator[str]:
    """Yield a line on the finished or copied runs that have no traces of the tests, with `data.test`."""
    if not settings.data.test:
        return
    there = {run.key: run_folder(settings, run.key) for run in planned if identities.recorded(run.key)}
    there = {**there, **found.reusable_runs}
    count = sum(not any(folder.glob("trace-test*.parquet")) for folder in there.values())
    if count:
        yield f"data.test: no effect on {count} finished or copied runs; `costeff submit` traces the tests where needed"


def _check_data(
    settings: Settings,
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    texts: dict[str, TaskData],
    problems: list[str],
) -> Iterator[str]:
    """Yield one line for each fact about the data of a task.

    Args:
        settings: Settings of the benchmark.
        task: Name of the task.
        tokenizer: Tokenizer of the backbone.
        count: Number of runs on the task.
        texts: Output: the tokenized splits are added under the name of the task.
        problems: Output: one line is added for each problem.
    """
    wrong: list[str] = []
    known = task_named(task, settings.own_tasks)
    try:
        data = texts[task] = task_data(settings, known, tokenizer, wrong)
    except UserError as error:
        wrong += _problems(error)
        data = None
    for seed in settings.seeds_of(task)[1:] if not wrong else ():  # each seed draws its own rows
        try:
            data_survey(settings, known, seed)
        except UserError as error:
            wrong += [f"seed {seed}: {line}" for line in _problems(error)]
    if data:
        sizes = ", ".join(f"{split} {len(examples)}" for split, examples in data.splits.items())
        lost = f"; {data.left_out} training rows left out (same group as a held-out row)" * bool(data.left_out)
        missing = f"; this source has no {', '.join(data.missing)}" if data.missing else ""
        yield f"data {task}: {sizes}; {count} runs train on {len(data.splits['train'])} examples{lost}{missing}"
        yield from (f"  {line}" for line in overview(data.quality))
        yield from (f"  note: {line}" for line in findings(data.quality))
    yield from (f"  problem: {line}" for line in wrong)
    problems += wrong


def _problems(error: UserError) -> Sequence[str]:
    return error.problems if isinstance(error, DataError) else [str(error)]


def _device(settings: Settings) -> str:
    """Return the device of the jobs, with a note if this machine does not have it."""
    try:
        return str(pick_device(settings))
    except UserError:
        return "cuda (this machine has no GPU; the machines that run the jobs need one)"


def check_checkpoints(
    settings: Settings, planned: Sequence[Planned], tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    """Load the backbone and all other checkpoints of the runs; yield one line for each.

    Raises:
        UserError: If a checkpoint cannot be used.
    """
    backbone = settings.backbone
    columns = {task: len(task_named(task, settings.own_tasks).columns) for task in settings.tasks}
    longest = max(settings.data.of(task).max_length[count - 1] for task, count in columns.items())
    pairs = max(columns.values()) > 1
    yield backbones.check(backbone.name, backbone.revision, words=tokenizer, longest=longest, pairs=pairs)
    others: dict[str, RunKey] = {}
    for run in planned:
        method = contestant(settings, run.key.method, run.key.task)
        for name in method.checkpoints(run.key.variant):
            others.setdefault(name, run.key)
    for name, key in others.items():
        try:
            yield backbones.check(name, words=tokenizer, longest=longest, pairs=pairs)
        except UserError as error:
            raise UserError(f"contestants.{key.method} ({key.variant}): {error}") from None


def check_room(settings: Settings, found: Coming) -> str:
    """Return a line on the disk space that the remaining runs need and the space that is free.

    The mean size of a model in float32 is `KEPT` x the backbone. Without `keep_models` only models that other runs need
    are kept, as long as these are missing. A run in training also keeps two checkpoints of the weights and Adam's two
    moments, and its best weights.

    Raises:
        UserError: If the space is not sufficient or the folder is not writable.
    """
    to_come = len(found)
    backbone = settings.backbone
    model = 4 * backbones.shape_of(backbone.name, backbone.revision, backbone.layers).parameters()
    kept = to_come if settings.keep_models else len({need for run in runs(settings) for need in run.needs})
    needed = (KEPT * min(kept, to_come) + 2 * 3 + 1) * model + REST * to_come if to_come else 0
    check_folders(settings.root.absolute())
    there = next(folder for folder in (settings.root.absolute(), *settings.root.absolute().parents) if folder.is_dir())
    if not os.access(there, os.W_OK):
        raise UserError(f"results {settings.root}: {there} cannot be written to; name another folder as `results`")
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"results {settings.root}: the {to_come} remaining runs need about {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free there; free some space, or name a folder on a larger disk as `results`"
        )
    return f"disk: {to_come} remaining runs need about {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free"


def size_of(
    layers: int,
    hidden: int,
    heads: int,
    ffn: int,
    rank: int | None,
    classes: int,
    length: int,
    head_size: int,
    vocabulary: int,
    positions: int,
    pooler: bool,
    layout: str = "bert",
) -> dict[str, Any]:
    """Return the parameters of a shape, and the cost of each exit for one example of `length` tokens.

    The arguments are those of `costeff size`. The encoder has an exit after every layer with COST-EFF's head; with
    `pooler` it has one exit after the last layer, with BERT's pooler.

    Raises:
        UserError: If the shape is not valid.
    """
    limits = {
        "layers": (layers, 1000),
        "hidden": (hidden, 2**16),
        "heads": (heads, 1024),
        "ffn": (ffn, 2**18),
        "classes": (classes, 10**5),
        "length": (length, 10**6),
        "head-size": (head_size, 2**12),
        "vocabulary": (vocabulary, 10**7),
        "positions": (positions, 10**6),
    }
    for name, (value, most) in limits.items():
        if not 1 <= value <= most:
            raise UserError(f"--{name} {value}: must be between 1 and {most}")
    if rank is not None and not 1 <= rank <= hidden:
        raise UserError(f"--rank {rank}: must be between 1 and the hidden size, {hidden}")
    if length > positions:
        raise UserError(f"--length {length}: the encoder has {positions} positions")
    if layout == "modernbert" and head_size % 2:
        raise UserError(f"--head-size {head_size}: rotary positions need an even size")
    config = EncoderConfig(
        layout=layout_named(layout),
        vocab_size=vocabulary,
        max_positions=positions,
        type_vocab_size=2 if layout == "bert" else 0,
        hidden_size=hidden,
        head_size=head_size,
        heads=[heads] * layers,
        ffn=[ffn] * layers,
        rank=None if rank == hidden else rank,
        exits=[layers] if pooler else list(range(1, layers + 1)),
        head="pooler" if pooler else "tanh",
        num_labels=classes,
    )
    with torch.device("meta"):
        model = Encoder(config)
    shape = config.shape
    exits = zip(model.exit_layers, model.exit_macs(length), strict=True)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_encoder": sum(shape.layer_parameters(i) for i in range(layers)),
        "length": length,
        "layers_macs": sum(shape.layer_macs(i, length) for i in range(layers)),
        "exits": [{"exit": layer, "macs": macs, "flops": 2 * macs} for layer, macs in exits],
        "convention": "multiply-adds of matrix products; FLOPs = 2 x multiply-adds",
    }
