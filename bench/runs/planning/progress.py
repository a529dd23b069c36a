"""Progress of a benchmark: finished runs, current trainings with their step, and the time left."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from bench.context import task_data
from bench.encoder import backbones
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.planning.coming import coming
from bench.runs.planning.forecast import REPORT_SECONDS, Forecast, forecast, spoken
from bench.runs.ratios import trials_so_far
from bench.settings import Settings
from bench.store import RunKey, log_file, read_facts, read_json, run_folder, state_folder, write_json
from bench.tasks.catalogue import task as task_named

FRESH = 600.0
"""Seconds without a log line after which a training counts as stopped."""
_STEP = re.compile(r"(\S+): steps? (\d+) (?:of|to) (\d+)$")


def ahead(settings: Settings, cores: int) -> Forecast | None:
    """Return the forecast of the missing runs and save it for `line`; None where none is missing."""
    found = coming(settings, Identities(settings))
    if not len(found):
        return None
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    data = {task: task_data(settings, task_named(task, settings.own_tasks), tokenizer) for task in settings.tasks}
    told = forecast(settings, [*found.runs, *found.trials], data, cores)
    seconds = {key.path.as_posix(): told.runs[key] for key in found.runs if key in told.runs}
    trials = [told.runs[key] for key in found.trials if key in told.runs]
    kept = {"jobs": told.jobs, "clock": told.clock, "runs": seconds, "trials": sum(trials) / max(1, len(trials))}
    write_json(_file(settings), kept)
    return told


def line(settings: Settings) -> str:
    """Return one line: finished and failed runs, current trainings, and the time left if there is a forecast."""
    trials, not_asked = trials_so_far(settings)
    later = sum(not_asked.values())
    known = dict.fromkeys([*(run.key for run in runs(settings)), *trials])
    facts = {key: read_facts(path) for key in known if (path := run_folder(settings, key) / "run.json").is_file()}
    failed = sum(each["status"] == "failed" for each in facts.values())
    said = f"{len(facts)} of {len(known) + later} runs" + f", {failed} of them failed" * bool(failed)
    going = [text for key in known if key not in facts and (text := _going(settings, key))]
    to_come = [key for key in trials if key not in facts]
    return "; ".join([said, *going, *_left(settings, facts, len(to_come) + later)])


def _left(settings: Settings, facts: dict[RunKey, dict], trials: int) -> Sequence[str]:
    """Return the time left in words: the forecast of the rest, scaled by how long finished runs really took."""
    if not _file(settings).is_file():
        return []
    kept = read_json(_file(settings), "jobs", "clock", "runs", "trials")
    done = {key.path.as_posix(): each.get("wall_seconds", 0.0) for key, each in facts.items()}
    both = [path for path in kept["runs"] if done.get(path)]
    expected = sum(kept["runs"][path] for path in both)
    pace = sum(done[path] for path in both) / expected if both else 1.0
    rest = sum(seconds for path, seconds in kept["runs"].items() if path not in done) + trials * kept["trials"]
    rest /= kept["jobs"]
    rest += 0.0 if (settings.root / "latency.parquet").is_file() else kept["clock"]
    rest += 0.0 if (settings.root / "complete").is_file() else REPORT_SECONDS
    return [f"about {spoken(rest * pace)} left"] if rest else ["done"]


def _going(settings: Settings, key: RunKey) -> str:
    """Return a run that trains now with its last logged step; "" for one that does not."""
    log = log_file(settings, key)
    if not state_folder(settings, key).is_dir() or not log.is_file() or time.time() - log.stat().st_mtime > FRESH:
        return ""
    steps = [found for text in log.read_text(errors="replace").splitlines() if (found := _STEP.search(text))]
    where = f" {steps[-1][1]}, step {steps[-1][2]} of {steps[-1][3]}" if steps else ""
    return f"{key.path.as_posix()}{where}"


def _file(settings: Settings) -> Path:
    return settings.root / "forecast.json"
