"""After a workflow in which a job left nothing: results from what is there, and room for another try."""

from __future__ import annotations

import pandas as pd

from bench.runs.collect import collect, facts_of
from bench.runs.plan import runs
from bench.runs.replay import replay, stamp
from bench.settings import Settings
from bench.store import points_file, run_folder, write_parquet


def bring_up_to_date(settings: Settings) -> bool:
    """Replays what was not, and unites all runs; False where all-points.parquet already says the same."""
    planned = [each.key for each in runs(settings)]
    facts = {key: facts_of(settings, key) for key in planned}
    for task, seed in dict.fromkeys((key.task, key.seed) for key in planned):
        wanted = {
            stamp(settings, facts[key]["identity"])
            for key in planned
            if (key.task, key.seed) == (task, seed) and facts[key]["status"] == "ok"
        }
        file = points_file(settings, task, seed)
        there = set(pd.read_parquet(file).get("replayed", ())) if file.is_file() else set()
        if wanted != there:
            replay(settings, task, seed)
    table, file = collect(settings), settings.root / "all-points.parquet"
    if file.is_file() and pd.read_parquet(file).equals(table) and (settings.root / "index.html").is_file():
        return False
    write_parquet(file, table)
    return True


def forget_crashes(settings: Settings) -> None:
    """Sets aside failures that may not happen again, so that the next call of the workflow tries those runs anew."""
    for planned in runs(settings):
        folder = run_folder(settings, planned.key)
        facts = facts_of(settings, planned.key)
        if facts["status"] == "failed" and facts["again"] and (folder / "run.json").is_file():
            (folder / "run.json").replace(folder / "failure.json")
