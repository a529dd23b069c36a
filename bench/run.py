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

from bench.context import Context, load_model, pick_device, task_data
from bench.encoder import backbones
from bench.errors import TrainingFailed
from bench.measuring import costs, latency, points
from bench.measuring.policies import policy_for
from bench.measuring.trace import Trace, record
from bench.method import Method, contestant
from bench.results.provenance import describe
from bench.results.store import RunKey, read_json, run_folder, state_folder, write_json, write_parquet
from bench.settings import Settings
from bench.sweeping.thresholds import per_exit

log = logging.getLogger(__name__)

VERSION = 1
"""Raised when tracing, costing or the sweep of thresholds changes what a run holds; kept runs are then made anew."""


def produce(settings: Settings, key: RunKey) -> None:
    """Makes every artefact of one run (see docs/architecture.md), or goes on with what a killed one left.

    A training that fails (a loss that is not finite) is recorded as a run with its reason. Any other UserError is
    raised: the run is not there, and the next call tries again.
    """
    began = time.monotonic()
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    torch.set_num_threads(settings.training.threads)
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
    cost = costs.measure(model)
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
    """Wall-clock of every contestant's engine at the chosen operating points, interleaved with the reference.

    Writes one row a run, point and batch size: `speedup` is the reference's time over the engine's. Should run alone.
    """
    torch.set_num_threads(settings.training.threads)
    device = pick_device(settings)
    reference_key = RunKey(task, settings.reference, "full", seed)
    reference = load_model(run_folder(settings, reference_key), device)
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    examples = task_data(settings, contestant(settings, settings.reference, task).task, tokenizer).splits["validation"]
    examples = examples.take(range(min(len(examples), settings.latency.examples)))
    few = examples.take(range(max(1, len(examples) // 4)))
    teacher = _static_flops(settings, reference_key)
    rows = []
    for name in settings.contestants:
        method = contestant(settings, name, task)
        for variant in method.variants():
            key = RunKey(task, name, variant, seed)
            chosen = _operated(settings, key, teacher)
            if not chosen:
                continue
            model = load_model(run_folder(settings, key), device)
            policy = policy_for(method.policy, method.task, method.exit_start())
            for point in chosen:
                knob = point["thresholds"] if len(point["thresholds"]) else point["knob"]
                for batch_size, some in ((1, few), (32, examples)):
                    found = latency.measure(
                        model,
                        policy if point["kind"] in ("uniform", "per_exit") else policy_for("none", method.task, 1),
                        knob,
                        reference,
                        some,
                        batch_sizes=[batch_size],
                        rounds=settings.latency.rounds,
                    )[0]
                    rows.append(
                        {"task": task, "method": name, "variant": variant, "seed": seed}
                        | {"kind": point["kind"], "point": point["point"], "batch_size": batch_size}
                        | {"speedup": found.speedup, "seconds": found.seconds}
                        | {"reference_seconds": found.reference_seconds}
                    )
    write_parquet(out, pd.DataFrame(rows))


def _points(
    settings: Settings,
    key: RunKey,
    method: Method,
    context: Context,
    traces: dict[str, Trace],
    cost: costs.Costs,
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
        train_labels=context.train.labels if key.method == settings.reference else None,
    )
    write_parquet(folder / "points.parquet", table)


def _save_model(model: PreTrainedModel, context: Context, folder: Path) -> None:
    part = folder / "model.part"
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    context.tokenizer.save_pretrained(part)
    shutil.rmtree(folder / "model", ignore_errors=True)
    part.replace(folder / "model")


def _static_flops(settings: Settings, key: RunKey) -> float:
    table = pd.read_parquet(run_folder(settings, key) / "points.parquet")
    row = table[(table["kind"] == "static") & (table["split"] == settings.selection)]
    return float(row["flops"].iloc[0])


def _operated(settings: Settings, key: RunKey, teacher: float) -> list[dict]:
    """The points to time: full depth, and the best at each FLOPs speed-up of the settings on the selection split."""
    folder = run_folder(settings, key)
    if read_json(folder / "run.json")["status"] != "ok":
        return []
    table = pd.read_parquet(folder / "points.parquet")
    table = table[(table["split"] == settings.selection) & table["kind"].isin(["static", "uniform", "per_exit"])]
    chosen = {}
    for budget in settings.latency.speedups:
        within = table[table["flops"] * budget <= teacher * (1 + 1e-9)]
        if len(within):
            best = within.sort_values(["score", "flops"], ascending=[False, True], kind="stable").iloc[0]
            chosen[(best["kind"], best["point"])] = best.to_dict()
    static = table[table["kind"] == "static"].iloc[0].to_dict()
    return list(({("static", 0): static} | chosen).values())
