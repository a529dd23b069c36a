"""Export the model behind a point of the main table, as a folder for the pipelines of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_log

from bench.analysis.budgets import at_budget, predicted
from bench.analysis.metrics import score
from bench.deploy.checking import Agreement, compare
from bench.deploy.writing import TORCH, Form, write
from bench.encoder import EarlyExitClassifier, EncoderConfig
from bench.encoder.cascade import CascadeConfig
from bench.encoder.saved import has_weights, kind_of, load_model, without_weights
from bench.errors import UserError
from bench.exit_policies.operating import exits_taken, plain
from bench.settings import Settings
from bench.sharing.card import write_card
from bench.store import RunKey, complete_or_not_at_all, read_json, read_points, run_folder, seed_of
from bench.tasks.catalogue import Task
from bench.tasks.catalogue import task as task_named
from bench.tasks.examples import Examples
from bench.tasks.prepare import prepare
from bench.trace import Costs, Trace


def take(
    settings: Settings,
    task: str,
    method: str,
    out: Path,
    *,
    speedup: float = 1.0,
    seed: int | None = None,
    form: Form = TORCH,
) -> str:
    """Export the model that the main table shows for a contestant at a speed-up.

    The best variant, exit and threshold on the selection split is exported. The folder has weights, exit policy,
    tokenizer and model card.

    Args:
        settings: The settings of the profile.
        task: The task.
        method: The contestant.
        out: The folder to write; must not exist.
        speedup: Least speed-up of the point.
        seed: The seed of the run; None: the first seed of the task.
        form: The runtime and precision to export for.

    Returns:
        A one-line description of the exported point.

    Raises:
        UserError: `out` exists, there is no such point, or its run failed, has no weights, or was trained again after
            the points were collected.
    """
    transformers_log.disable_progress_bar()
    seed = seed_of(settings, task, seed)
    points = read_points(settings)
    row = chosen(settings, points, task, method, speedup, seed)
    checked = write_model(settings, points, row, out, form)
    return (
        f"{row['label']}, seed {int(row['seed'])}, {str(row['kind']).replace('_', ' ')}: "
        f"{row['metric']} {100 * row['score']:.2f}, {row['speedup']:.2f}x cheaper on validation"
        + (f"; {form.name}: {checked.summary()}" if checked else "")
    )


def write_model(
    settings: Settings, points: pd.DataFrame, row: pd.Series, out: Path, form: Form = TORCH
) -> Agreement | None:
    """Write the model of a point as a folder.

    Args:
        settings: The settings of the profile.
        points: All points of the profile.
        row: The point: a row of `at_budget` on validation.
        out: The folder to write; must not exist.
        form: The runtime and precision to export for.

    Returns:
        The answers on the validation split of a model for another runtime than PyTorch.

    Raises:
        UserError: As in `take`.
    """
    if out.exists():
        raise UserError(f"{out} already exists; name another folder, or remove it")
    key = RunKey(str(row["task"]), str(row["method"]), str(row["variant"]), int(row["seed"]))
    folder = run_folder(settings, key)
    if not has_weights(folder):
        alone = f"costeff run {key.task} {key.method} {key.variant} --seed {key.seed} --config PROFILE"
        why, remedy = without_weights(folder)
        raise UserError(f"{key.path} has no weights here ({why}); {remedy}, or then train this model alone: {alone}")
    if (kind := kind_of(folder)) not in (EncoderConfig.model_type, CascadeConfig.model_type):
        raise UserError(
            f"{key.path} has a model class of its own ({kind}); only an Encoder or a Cascade can be exported"
        )
    trace = Trace.load(folder / "trace-validation.parquet")
    now = float(score(str(row["metric"]), predicted(row, trace), trace.labels))
    if abs(now - float(row["score"])) > 1e-9:
        raise UserError(f"{key.path} was trained again after its points were collected; run the workflow again")
    task = task_named(key.task, settings.own_tasks)
    units = task.range if task.regression and not task.is_glue else None
    model = EarlyExitClassifier.of(load_model(folder, torch.device("cpu")), plain(row), task.labels, units)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.model_max_length = settings.data.of(key.task).max_length[len(task.columns) - 1]
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    with complete_or_not_at_all(out) as part:
        tokenizer.save_pretrained(part)
        checked = None
        if form.runtime == "torch":
            model.save_pretrained(part)
        elif not (part / "tokenizer.json").is_file():
            raise UserError(
                f"the tokenizer of {key.path} has no tokenizer.json, which {form.runtime} needs; use --format torch"
            )
        else:
            write(model, part, form, tokenizer.model_max_length)
            examples = _validation(settings, task, tokenizer, key, trace)
            checked = compare(part, examples, predicted(row, trace), exits_taken(row, trace))
        facts = read_json(folder / "run.json")
        costs = Costs.load(folder / "costs.json")
        write_card(part / "README.md", settings, points, row, task, facts, costs, form, checked)
    return checked


def _validation(settings: Settings, task: Task, tokenizer: Any, key: RunKey, trace: Trace) -> Examples:
    """Return the validation examples of a trace.

    Raises:
        UserError: The text has changed since the run.
    """
    data = prepare(task, tokenizer, settings.data.of(key.task), settings.selection, seed=key.seed)
    examples = data.splits["validation"]
    if not (np.array_equal(trace.idx, examples.idx) and np.array_equal(trace.lengths, examples.lengths)):
        raise UserError(f"{key.path}: the text of {key.task} has changed since this run; run the workflow again")
    return examples


def chosen(
    settings: Settings, points: pd.DataFrame, task: str, method: str, speedup: float, seed: int | None
) -> pd.Series:
    """Return the row of the chosen point on validation.

    Raises:
        UserError: There is no such point.
    """
    seed = seed_of(settings, task, seed)
    if method not in settings.contestants:
        raise UserError(f"no contestant {method!r} in this profile; choose from {', '.join(settings.contestants)}")
    own = points[(points["task"] == task) & (points["method"] == method) & (points["seed"] == seed)]
    if own.empty:
        raise UserError(f"{method} has no run of its own on {task}, seed {seed}; take another contestant")
    row = at_budget(own, speedup).iloc[0]
    if pd.isna(row["score"]):
        most = own.loc[own["split"] == settings.selection, "speedup"].max() if "speedup" in own else float("nan")
        reach = "" if pd.isna(most) else f"; on {settings.selection} it reaches {most:.1f}x"
        raise UserError(f"{task}: {method}, seed {seed}: {row['reason']}{reach}")
    return row
