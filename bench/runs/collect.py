"""The union of all runs: one tidy table from which every table and figure is drawn."""

from __future__ import annotations

import pandas as pd

from bench.choosing.budgets import POINT
from bench.errors import UserError
from bench.method import contestant
from bench.runs.plan import runs
from bench.settings import Settings
from bench.store import RunKey, read_json, run_folder


def collect(settings: Settings) -> pd.DataFrame:
    """Every operating point of every planned run, with speed-ups over the reference and measured latencies.

    A run that failed is one row with its reason. Raises UserError for a run that is not there.
    """
    table = _united(settings, [planned.key for planned in runs(settings)])
    table = _with_latencies(table, settings)
    table.insert(0, "profile", settings.profile)
    table["source"] = [settings.data.of(task).title for task in table["task"]]
    return table


def collect_task(settings: Settings, task: str, seed: int) -> pd.DataFrame:
    """The same for the runs of one task and seed that are there, without what the clock adds."""
    keys = [planned.key for planned in runs(settings) if planned.key.task == task and planned.key.seed == seed]
    return _united(settings, [key for key in keys if (run_folder(settings, key) / "run.json").is_file()])


def _united(settings: Settings, keys: list[RunKey]) -> pd.DataFrame:
    table = pd.concat([_run(settings, key) for key in keys], ignore_index=True)
    return _with_speedups(table, settings.reference).assign(selection=settings.selection)


def _run(settings: Settings, key: RunKey) -> pd.DataFrame:
    folder = run_folder(settings, key)
    facts = read_json(folder / "run.json")
    label = contestant(settings, key.method, key.task).label(key.variant)  # today's words for a kept run
    if facts["status"] == "ok":
        return pd.read_parquet(folder / "points.parquet").assign(label=label, status="ok", reason="")
    identity = {
        "task": key.task,
        "method": key.method,
        "variant": key.variant,
        "label": label,
        "seed": key.seed,
    }
    return pd.DataFrame([identity | {"status": facts["status"], "reason": facts["reason"], "on_frontier": False}])


def _with_speedups(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`speedup` and `speedup_128`: the reference's full-depth FLOPs, same task, seed and split, over the point's."""
    index = ["task", "seed", "split"]
    full = table[(table["method"] == reference) & (table["kind"] == "static")]
    full = full.set_index(index)[["flops", "flops_128"]].add_suffix("_reference")
    table = table.join(full, on=index)
    for measure, name in (("flops", "speedup"), ("flops_128", "speedup_128")):
        ratio = table.pop(f"{measure}_reference") / table[measure]
        table[name] = ratio.where(table[measure] > 0)
    return table


def _with_latencies(table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """What the clock says of a point at batch 1 and 32, NaN where it was not timed.

    `latency_*` is the measured speed-up over the reference (median over rounds; `_low`, `_high` its quartiles),
    `promised_*` that of the FLOPs over the same examples, `p95_*` and `reference_p95_*` seconds of one answer.
    """
    names = {"speedup": "latency_{}", "speedup_low": "latency_{}_low", "speedup_high": "latency_{}_high"}
    names |= {"promised": "promised_{}", "p95_seconds": "p95_{}", "reference_p95_seconds": "reference_p95_{}"}
    file = settings.root / "latency.parquet"
    timed = pd.read_parquet(file) if file.is_file() else pd.DataFrame(columns=[*POINT, *names, "batch_size"])
    if timed.get("hardware", pd.Series(dtype=str)).nunique() > 1:
        raise UserError(f"{file}: times of different machines cannot be compared; delete it and run again")
    for size in (1, 32):
        own = timed[timed["batch_size"] == size].set_index(POINT)[list(names)].astype(float)
        table = table.join(own.set_axis([name.format(size) for name in names.values()], axis=1), on=POINT)
    return table
