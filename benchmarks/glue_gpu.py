"""Train all runs of a profile on one GPU within a time limit, several processes at once.

    GLUE_DIR=/path/to/glue python benchmarks/glue_gpu.py OUT --workers 15 --seconds 520
    ... --profile config/glue-laptop.yaml --steps 4 --tasks wnli --seeds 0 --workers 2    # a rehearsal on a CPU

Small models leave a large GPU idle, so every process trains a run of its own; NVIDIA's MPS is started where it is
installed. Runs start in the order of their longest remaining chain (teacher, assistant, student). When the time is
over, no further run is started and running ones are stopped. OUT then holds, in tar files of at most 15 MB, everything
of the finished runs except their weights, and `summary.json`: hardware, runs and seconds. At last, training steps of
BERT-base's shape are timed (random weights, 128 tokens), for the forecast of `config/paper.yaml`.

Unpack the tar files in `results/<profile>/` elsewhere; the workflow then replays thresholds and makes tables and
figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench.context import data_survey
from bench.method import contestant
from bench.runs.plan import runs
from bench.runs.train_run import produce
from bench.runs.training.lineage import stages_of
from bench.settings import Settings, load
from bench.store import RunKey, read_json, run_folder
from bench.tasks.catalogue import task

TAR_BYTES = 15_000_000
SETTINGS: Settings
"""The settings of a worker process."""


@dataclass
class Queue:
    """Planned runs in the order in which they may start.

    Attributes:
        needs: Run -> the runs that it starts from.
        chain: Run -> its training work plus that of the longest chain of runs that need it.
    """

    needs: Mapping[RunKey, tuple[RunKey, ...]]
    chain: Mapping[RunKey, float]
    done: set[RunKey] = field(default_factory=set)
    started: set[RunKey] = field(default_factory=set)

    def ready(self) -> list[RunKey]:
        """Return the runs that can start now, those with the longest remaining chain first."""
        found = [key for key, needs in self.needs.items() if key not in self.started and self.done.issuperset(needs)]
        return sorted(found, key=lambda key: -self.chain[key])


def main() -> None:
    """Parse the command line, train, time, and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the tar files and summary.json")
    parser.add_argument("--profile", default="config/glue-gpu.yaml")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--seconds", type=float, default=520, help="time limit of the training")
    parser.add_argument("--steps", type=int, help="another training budget, for a rehearsal")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--no-bert-base", action="store_true", help="leave the timing of BERT-base's shape out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    overrides: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("tasks", "seeds") if getattr(arguments, name)
    }
    if arguments.steps:
        overrides["training"] = {"budget": {"steps": arguments.steps}}
    settings = load(arguments.profile, overrides)
    summary = train(settings, arguments.profile, overrides, arguments.workers, arguments.seconds)
    if not arguments.no_bert_base:
        timing = subprocess.run(
            [sys.executable, "benchmarks/gpu.py", "--task", "", "--steps", "30"], capture_output=True, text=True
        )
        summary["bert_base_steps"] = timing.stdout + timing.stderr[-2000:]
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1))
    pack(settings, summary["finished"], arguments.out)
    print(json.dumps({key: value for key, value in summary.items() if key != "finished"}, indent=1))


def train(settings: Settings, profile: str, overrides: dict[str, Any], workers: int, seconds: float) -> dict[str, Any]:
    """Train the planned runs until all are done or the time is over; return what happened as plain values."""
    began = time.monotonic()
    queue = planned(settings)
    failed: dict[str, str] = {}
    with (
        mps(),
        ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            initializer=prepare,
            initargs=(profile, overrides),
        ) as pool,
    ):
        going: dict[Future[str], RunKey] = {}
        while len(queue.done) < len(queue.needs) and time.monotonic() - began < seconds:
            for key in queue.ready()[: workers - len(going)]:
                queue.started.add(key)
                going[pool.submit(make, key)] = key
            ended, _ = wait(going, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in ended:
                key = going.pop(future)
                queue.done.add(key)
                if reason := future.result():
                    failed[str(key.path)] = reason
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():  # what still trains when the time is over
            process.terminate()
    finished = [str(key.path) for key in sorted(queue.done, key=lambda key: key.path) if str(key.path) not in failed]
    facts = [read_json(run_folder(settings, key) / "run.json") for key in queue.done if str(key.path) not in failed]
    return {
        "profile": settings.profile,
        "hardware": facts[0]["hardware"] if facts else {},
        "where": facts[0]["where"] if facts else {},
        "workers": workers,
        "seconds": time.monotonic() - began,
        "planned": len(queue.needs),
        "failed": failed,
        "not_reached": sorted(str(key.path) for key in queue.needs.keys() - queue.done),
        "finished": finished,
    }


def planned(settings: Settings) -> Queue:
    """Return the planned runs with the work of the longest chain that each begins, in steps x parameters."""
    survey = {name: data_survey(settings, task(name, settings.own_tasks)) for name in settings.tasks}
    needs = {run.key: run.needs for run in runs(settings)}
    dependents: dict[RunKey, list[RunKey]] = {key: [] for key in needs}
    for key, sources in needs.items():
        for source in sources:
            dependents[source].append(key)

    @cache
    def chain(key: RunKey) -> float:
        method, examples = contestant(settings, key.method, key.task), survey[key.task].sizes["train"]
        own = sum(stage.steps * stage.shape.parameters() for stage in stages_of(method, key.variant, examples))
        return own + max(map(chain, dependents[key]), default=0.0)

    return Queue(needs, {key: chain(key) for key in needs})


def prepare(profile: str, overrides: dict[str, Any]) -> None:
    """Set up a worker process: read the settings once."""
    global SETTINGS
    SETTINGS = load(profile, overrides)


def make(key: RunKey) -> str:
    """Train one run in a worker process; return why it failed, or ""."""
    return produce(SETTINGS, key)


@contextmanager
def mps() -> Iterator[None]:
    """Let processes share the GPU through NVIDIA's MPS where that is installed."""
    control = shutil.which("nvidia-cuda-mps-control")
    if not control:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        subprocess.run([control, "-d"], check=False)
        try:
            yield
        finally:
            subprocess.run([control], input="quit\n", text=True, check=False)


def pack(settings: Settings, finished: Iterable[str], out: Path) -> None:
    """Write all files of the finished runs but their weights into tar files of at most `TAR_BYTES` bytes."""
    parts: list[list[Path]] = [[]]
    size = 0
    for path in finished:
        for file in sorted((settings.root / "runs" / path).glob("*.*")):
            size += file.stat().st_size
            if parts[-1] and size > TAR_BYTES:
                parts.append([])
                size = file.stat().st_size
            parts[-1].append(file)
    for number, files in enumerate(parts):
        with tarfile.open(out / f"runs-{number}.tar", "w") as archive:
            for file in files:
                archive.add(file, arcname=str(file.relative_to(settings.root)))


if __name__ == "__main__":
    main()
