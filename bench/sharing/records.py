"""Check the traces and costs of untrusted results folders against their task, their points and each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.analysis.budgets import has_traces
from bench.errors import UserError
from bench.sharing.untrusted import MAX_CELLS, MAX_MAPPING_BYTES, cells
from bench.store import RunKey
from bench.tasks.catalogue import Task
from bench.trace import Costs, Trace

SPLITS = ("calibration", "validation", "validation_mismatched")
"""Splits whose traces are published."""
_MOST_MACS = 10**18
_MOST_TOKENS = 10**6


def check_run(folder: Path, task: Task, facts: Mapping[str, Any]) -> None:
    """Check the traces and costs of one finished run that is to be copied.

    Args:
        folder: The folder of the run.
        task: Its task.
        facts: Content of its `run.json`.

    Raises:
        UserError: A record is missing, broken, or contradicts the task or another record.
    """
    for name, why in Records()._of_run(folder, task, facts, None, SPLITS):
        raise UserError(f"{folder / name}: {why}")


class Records:
    """Checks of the records of finished runs.

    The examples of each split are remembered, so that one object checks several folders that are to be merged: all runs
    of a task must have the same validation examples and labels, and runs with the same fingerprint of the data the same
    calibration examples.
    """

    def __init__(self) -> None:
        self._examples: dict[tuple[str, ...], tuple[Path, NDArray[np.int64], NDArray[Any]]] = {}

    def problems(
        self,
        folder: Path,
        runs: Mapping[RunKey, Mapping[str, Any]],
        points: pd.DataFrame,
        tasks: Mapping[str, Task],
        splits: Collection[str] = SPLITS,
    ) -> list[str]:
        """Return one line for each unusable record, beginning with its path relative to `folder`.

        Args:
            folder: The results folder.
            runs: Its runs, with the content of `run.json`.
            points: Its operating points.
            tasks: All tasks of its settings, by name.
            splits: The splits whose traces are checked.
        """
        of_runs = {RunKey(*key): rows for key, rows in points.groupby(["task", "method", "variant", "seed"])}
        found = []
        for key, facts in runs.items():
            rows, finished = of_runs.get(key), facts["status"] == "ok"
            place = Path("runs") / key.path
            if key.task not in tasks:
                found.append(f"{place}: the settings do not declare the task")
            elif rows is not None and finished != bool((rows["status"] != "failed").all()):
                known = "finished" if finished else "failed"
                found.append(f"{place / 'run.json'}: the run is {known}, which differs from all-points.parquet")
            elif finished:
                for name, why in self._of_run(folder / place, tasks[key.task], facts, rows, splits):
                    found.append(f"{place / name}: {why}")
        return found

    def _of_run(
        self,
        folder: Path,
        task: Task,
        facts: Mapping[str, Any],
        rows: pd.DataFrame | None,
        splits: Collection[str],
    ) -> Iterator[tuple[str, str]]:
        """Yield (file name, problem) for each unusable record of a finished run."""
        try:
            costs = _costs(folder / "costs.json")
        except UserError as error:
            yield "costs.json", _reason(error, folder / "costs.json")
            return
        if rows is not None and set(rows["exits"].map(len)) - {0, len(costs.layers)}:
            yield "costs.json", f"{len(costs.layers)} exits, other than in all-points.parquet"
        traced = rows is None or bool(has_traces(rows).any())
        for split in splits:
            file = folder / f"trace-{split}.parquet"
            of_split = None if rows is None else rows[rows["split"] == split]
            needed = traced and (split == "validation" if of_split is None else len(of_split) > 0)
            if not needed and not file.is_file():
                continue
            try:
                trace = _trace(file)
            except UserError as error:
                yield file.name, _reason(error, file)
                continue
            problem = _mismatch(trace, task, costs, of_split) or self._differs(file, trace, task, split, facts)
            if problem:
                yield file.name, problem

    def _differs(self, file: Path, trace: Trace, task: Task, split: str, facts: Mapping[str, Any]) -> str:
        """Return a problem if the run's examples are not those of an earlier run on the same text."""
        drawn = () if split.startswith("validation") else (str(facts["asked"]["data"]["fingerprint"]),)
        first, idx, labels = self._examples.setdefault((task.name, split, *drawn), (file, trace.idx, trace.labels))
        if not np.array_equal(idx, trace.idx):
            return f"other examples than in {first}"
        return "" if np.array_equal(labels, trace.labels) else f"other labels than in {first}"


def _reason(error: UserError, file: Path) -> str:
    return str(error).removeprefix(f"{file}: ")


def _costs(file: Path) -> Costs:
    if file.is_file() and file.stat().st_size > MAX_MAPPING_BYTES:
        raise UserError(f"larger than {MAX_MAPPING_BYTES / 1e6:g} MB")
    return Costs.load(file)


def _trace(file: Path) -> Trace:
    try:
        size = 8 * cells(pq.read_metadata(file))
    except Exception:  # pyarrow raises many kinds for broken files; the reader of traces gives the reason
        size = 0
    if size > 8 * MAX_CELLS:
        raise UserError(f"more than {8 * MAX_CELLS} bytes when decompressed")
    return Trace.load(file)


def _mismatch(trace: Trace, task: Task, costs: Costs, rows: pd.DataFrame | None) -> str:
    """Return in what a trace contradicts its task, its costs or its points; "" if in nothing."""
    exits, count, outputs = trace.logits.shape
    if exits != len(costs.layers):
        return f"{exits} exits, and {len(costs.layers)} in costs.json"
    if outputs != task.outputs:
        return f"{outputs} outputs of each exit, and {task.name} has {task.outputs}"
    if rows is not None and set(rows["examples"].dropna()) - {count}:
        return f"{count} examples, other than in all-points.parquet"
    if len(np.unique(trace.idx)) < count:
        return "two rows of one example"
    if task.regression:
        if not np.isfinite(trace.labels).all():
            return "a label that is not a finite number"
    elif trace.labels.dtype.kind not in "iu" or not 0 <= trace.labels.min() <= trace.labels.max() < task.outputs:
        return f"a label that is not one of the {task.outputs} classes of {task.name}"
    if not np.isfinite(trace.logits).all():
        return "logits that are not finite"
    if trace.signal is not None and not np.isfinite(trace.signal).all():
        return "signals that are not finite"
    if trace.lengths.min() < 1 or trace.lengths.max() > _MOST_TOKENS:
        return "an example with an impossible number of tokens"
    ends = [[c0 + n * (c1 + n * c2) for c0, c1, c2 in costs.coefficients] for n in map(int, set(trace.lengths))]
    if any(not each[0] > 0 or each != sorted(each) or each[-1] > _MOST_MACS for each in ends):
        return "costs.json has impossible costs at its lengths"
    return ""
