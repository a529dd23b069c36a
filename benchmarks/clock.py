"""Measure how many rounds and examples a measured speed-up needs to be stable from task to task.

    python benchmarks/clock.py --config config/sketch-full.yaml --depth 1

Times the teacher and the first layers of the backbone at batch size 1 in many rounds of 32 examples, on every task of a
finished profile. Computes from samples with fewer rounds and examples how much the ratio of measured to calculated
speed-up differs between tasks: its deviation over tasks, and how often every task is within 10 % of their median.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.context import pick_device, task_data
from bench.encoder import backbones
from bench.encoder.early.deployed import deploy
from bench.encoder.saved import load_model
from bench.measuring.latency import Operated, measure
from bench.runs.clock import spread
from bench.runs.train_run import prepare
from bench.settings import load
from bench.store import RunKey, run_folder
from bench.tasks.catalogue import task as task_named
from bench.trace import Costs

TURNS, EXAMPLES, DRAWS = 15, 32, 100


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/sketch-full.yaml"))
    parser.add_argument("--depth", type=int, default=1)
    arguments = parser.parse_args()
    settings = load(arguments.config)
    prepare()
    torch.set_num_threads(settings.training.threads)
    device, tokenizer = pick_device(settings), backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    shares = []
    for task in settings.tasks:
        examples = task_data(settings, task_named(task, settings.own_tasks), tokenizer).splits["validation"]
        few = examples.take(spread(examples.lengths, EXAMPLES))
        folders = [
            run_folder(settings, RunKey(task, method, variant, settings.seeds_of(task)[0]))
            for method, variant in ((settings.reference, "full"), ("first-layers", f"depth{arguments.depth}"))
        ]
        models = [Operated(deploy(load_model(folder, device))) for folder in folders]
        promised = [Costs.load(folder / "costs.json").flops(few.lengths)[-1] for folder in folders]
        # One example at a time, each in a measurement of its own turn, so that fewer can be drawn from them.
        seconds = np.stack(
            [
                [timing.seconds[0] for timing in measure(models, few.take([i]), batch_size=1, rounds=1, seed=turn)]
                for turn in range(TURNS)
                for i in range(EXAMPLES)
            ]
        ).reshape(TURNS, EXAMPLES, 2)
        shares.append((seconds, np.stack(promised)))
    print("turns  examples  deviation over tasks  all within 10 %")
    for turns in (3, 6, 9, 12, TURNS):
        for examples in (4, 8, 16, EXAMPLES):
            deviation, within = apart(shares, turns, examples)
            print(f"{turns:5}  {examples:8}  {deviation:20.3f}  {within:15.2f}")


def apart(shares: list[tuple[NDArray, NDArray]], turns: int, examples: int) -> tuple[float, float]:
    """Return the deviation over tasks of (measured / calculated), and how often all are within 10 % of their median.

    `shares`: of each task seconds [turns, examples, 2] and FLOPs [2, examples].
    """
    rng = np.random.default_rng(0)
    found = []
    for draw in range(DRAWS):
        every = np.arange(draw % (EXAMPLES // examples), EXAMPLES, EXAMPLES // examples)
        row = []
        for seconds, promised in shares:
            drawn = seconds[rng.choice(TURNS, turns, replace=False)][:, every].sum(axis=1)
            row.append(np.median(drawn[:, 0] / drawn[:, 1]) / np.divide(*promised[:, every].sum(axis=1)))
        relative = np.array(row) / np.median(row)
        found.append((relative.std(), (np.abs(relative - 1) < 0.1).all()))
    return tuple(np.mean(found, axis=0))


if __name__ == "__main__":
    main()
