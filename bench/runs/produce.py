"""One run from data to operating points: train, trace every split once, count the costs, sweep the thresholds."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_log

from bench.artefacts import Costs, Trace
from bench.choosing import points
from bench.choosing.policies import policy_for
from bench.choosing.thresholds import per_exit
from bench.context import Context
from bench.errors import TrainingFailed
from bench.measuring import counting
from bench.measuring.recording import record
from bench.method import Method, contestant
from bench.runs.provenance import describe
from bench.settings import Settings
from bench.store import RunKey, run_folder, state_folder, write_json, write_parquet

log = logging.getLogger(__name__)

VERSION = 1
"""Raised when tracing, costing or the sweep of thresholds changes what a run holds; kept runs are then made anew."""


def produce(settings: Settings, key: RunKey) -> None:
    """Makes every artefact of one run (see docs/architecture.md), or goes on with what a killed one left.

    A training that fails (a loss that is not finite) is recorded as a run with its reason. Any other UserError is
    raised: the run is not there, and the next call tries again.
    """
    began = time.monotonic()
    _prepare(settings)
    method = contestant(settings, key.method, key.task)
    folder, state = run_folder(settings, key), state_folder(settings, key)
    state.mkdir(parents=True, exist_ok=True)
    context = Context(settings, method.task, key, state)
    try:
        model = method.train(context, key.variant).eval().requires_grad_(False)
    except TrainingFailed as error:
        log.error("%s", error)
        write_parquet(folder / "points.parquet", pd.DataFrame())
        write_json(folder / "run.json", describe(context, method, began) | {"status": "failed", "reason": str(error)})
        return
    trained = time.monotonic()
    _save_model(model, context, folder)
    traces = {}
    for split, examples in context.data.splits.items():
        if split != "train":
            traces[split] = record(model, examples, settings.training.eval_batch_size)
            traces[split].save(folder / f"trace-{split}.parquet")
    traced = time.monotonic()
    cost = counting.measure(model)
    cost.save(folder / "costs.json")
    _points(settings, key, method, context, traces, cost, folder)
    facts = describe(context, method, began) | {
        "status": "ok",
        "reason": "",
        "seconds": {
            "train": trained - began,
            "trace": traced - trained,
            "measure": time.monotonic() - traced,
        },
    }
    write_json(folder / "run.json", facts)
    shutil.rmtree(state, ignore_errors=True)


def _prepare(settings: Settings) -> None:
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    torch.set_num_threads(settings.training.threads)


def _points(
    settings: Settings,
    key: RunKey,
    method: Method,
    context: Context,
    traces: dict[str, Trace],
    cost: Costs,
    folder: Path,
) -> None:
    policy = policy_for(method.policy, method.task, method.exit_start())
    grid, trials = settings.thresholds.grid, settings.thresholds.trials
    vectors: Sequence[Sequence[float]] = ()
    if method.policy != "none" and trials:
        study = per_exit(policy, traces[settings.selection], cost, method.task, grid=grid, trials=trials, seed=key.seed)
        vectors = study.vectors
        write_parquet(folder / "threshold-trials.parquet", study.trials)
    table = points.build(
        points.RunName(key.task, key.method, key.variant, method.label(key.variant), key.seed),
        traces,
        cost,
        policy,
        method.task,
        grid=grid,
        vectors=vectors,
        selection=settings.selection,
        control=key.method == settings.reference,
    )
    write_parquet(folder / "points.parquet", table)


def _save_model(model: PreTrainedModel, context: Context, folder: Path) -> None:
    part = folder / "model.part"
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    context.tokenizer.save_pretrained(part)
    shutil.rmtree(folder / "model", ignore_errors=True)
    part.replace(folder / "model")
