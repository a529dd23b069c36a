"""Measure the latency of the contestants' operating points, and compare it with their FLOPs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.analysis.budgets import POINT, RUN, at_budget, by_budget, operated, static_rows
from bench.context import pick_device, task_data
from bench.encoder import backbones
from bench.encoder.early.deployed import Deployed, deploy
from bench.encoder.saved import has_weights, load_model, of_shape
from bench.errors import UserError
from bench.exit_policies.operating import decision, exits_taken
from bench.exit_policies.policies import Policy
from bench.measuring.latency import Operated, Timing, measure
from bench.method import contestant
from bench.runs.collect import collect_task, latency_inputs
from bench.runs.plan import reference_run
from bench.runs.replay import succeeded
from bench.runs.train_run import prepare
from bench.runs.training.facts import hardware
from bench.settings import Settings
from bench.store import RunKey, run_folder, write_parquet
from bench.tasks.catalogue import task as task_named
from bench.tasks.examples import Examples
from bench.trace import Costs, Trace

log = logging.getLogger(__name__)

COLUMNS = [
    *RUN, "operated", "weights", "batch_size", "examples", "promised", "speedup", "speedup_low", "speedup_high",
    "seconds", "reference_seconds", "noise_low", "noise_high", "trained", "p95_seconds", "reference_p95_seconds",
    "hardware", "torch", "asked",
]  # fmt: skip


def measure_latency(settings: Settings, out: Path) -> None:
    """Measure the latency of every run at its best operating points, for the first seed of every task.

    The table has one row for each run, operating point and batch size, with these columns:

    - `promised`: FLOPs speed-up over the timed examples.
    - `speedup`, `speedup_low`, `speedup_high`: median and quartiles over rounds of the ratio of the reference's time
      to the time of the point.
    - `seconds`, `reference_seconds`: median time for all examples.
    - `noise_low`, `noise_high`: quartiles over rounds of the ratio of the reference's times to those of the reference
      itself, timed as another contestant. A speed-up between them cannot be told from 1.
    - `p95_seconds`, `reference_p95_seconds`: 95th percentile of the time of one example at batch size 1.
    - `trained`: whether the weights are those of the run. A run from a published folder has no weights, so it is timed
      with random weights of its shape, and its examples exit as in its trace.
    - `asked`: the `latency_inputs`, as JSON.

    A run that failed or is missing has no row. No other process should run at the same time.

    Args:
        settings: Settings of the benchmark; `latency` gives speed-ups, examples and rounds.
        out: Parquet file to write.

    Raises:
        UserError: If the data are missing, or files of a run are missing or damaged. Nothing is written.
    """
    prepare()
    torch.set_num_threads(settings.training.threads)
    device = pick_device(settings)
    place = ", ".join(hardware(device.type == "cpu").values())
    rows: list[dict[str, Any]] = []
    for task in settings.tasks:
        began, before = time.monotonic(), len(rows)
        reference = reference_run(contestant(settings, settings.reference, task), settings.seeds_of(task)[0])
        if not succeeded(settings, reference):
            log.warning("%s is not timed: its reference, %s, failed or is missing", task, reference.path)
            continue
        rows += _task(settings, reference, device)
        log.info("%s: %d times in %.1f s", task, len(rows) - before, time.monotonic() - began)
    machine = {"hardware": f"{place}, {torch.get_num_threads()} thread(s)", "torch": torch.__version__}
    machine |= {"asked": json.dumps(latency_inputs(settings), sort_keys=True)}
    write_parquet(out, pd.DataFrame(rows).assign(**machine).reindex(columns=COLUMNS))


@dataclass(frozen=True)
class _Run:
    """A run whose latency is measured.

    Attributes:
        model: Model in deployed form.
        trace: Trace of the validation split.
        costs: Cost of every exit.
        trained: Whether the weights are those of the run; otherwise they are random weights of the same shape.
        rule: Exit policy.
    """

    model: Deployed
    trace: Trace
    costs: Costs
    trained: bool
    rule: Policy


def _task(settings: Settings, reference: RunKey, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the rows of the task of the reference's run.

    Raises:
        UserError: If the data are missing, or files of a run are missing or damaged.
    """
    task, seed = reference.task, reference.seed
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    examples = task_data(settings, task_named(task, settings.own_tasks), tokenizer, seed=seed).splits["validation"]
    runs = {reference: _load(settings, reference, examples, device)}
    full = runs[reference]
    table = collect_task(settings, task, seed)
    points = to_be_timed(table.assign(operated=operated(table)), settings.latency.speedups)
    timed: list[tuple[dict[str, Any], _Run]] = []
    for name, variant in dict.fromkeys(zip(points["method"], points["variant"], strict=True)):
        key = RunKey(task, name, variant, seed)
        runs[key] = runs.get(key) or _load(settings, key, examples, device)
        own = points[(points["method"] == name) & (points["variant"] == variant)]
        timed += [(point, runs[key]) for point in own.to_dict("records")]
    latency = settings.latency
    for batch_size, count, rounds in (
        (1, max(1, latency.examples // 4), latency.ROUNDS_AT_1 * latency.rounds),
        (32, latency.examples, latency.rounds),
    ):
        chosen = spread(examples.lengths, count)
        lengths = examples.lengths[chosen]
        found, noise = _measure(timed, full, examples, chosen, batch_size, rounds)
        promise = full.costs.flops(lengths)[-1].sum()
        for (point, run), (own_time, reference_time) in zip(timed, found, strict=True):
            exits = exits_taken(point, run.trace)[chosen]
            ratios = reference_time.seconds / own_time.seconds
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            yield {name: point[name] for name in (*RUN, "operated", "weights")} | {
                "batch_size": batch_size,
                "examples": len(chosen),
                "promised": promise / run.costs.flops(lengths)[exits, np.arange(len(chosen))].sum(),
                "speedup": middle,
                "speedup_low": low,
                "speedup_high": high,
                "seconds": np.median(own_time.seconds),
                "reference_seconds": np.median(reference_time.seconds),
                "noise_low": noise[0],
                "noise_high": noise[1],
                "trained": run.trained,
                "p95_seconds": own_time.slow if batch_size == 1 else np.nan,
                "reference_p95_seconds": reference_time.slow if batch_size == 1 else np.nan,
            }


def _measure(
    timed: list[tuple[dict[str, Any], _Run]],
    full: _Run,
    examples: Examples,
    chosen: NDArray[np.int64],
    batch_size: int,
    rounds: int,
) -> tuple[list[tuple[Timing, Timing]], tuple[float, float]]:
    """Time the points and the reference; points with the same policy and exits are timed once.

    Returns:
        The timings of each point and of the reference, and the quartiles of the ratio of the reference to itself.
    """
    contestants = {(id(full), "none", b""): Operated(full.model), (0, "again", b""): Operated(full.model)}
    kinds = []
    for point, run in timed:
        exits = exits_taken(point, run.trace)[chosen]
        # Full depth does the same work for all points of a run without an exit policy.
        work = b"" if point["kind"] == "static" else exits.tobytes()
        kinds.append((id(run), str(point["policy"]), work))
        contestants.setdefault(
            kinds[-1], Operated(run.model, decision(point, run.rule), None if run.trained else exits)
        )
    found = measure(
        list(contestants.values()), examples.take(chosen), batch_size=batch_size, rounds=rounds, seed=len(chosen)
    )
    times = dict(zip(contestants, found, strict=True))
    low, high = np.percentile(found[0].seconds / found[1].seconds, [25, 75])
    return [(times[kind], found[0]) for kind in kinds], (float(low), float(high))


def _load(settings: Settings, key: RunKey, examples: Examples, device: torch.device) -> _Run:
    """Load a run.

    Raises:
        UserError: If a file of the run is missing or damaged, or its trace belongs to other examples.
    """
    folder = run_folder(settings, key)
    trace = Trace.load(folder / "trace-validation.parquet")
    if not (np.array_equal(trace.idx, examples.idx) and np.array_equal(trace.lengths, examples.lengths)):
        raise UserError(f"{folder / 'trace-validation.parquet'} was recorded on other examples; run it again")
    trained = has_weights(folder)
    model = load_model(folder, device) if trained else of_shape(folder, device)
    return _Run(
        deploy(model),
        trace,
        Costs.load(folder / "costs.json"),
        trained,
        contestant(settings, key.method, key.task).exit_policy(),
    )


def spread(lengths: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the indices of `count` examples that are evenly spaced in the order of their lengths."""
    order = np.argsort(lengths, kind="stable")
    count = min(count, len(order))
    return order[(np.arange(count) * 2 + 1) * len(order) // (2 * count)]


def to_be_timed(table: pd.DataFrame, speedups: list[float]) -> pd.DataFrame:
    """Return the operating points of each run that tables show: full depth and the best points at each budget."""
    found = [at_budget(rows, speedup, by=tuple(RUN)) for speedup, rows in by_budget(table, speedups)]
    rows = pd.concat([static_rows(table), *found], ignore_index=True)
    return rows[rows["score"].notna()].drop_duplicates(POINT)
