"""Progress of a benchmark: finished runs, current trainings with their step, and the time left."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from bench.context import task_data
from bench.encoder import backbones
from bench.errors import UserError
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.planning.coming import coming
from bench.runs.planning.forecast import REPORT_SECONDS, Forecast, duration, forecast
from bench.runs.ratios import trials_so_far
from bench.settings import Settings
from bench.store import RunKey, log_file, read_facts, read_json, run_folder, state_folder, write_json
from bench.tasks.catalogue import task as task_named

FRESH = 600.0
"""Seconds without a log line after which a training counts as stopped."""
EVERY = 2.0
"""Seconds between two reports of a workflow."""
_STEP = re.compile(r"(\S+): steps? (\d+) (?:of|to) (\d+)$")


def ahead(settings: Settings, cores: int) -> Forecast | None:
    """Return the forecast of the missing runs and save it for `Progress`; None where none is missing."""
    found = coming(settings, Identities(settings))
    if not len(found):
        return None
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    data = {task: task_data(settings, task_named(task, settings.own_tasks), tokenizer) for task in settings.tasks}
    expected = forecast(settings, [*found.runs, *found.trials], data, cores)
    seconds = {key.path.as_posix(): expected.runs[key] for key in found.runs if key in expected.runs}
    trials = [expected.runs[key] for key in found.trials if key in expected.runs]
    kept = {
        "jobs": expected.jobs,
        "clock": expected.clock,
        "runs": seconds,
        "trials": sum(trials) / max(1, len(trials)),
    }
    write_json(_file(settings), kept)
    return expected


def report(settings: Settings, identities: Identities, descriptor: int) -> None:
    """Report the progress of this workflow to the process that started it, in a thread that ends with this process.

    A report is a line of JSON: `root` (first), `progress` and `failures`. If the other process ends, this one stops as
    it does on Ctrl-C.

    Args:
        settings: The profile.
        identities: Identities of its runs.
        descriptor: File descriptor of a pipe to the other process.
    """
    pipe = os.fdopen(descriptor, "w", encoding="utf-8")
    threading.Thread(target=_report, args=(pipe, settings, Progress(settings, identities)), daemon=True).start()


def _report(pipe: IO[str], settings: Settings, progress: Progress) -> None:
    def send(**message: Any) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    try:
        send(root=str(settings.root))
        while True:
            with suppress(UserError, FileNotFoundError):  # a file of a run that is deleted meanwhile
                send(failures=[*progress.failures()], progress=progress.line())
            time.sleep(EVERY)
    except BrokenPipeError:
        os.killpg(os.getpgrp(), signal.SIGINT)


class Progress:
    """The progress of a benchmark, from the files of its results.

    Args:
        settings: The profile.
        identities: Identities of its runs; a run of another identity then counts as missing.
    """

    def __init__(self, settings: Settings, identities: Identities | None = None) -> None:
        self._settings, self._identities = settings, identities
        self._planned = [run.key for run in runs(settings)]
        self._done: dict[RunKey, dict[str, Any]] = {}
        self._failed: set[RunKey] = set()

    def line(self) -> str:
        """Return one line: finished and failed runs, the time left if there is a forecast, and current trainings."""
        settings = self._settings
        trials, later = self._trials()
        known = dict.fromkeys([*self._planned, *trials])
        facts = self._facts(known)
        failed = sum(each["status"] == "failed" for each in facts.values())
        said = f"{len(facts)} of {len(known) + later} runs" + f", {failed} of them failed" * bool(failed)
        going = [text for key in known if key not in facts and (text := _going(settings, key))]
        if len(facts) == len(known) + later and not (settings.root / "complete").is_file():
            going = ["thresholds, latency, tables and figures"]
        to_come = [key for key in trials if key not in facts]
        return "; ".join([said, *_remaining_time(settings, facts, len(to_come) + later), *going])

    def failures(self) -> Iterator[str]:
        """Yield a line for each run that has failed since the last call."""
        for key, facts in self._facts([*self._planned, *self._trials()[0]]).items():
            if facts["status"] == "failed" and key not in self._failed:
                self._failed.add(key)
                yield f"{key.path.as_posix()}: {facts['reason']}; see {log_file(self._settings, key)}"

    def _trials(self) -> tuple[list[RunKey], int]:
        """Return the runs of the trials drawn so far, and the number of those still to draw."""
        trials, later = trials_so_far(self._settings)
        return trials, sum(later.values())

    def _facts(self, keys: Sequence[RunKey] | dict[RunKey, None]) -> dict[RunKey, dict[str, Any]]:
        """Return the facts of the runs among `keys` that have a result."""
        for key in keys:
            path = run_folder(self._settings, key) / "run.json"
            if key not in self._done and path.is_file():
                facts = read_facts(path)
                if self._identities is None or facts.get("identity") in (None, self._identities.of(key).hash):
                    self._done[key] = facts
        return {key: self._done[key] for key in keys if key in self._done}


def _remaining_time(settings: Settings, facts: dict[RunKey, dict], trials: int) -> Sequence[str]:
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
    return [f"about {duration(rest * pace)} left"] if rest else ["done"]


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
