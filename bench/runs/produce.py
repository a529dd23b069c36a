"""One run from data to operating points: train, trace every split once, count the costs, sweep the thresholds."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_log

from bench.artefacts import Costs, Trace
from bench.choosing import points
from bench.choosing.budgets import POINT, RUN, at_budget, static_rows
from bench.choosing.policies import policy_for, rule
from bench.choosing.thresholds import per_exit
from bench.context import Context, load_model, pick_device, task_data
from bench.encoder import backbones
from bench.errors import TrainingFailed
from bench.measuring import counting, latency
from bench.measuring.engine import Leaves
from bench.measuring.recording import record
from bench.method import Method, contestant
from bench.runs.collect import collect_task
from bench.runs.provenance import describe
from bench.settings import Settings
from bench.store import RunKey, run_folder, state_folder, write_json, write_parquet
from bench.tasks.catalogue import task as task_named

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


def measure_latency(settings: Settings, task: str, seed: int, out: Path) -> None:
    """Wall-clock of every contestant's engine at its best points for the settings' speed-ups, beside the reference's.

    Writes one row a run, point and batch size: `speedup` is the reference's time over the engine's. Should run alone.
    """
    _prepare(settings)
    device = pick_device(settings)
    reference = load_model(run_folder(settings, RunKey(task, settings.reference, "full", seed)), device)
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    splits = task_data(settings, task_named(task, settings.own_tasks), tokenizer).splits
    examples = splits["validation"].take(range(min(len(splits["validation"]), settings.latency.examples)))
    sizes = {1: examples.take(range(max(1, len(examples) // 4))), 32: examples}
    chosen = _to_be_timed(collect_task(settings, task, seed), settings.latency.speedups)
    rows = []
    for (name, variant), points_of_run in chosen.groupby(["method", "variant"], sort=False):
        model = load_model(run_folder(settings, RunKey(task, name, variant, seed)), device)
        method = contestant(settings, name, task)
        operated = [operation(point, method) for point in points_of_run.to_dict("records")]
        identities = points_of_run[POINT].to_dict("records")
        for batch_size, some in sizes.items():
            timed = latency.measure(
                model, operated, reference, some, batch_size=batch_size, rounds=settings.latency.rounds
            )
            rows += [identity | asdict(found) for identity, found in zip(identities, timed, strict=True)]
    write_parquet(out, pd.DataFrame(rows))


def _prepare(settings: Settings) -> None:
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    torch.set_num_threads(settings.training.threads)


def operation(point: dict, method: Method) -> Leaves:
    """The exit rule that the row `point` of a points table was replayed with."""
    knob = point["thresholds"] if len(point["thresholds"]) else point["knob"]
    return rule(policy_for(point["policy"], method.task, method.exit_start()), knob)


def _to_be_timed(table: pd.DataFrame, speedups: Sequence[float]) -> pd.DataFrame:
    """Of each run the points that tables show: the best at each speed-up, and full depth."""
    found = [at_budget(table, speedup, by=tuple(RUN)) for speedup in speedups]
    rows = pd.concat([static_rows(table), *found], ignore_index=True)
    return rows[rows["score"].notna() & (rows["kind"] != "fixed_exit")].drop_duplicates(POINT)


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
