"""The clock: what every contestant's early exit is worth on the machine at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from transformers.utils import logging as transformers_log

from bench.choosing.budgets import POINT, RUN, at_budget, static_rows
from bench.choosing.policies import policy_for, rule
from bench.context import load_model, pick_device, task_data
from bench.encoder import backbones
from bench.measuring import latency
from bench.measuring.engine import Leaves
from bench.method import Method, contestant
from bench.runs.collect import collect_task
from bench.settings import Settings
from bench.store import RunKey, run_folder, write_parquet
from bench.tasks.catalogue import TASKS


def measure_latency(settings: Settings, task: str, seed: int, out: Path) -> None:
    """Wall-clock of every contestant's engine at its best points for the settings' speed-ups, beside the reference's.

    Writes one row a run, point and batch size: `speedup` is the reference's time over the engine's. Should run alone.
    """
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    torch.set_num_threads(settings.training.threads)
    device = pick_device(settings)
    reference = load_model(run_folder(settings, RunKey(task, settings.reference, "full", seed)), device)
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    splits = task_data(settings, TASKS[task], tokenizer).splits
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


def operation(point: dict, method: Method) -> Leaves:
    """The exit rule that the row `point` of a points table was replayed with."""
    knob = point["thresholds"] if len(point["thresholds"]) else point["knob"]
    return rule(policy_for(point["policy"], method.task, method.exit_start()), knob)


def _to_be_timed(table: pd.DataFrame, speedups: Sequence[float]) -> pd.DataFrame:
    """Of each run the points that tables show: the best at each speed-up, and full depth."""
    found = [at_budget(table, speedup, by=tuple(RUN)) for speedup in speedups]
    rows = pd.concat([static_rows(table), *found], ignore_index=True)
    return rows[rows["score"].notna() & (rows["kind"] != "fixed_exit")].drop_duplicates(POINT)
