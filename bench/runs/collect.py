"""Merge the operating points of all runs into one table, from which tables and figures are made."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pandas as pd

from bench.analysis.budgets import RUN, operated
from bench.compat import FIELDS
from bench.errors import UserError
from bench.method import contestant
from bench.provenance import changed
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.replay import replay, stamp
from bench.settings import Settings
from bench.store import (
    RunKey,
    log_file,
    points_file,
    read_facts,
    read_parquet,
    read_parquet_if_there,
    run_folder,
    write_parquet,
)

LOST = "no result: the job was killed, reached its time limit or has not started"


def collect(settings: Settings) -> pd.DataFrame:
    """Return all operating points of all planned runs, with speed-ups over the reference and measured latencies.

    A run that failed or has no result is one row with the reason.

    Raises:
        UserError: If a run has another identity than the planned run; or if the settings are strict and runs differ in
            arithmetic.
    """
    table = _united(settings, [planned.key for planned in runs(settings)])
    table = _with_latencies(table, settings)
    table.insert(0, "profile", settings.profile)
    table["source"] = [settings.source_of(task) for task in table["task"]]
    arithmetic = sorted(set(table["arithmetic"]) - {""})
    if settings.strict and len(arithmetic) > 1:
        raise UserError(
            f"strict: true, but the runs differ in their arithmetic: {' and '.join(arithmetic)}; set strict: false, or "
            "run all of them in the same way"
        )
    return table


def latency_inputs(settings: Settings) -> dict[str, Any]:
    """Return the settings that latencies depend on apart from the runs; the workflow repeats them if one changes."""
    asked = {"latency": settings.latency.model_dump(mode="json"), "reference": settings.reference}
    usual = type(settings.training)()
    for name in ("threads", "device"):  # only where they differ, so that older files stay current
        if (value := getattr(settings.training, name)) != getattr(usual, name):
            asked[name] = value
    return asked


def latency_is_current(settings: Settings) -> bool:
    """Return whether latency.parquet was measured with the current `latency_inputs`.

    Raises:
        UserError: If the file is broken.
    """
    timed = read_parquet_if_there(settings.root / "latency.parquet")
    return set(timed.get("asked", ())) == {json.dumps(latency_inputs(settings), sort_keys=True)}


def collect_inputs(settings: Settings) -> dict[str, Any]:
    """Return the settings that `collect` depends on apart from its files; the workflow repeats it if one changes."""
    return {
        "contestants": list(settings.contestants),  # their order is that of the tables
        "reference": settings.reference,
        "sources": [settings.source_of(task) for task in settings.tasks],
        "strict": settings.strict,
    }


def report_inputs(settings: Settings) -> dict[str, Any]:
    """Return the settings that the report depends on apart from its files; the workflow repeats it if one changes."""
    names = {"comparison", "reference", "depth_reference", "ablations"}
    return settings.model_dump(mode="json", include=names) | {
        "source": settings.data.source,
        "backbone": settings.backbone.name,
        "caps": sorted(settings.glue_caps.items()),
        "likes": {name: entry.like for name, entry in settings.contestants.items() if entry.like},
    }


def collect_task(settings: Settings, task: str, seed: int) -> pd.DataFrame:
    """Return the operating points of the existing runs of one task and seed, without latencies; see `collect`."""
    keys = [planned.key for planned in runs(settings) if planned.key.task == task and planned.key.seed == seed]
    return _united(settings, [key for key in keys if (run_folder(settings, key) / "run.json").is_file()])


def failures(settings: Settings) -> list[str]:
    """Return one line for each planned run that failed or has no result.

    Of the trials of studies only those that the next workflow repeats are named; other failures are results of a study.
    """
    planned = [each.key for each in runs(settings)]
    facts = {key: facts_of(settings, key) for key in dict.fromkeys([*planned, *_trials(settings)])}
    failed = {key: each for key, each in facts.items() if each["status"] == "failed"}
    return [f"{key.path}: {each['reason']}" for key, each in failed.items() if each["again"] or key in planned]


def made_by_other_code(settings: Settings) -> list[str]:
    """Return a warning that names the runs whose method has changed its code but not its version; empty if none.

    Runs that do not record their code, such as those of version 0.2, count as unchanged.
    """
    found: Counter[str] = Counter()
    for key in (planned.key for planned in runs(settings)):
        file = run_folder(settings, key) / "run.json"
        found[key.method] += file.is_file() and _other_code(settings, key, read_facts(file))
    named = ", ".join(f"{name} ({count} runs)" for name, count in found.items() if count)
    if not named:
        return []
    return [
        f"the code of these methods has changed since their runs, but their `version` has not: {named}; raise "
        "`version` to train them again"
    ]


def _other_code(settings: Settings, key: RunKey, facts: dict[str, Any]) -> bool:
    return changed(facts.get("method_code") or {}, type(contestant(settings, key.method, key.task)))


def facts_of(settings: Settings, key: RunKey) -> dict[str, Any]:
    """Return the facts of a run from run.json or failure.json; without these files, those of a failed run."""
    folder = run_folder(settings, key)
    for name in ("run.json", "failure.json"):  # failure.json: a failed run that the next workflow repeats
        if (folder / name).is_file():
            return read_facts(folder / name)
    return {"status": "failed", "reason": f"{LOST}; see {log_file(settings, key)}", "again": True}


def _united(settings: Settings, keys: list[RunKey]) -> pd.DataFrame:
    identities, known = Identities(settings), dict[tuple, pd.DataFrame]()
    for task, seed in dict.fromkeys((key.task, key.seed) for key in keys):
        file = points_file(settings, task, seed)
        if len(table := read_parquet_if_there(file).rename(columns=FIELDS)):
            known |= {(task, *run, seed): rows for run, rows in table.groupby(["method", "variant"], sort=False)}
    table = pd.concat([_run(settings, key, identities, known) for key in keys], ignore_index=True)
    return _with_stored(_with_speedups(table, settings.reference)).assign(selection=settings.selection)


def _run(settings: Settings, key: RunKey, identities: Identities, known: dict[tuple, pd.DataFrame]) -> pd.DataFrame:
    facts = facts_of(settings, key)
    if "asked" in facts and facts["identity"] != identities.of(key).hash:
        raise UserError(
            f"{run_folder(settings, key)} was made with other settings "
            f"({identities.of(key).difference(facts['asked'])}); run the workflow, or use the settings of that run"
        )
    label = contestant(settings, key.method, key.task).label(key.variant)  # always the current label
    if facts["status"] == "ok":
        rows = known.get((key.task, key.method, key.variant, key.seed))
        if rows is None or rows["replayed"].iloc[0] != stamp(settings, key, facts):
            raise UserError(f"{key.path} has not been replayed; run the workflow, or `costeff replay {key.task}`")
        arithmetic = ", ".join(f"{name} {value}" for name, value in facts["where"].items())
        made = {"arithmetic": arithmetic, "weights": facts.get("weights", "")}
        made |= {"other_code": _other_code(settings, key, facts)} | _training(facts)
        return rows.drop(columns="replayed").assign(label=label, status="ok", reason="", **made)
    row = key.facts | {"label": label, "status": "failed", "reason": facts["reason"], "arithmetic": ""}
    row |= {"other_code": False} | _training({})
    return pd.DataFrame([row | {"on_frontier": False}])


def _training(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of the cost of training and storing a run; NaN if it is not known."""
    cost, seconds = facts.get("training", {}), facts.get("seconds", {})
    values = {
        "training_steps": cost.get("lineage_steps"),
        "training_flops": cost.get("flops"),
        "training_flops_in_all": cost.get("flops_in_all"),
        "training_seconds": seconds.get("train"),
        "cpu_seconds": facts.get("cpu_seconds"),
        "peak_memory_bytes": facts.get("peak_memory_bytes"),
        "trainable_parameters": cost.get("trainable_parameters"),
        "common_parameters": facts.get("common_parameters"),
        "model_bytes": facts.get("model_bytes"),
    }
    known = {name: float("nan") if value is None else float(value) for name, value in values.items()}
    return known | {"restarts": facts.get("restarts", 0), "collapsed": bool(facts.get("collapsed", False))}


def _with_speedups(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`speedup` and `speedup_128`: the reference's full-depth FLOPs, same task, seed and split, over the point's."""
    columns = ["kind", "split", "policy", "flops", "flops_128"]
    table = table.reindex(columns=[*table.columns, *(name for name in columns if name not in table)])
    index = ["task", "seed", "split"]
    full = table[(table["method"] == reference) & (table["kind"] == "static")]
    full = full.set_index(index)[["flops", "flops_128"]].add_suffix("_reference")
    table = table.join(full, on=index)
    for measure, name in (("flops", "speedup"), ("flops_128", "speedup_128")):
        ratio = table.pop(f"{measure}_reference") / table[measure]
        table[name] = ratio.where(table[measure] > 0)
    return table


def _with_stored(table: pd.DataFrame) -> pd.DataFrame:
    """Add `parameters_all_tasks`: the parameters that a variant stores for all its tasks, with a seed.

    Parameters that the models of all tasks share count once. NaN for a seed without a result on one of the tasks.
    """
    if "parameters" not in table:  # every run failed
        return table.assign(parameters_all_tasks=float("nan"))
    runs = table[table["kind"].eq("static")].drop_duplicates(RUN)
    common = runs["common_parameters"].fillna(0)
    sums = runs.assign(own=runs["parameters"] - common, common=common).groupby(["method", "variant", "seed"])
    stored = (sums["own"].sum() + sums["common"].max()).rename("parameters_all_tasks").to_frame()
    tasks = table.groupby(["method", "variant"])["task"].nunique().rename("tasks")
    complete = sums["task"].nunique() == stored.join(tasks)["tasks"]
    return table.join(stored["parameters_all_tasks"].where(complete), on=["method", "variant", "seed"])


def _with_latencies(table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Add the measured latencies at batch sizes 1 and 32; NaN for weights that were not timed.

    `latency_*` is the measured speed-up over the reference (median over rounds, with quartiles `_low` and `_high`),
    `promised_*` the FLOPs speed-up over the same examples, and `p95_*` and `reference_p95_*` the 95th percentile of
    the seconds per example. Rows are joined on the configuration of the point, so they match after a new replay.
    """
    names = {"speedup": "latency_{}", "speedup_low": "latency_{}_low", "speedup_high": "latency_{}_high"}
    names |= {"promised": "promised_{}", "p95_seconds": "p95_{}", "reference_p95_seconds": "reference_p95_{}"}
    file, keys = settings.root / "latency.parquet", [*RUN, "operated", "weights"]
    timed = read_parquet(file) if file.is_file() else pd.DataFrame(columns=[*keys, *names, "batch_size"])
    if timed.get("hardware", pd.Series(dtype=str)).nunique() > 1:
        raise UserError(f"{file}: times on different machines cannot be compared; delete it and run again")
    timed = timed.reindex(columns=[*dict.fromkeys([*timed, "weights"])]).fillna({"weights": ""})
    columns = [*dict.fromkeys([*table, "weights"])]  # the column is missing if every run failed
    table = table.reindex(columns=columns).assign(operated=operated(table))
    for size in (1, 32):
        own = timed[timed["batch_size"] == size].set_index(keys)[list(names)].astype(float)
        table = table.join(own.set_axis([name.format(size) for name in names.values()], axis=1), on=keys)
    return table.drop(columns="operated")


def bring_up_to_date(settings: Settings) -> bool:
    """Replay runs where needed and merge all runs; return False if all-points.parquet was already up to date."""
    planned = [each.key for each in runs(settings)]
    facts = {key: facts_of(settings, key) for key in planned}
    for task, seed in dict.fromkeys((key.task, key.seed) for key in planned):
        wanted = {
            stamp(settings, key, facts[key])
            for key in planned
            if (key.task, key.seed) == (task, seed) and facts[key]["status"] == "ok"
        }
        file = points_file(settings, task, seed)
        there = set(read_parquet_if_there(file).get("replayed", ()))
        if wanted != there:
            replay(settings, task, seed)
    table, file = collect(settings), settings.root / "all-points.parquet"
    if file.is_file() and read_parquet(file).equals(table) and (settings.root / "index.html").is_file():
        return False
    write_parquet(file, table)
    return True


def forget_crashes(settings: Settings) -> None:
    """Rename run.json of failures that may not recur to failure.json, so that the next workflow repeats those runs.

    Trials of studies are among them.
    """
    for key in dict.fromkeys([*(planned.key for planned in runs(settings)), *_trials(settings)]):
        folder = run_folder(settings, key)
        facts = facts_of(settings, key)
        if facts["status"] == "failed" and facts["again"] and (folder / "run.json").is_file():
            (folder / "run.json").replace(folder / "failure.json")


def _trials(settings: Settings) -> list[RunKey]:
    """Return the runs of all trials drawn so far."""
    if not settings.studies:
        return []
    from bench.runs.ratios import trials_so_far  # imports Optuna, which is slow

    return trials_so_far(settings)[0]
