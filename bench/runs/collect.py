"""The union of all runs: one tidy table from which every table and figure is drawn."""

from __future__ import annotations

import pandas as pd

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
    table["source"] = [settings.source_of(task) for task in table["task"]]
    return table


def collect_task(settings: Settings, task: str, seed: int) -> pd.DataFrame:
    """The same for one task and seed, without what is only known once latencies are measured."""
    keys = [planned.key for planned in runs(settings)]
    return _united(settings, [key for key in keys if key.task == task and key.seed == seed])


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
    """`latency_1` and `latency_32`: the measured speed-up over the reference at that batch size, where measured."""
    keys = ["task", "method", "variant", "seed", "kind", "point"]
    files = [
        settings.root / "latency" / task / f"seed{seed}.parquet"
        for task in settings.tasks
        for seed in settings.seeds_of(task)
    ]
    found = [frame for file in files if file.is_file() and len(frame := pd.read_parquet(file))]
    if not found:
        return table.assign(latency_1=float("nan"), latency_32=float("nan"))
    wide = pd.concat(found).pivot_table(index=keys, columns="batch_size", values="speedup")
    wide.columns = pd.Index([f"latency_{size}" for size in wide.columns])
    return table.join(wide, on=keys)
