"""Measure the fraction of calibration texts that are contained in training texts.

    python benchmarks/overlap.py /path/to/glue [--tasks sst2 mnli qnli qqp] [--rows 1000]

Before: rows drawn from train at random, their exact twins removed. After: rows set apart by groups. Beside them
validation, which nobody can improve, against all of train. A text stands inside another if its words do, one after
the other; of a pair, if either of its texts does.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from bench.settings import Data
from bench.tasks.catalogue import TASKS, Task
from bench.tasks.groups import set_apart, spread, words
from bench.tasks.sources import Columns, load


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("glue", type=Path, help="a folder of GLUE, in either layout")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "mnli", "qnli", "qqp"], choices=list(TASKS))
    parser.add_argument("--rows", type=int, default=1000, help="calibration rows; at most a fifth of train is taken")
    given = parser.parse_args()
    print("| task | train | calibration | inside train: random | by group | validation | rows left out | seconds |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |")
    for name in given.tasks:
        print(line(TASKS[name], given.glue, given.rows), flush=True)


def line(task: Task, folder: Path, rows: int) -> str:
    """Return the row of a task in the table."""
    splits = load(task, Data(source="folder", path=folder)).splits
    train, validation = splits["train"], splits[task.validation_splits[0]]
    total = len(train["label"])
    rows = min(rows, total // 5)
    every = np.arange(total)

    chosen = spread(train["label"], np.random.default_rng(0))[:rows]
    keys = list(zip(*(train[column] for column in task.columns), strict=True))
    held = {keys[i] for i in chosen}
    twinless = np.array([i for i in every if keys[i] not in held])
    before = inside(task, train, chosen, train, twinless)

    began = time.perf_counter()
    groups = task.grouping(train)
    chosen, rest = set_apart(train["label"], groups, rows, np.random.default_rng(0))
    seconds = time.perf_counter() - began
    after = inside(task, train, chosen, train, rest)
    bound = inside(task, validation, np.arange(len(validation["label"])), train, every)
    left_out = total - rows - len(rest)
    return (
        f"| {task.title} | {total:,} | {rows:,} | {before:.1%} | {after:.1%} | {bound:.1%} | "
        f"{left_out:,} ({left_out / total:.1%}) | {seconds:.1f} |"
    )


def inside(task: Task, texts: Columns, chosen: np.ndarray, train: Columns, trained: np.ndarray) -> float:
    """Return the fraction of the chosen rows with a text that is contained in a training row."""
    wanted = {words(texts[column][i]) for column in task.columns for i in chosen} - {""}
    longest = max(text.count(" ") + 1 for text in wanted)
    found: set[str] = set()
    for text in {words(train[column][i]) for column in task.columns for i in trained}:
        parts = text.split()
        for size in range(1, min(longest, len(parts)) + 1):
            found |= {" ".join(parts[at : at + size]) for at in range(len(parts) - size + 1)} & wanted
    return float(np.mean([any(words(texts[column][i]) in found for column in task.columns) for i in chosen]))


if __name__ == "__main__":
    main()
