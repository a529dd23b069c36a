"""Replay: compute the operating points of runs from their traces, without running a model."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.analysis import points
from bench.analysis.thresholds import per_exit
from bench.errors import UserError
from bench.method import contestant
from bench.runs.plan import runs
from bench.settings import Settings
from bench.store import RunKey, points_file, read_facts, run_folder, trials_file, write_parquet
from bench.trace import Costs, Trace

VERSION = 1
"""Version of the replay; raise it when the same traces give other points or thresholds."""


def replay(settings: Settings, task: str, seed: int) -> None:
    """Write the operating points and the trials of the threshold searches of all runs of a task and seed.

    Failed and missing runs have no points; `collect` adds a row for each.

    Raises:
        UserError: If a file of a run is damaged.
    """
    tables, trials = [], []
    for planned in runs(settings):
        key = planned.key
        if (key.task, key.seed) == (task, seed) and succeeded(settings, key):
            table, tried = points_of(settings, key)
            facts = read_facts(run_folder(settings, key) / "run.json")
            tables.append(table.assign(replayed=stamp(settings, key, facts)))
            trials.append(tried.assign(**key.facts))
    write_parquet(points_file(settings, task, seed), pd.concat(tables) if tables else pd.DataFrame())
    write_parquet(trials_file(settings, task, seed), pd.concat(trials) if trials else pd.DataFrame())


def inputs(settings: Settings, task: str) -> dict[str, Any]:
    """Return the inputs of the replays of a task apart from its runs; the workflow repeats them if one changes."""
    methods = [contestant(settings, name, task) for name in sorted(settings.contestants)]
    return {
        "version": VERSION,
        "thresholds": settings.thresholds.model_dump(mode="json"),
        "policies": {method.name: f"{method.exit_policy().name} {method.exit_policy().version}" for method in methods},
        "metrics": list(methods[0].task.metrics),
        "reference": settings.reference,  # its points include the constant baseline
    }


def stamp(settings: Settings, key: RunKey, facts: dict[str, Any]) -> str:
    """Return a key of the inputs of the replay of a run: identity, weights, and the `inputs` that concern it.

    Args:
        settings: Settings of the benchmark.
        key: Key of the run.
        facts: Content of its run.json.
    """
    method = contestant(settings, key.method, key.task)
    rule, metrics = method.exit_policy(), ",".join(method.task.metrics)
    made = " ".join(filter(None, (facts["identity"], facts.get("weights"))))
    control = " control" * (key.method == settings.reference)
    return f"{made} {rule.name} {rule.version} {VERSION} {metrics}{control} {settings.thresholds.model_dump_json()}"


def succeeded(settings: Settings, key: RunKey) -> bool:
    """Return whether a run exists and succeeded."""
    path = run_folder(settings, key) / "run.json"
    return path.is_file() and read_facts(path)["status"] == "ok"


def points_of(settings: Settings, key: RunKey) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the operating points of one run (see `bench.analysis.points`) and the trials of its threshold search."""
    method = contestant(settings, key.method, key.task)
    traces, cost = traces_of(settings, key), Costs.load(run_folder(settings, key) / "costs.json")
    policy = method.exit_policy()
    grid, trials = settings.thresholds.grid, settings.thresholds.trials
    vectors, tried = [], pd.DataFrame()
    if policy.name != "none" and trials:
        selected = traces[settings.selection]
        study = per_exit(policy, selected, cost, method.task, grid=grid, trials=trials, seed=key.seed)
        vectors, tried = study.vectors, study.trials
    name = points.RunName(key.task, key.method, key.variant, method.label(key.variant), key.seed)
    table = points.build(
        name,
        traces,
        cost,
        policy,
        method.task,
        grid=grid,
        vectors=vectors,
        selection=settings.selection,
        control=key.method == settings.reference,
    )
    return table, tried


def traces_of(settings: Settings, key: RunKey) -> dict[str, Trace]:
    """Return the traces of a run by split.

    Raises:
        UserError: If the trace of the selection or validation split is missing.
    """
    folder = run_folder(settings, key)
    files = {path.stem.removeprefix("trace-"): path for path in sorted(folder.glob("trace-*.parquet"))}
    for split in {settings.selection, "validation"} - files.keys():
        raise UserError(f"{folder / f'trace-{split}.parquet'} does not exist; the workflow makes the run again")
    return {split: Trace.load(path) for split, path in files.items()}
