"""Train all runs of a profile on one GPU within a time limit, several processes at once.

    GLUE_DIR=/path/to/glue python benchmarks/glue_gpu.py OUT --workers 15 --seconds 520
    ... --device cpu --steps 40 --tasks wnli --seeds 0 --workers 2         # a rehearsal without a GPU

Small models leave a large GPU idle, so several processes train a run each; NVIDIA's MPS is started where it is
installed. Seeds are trained one after another, and within a seed the run with the longest chain of dependent runs
(teacher, assistant, student) first. At the time limit running runs are stopped. The same command continues: runs in the
results folder are not trained again.

A run that finishes is appended at once to a tar file of at most 15 MB in OUT, with the files that `costeff publish`
copies: no weights. `summary.json` in OUT has hardware, finished, failed and missing runs, and seconds. At the end
training steps of BERT-base's shape are timed (random weights, 128 tokens), for the forecast of `config/paper.yaml`.

Where only OUT was kept, unpack it and let the workflow copy the runs instead of training them:

    mkdir -p results/packed && cat OUT/runs-*.tar | tar -xif - -C results/packed
    snakemake --cores all --configfile config/glue-gpu.yaml --config 'reuse=[results/packed]' keep_models=false

Runs that are missing, and those that they depend on, are then trained. `--tasks` and `--seeds` of this script must be
those of the workflow (`--config 'seeds=[0, 1]'`).
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pool.gpu import shared_gpu
from pool.packing import Packing
from pool.queue import Queue, planned
from pool.workers import Workers, spoiled

from bench.context import usable_cores
from bench.errors import UserError
from bench.provenance import suite_version
from bench.settings import Settings, load
from bench.store import RunKey, read_facts, run_folder, write_json

TIMING_SECONDS = 60


def main() -> None:
    """Parse the command line, train, and time BERT-base's shape."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the tar files and summary.json")
    parser.add_argument("--profile", default="config/glue-gpu.yaml")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--workers", type=int, default=max(1, usable_cores() - 1))
    parser.add_argument("--seconds", type=float, default=520, help="time limit of the training, preparation included")
    parser.add_argument("--steps", type=int, help="another training budget, for a rehearsal")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--results", help="another results folder than that of the profile")
    parser.add_argument("--no-bert-base", action="store_true", help="leave the timing of BERT-base's shape out")
    arguments = parser.parse_args()
    overrides: dict[str, Any] = {"training": {"device": arguments.device}}
    overrides |= {name: value for name in ("tasks", "seeds", "results") if (value := getattr(arguments, name))}
    if arguments.steps:
        overrides["training"]["budget"] = {"steps": arguments.steps}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: terminated"))  # ends the processes and MPS
    try:
        settings = load(arguments.profile, overrides)
        arguments.out.mkdir(parents=True, exist_ok=True)
        summary = Summary(settings, arguments.out, arguments.workers, began)
        with shared_gpu(arguments.device) as summary.values["sharing"]:
            train(settings, Workers(arguments.workers, arguments.profile, overrides), summary, arguments.seconds)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if not arguments.no_bert_base:
        summary.values["bert_base_steps"] = bert_base()
        summary.write()
    failed, missing = (len(summary.values[name]) for name in ("failed", "missing"))
    if failed or missing:
        raise SystemExit(f"error: {failed} runs failed and {missing} are missing; see {arguments.out}/summary.json")


class Summary:
    """The file summary.json and the tar files, which are up to date after every call.

    Attributes:
        values: Content of summary.json.
    """

    def __init__(self, settings: Settings, out: Path, workers: int, began: float) -> None:
        self._settings, self._out, self._began = settings, out, began
        self._packing = Packing(settings.root, out)
        self.values: dict[str, Any] = {"profile": settings.profile, "code": suite_version(), "workers": workers}
        self.write()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def write(self, queue: Queue | None = None) -> None:
        """Write summary.json, with the state of the queue."""
        self.values["seconds"] = round(self.elapsed, 1)
        if queue:
            ended = {*queue.finished, *queue.failed}
            self.values |= {
                "planned": len(queue.needs),
                "finished": [str(key.path) for key in queue.finished],
                "failed": {str(key.path): reason for key, reason in queue.failed.items()},
                "missing": sorted(str(key.path) for key in queue.needs.keys() - ended),
            }
        write_json(self._out / "summary.json", self.values)

    def add(self, key: RunKey) -> None:
        """Pack a finished run. A failure is noted and does not stop the others."""
        folder = run_folder(self._settings, key)
        try:
            self._packing.add(folder)
            if "hardware" not in self.values:
                facts = read_facts(folder / "run.json")
                self.values |= {name: facts[name] for name in ("hardware", "where")}
        except (OSError, UserError) as error:
            self.values.setdefault("not_packed", {})[str(key.path)] = str(error)


def train(settings: Settings, workers: Workers, summary: Summary, seconds: float) -> None:
    """Make the planned runs until all have ended or the time is over.

    Args:
        settings: Settings of the benchmark.
        workers: The processes.
        summary: Records what has ended.
        seconds: The time limit.
    """
    try:
        queue = planned(settings)
        summary.write(queue)
        print(f"{len(queue.needs)} runs planned after {summary.values['seconds']} s", flush=True)
        while queue.left and summary.elapsed < seconds and workers.lost <= 3 * workers.count:
            while workers.idle and (key := queue.next()):
                workers.give(key)
            for key, reason in workers.ended(1.0):
                queue.end(key, reason, again=spoiled(reason))
                if not reason:
                    summary.add(key)
                summary.write(queue)
                done = len(queue.finished)
                print(f"{summary.elapsed:.0f} s: {done} done, {queue.left} left: {key.path} {reason}", flush=True)
    finally:
        workers.stop()
    summary.write(queue)


def bert_base() -> str:
    """Return the output of benchmarks/gpu.py for a few training steps of BERT-base's shape."""
    command = [sys.executable, str(Path(__file__).with_name("gpu.py")), "--task", "", "--steps", "30"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=TIMING_SECONDS)
    except subprocess.TimeoutExpired:
        return f"not measured: longer than {TIMING_SECONDS} s"
    return found.stdout + found.stderr[-2000:]


if __name__ == "__main__":
    main()
