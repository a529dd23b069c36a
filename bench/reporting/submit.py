"""Submissions to the GLUE server (gluebenchmark.com) from the test traces of one method.

The server requires one file per task (two for MNLI), tab-separated with the header `index<tab>prediction`. Labels are
written as words (the catalogue's `submission_words`), predictions for STS-B as numbers from 0 to 5. The server also
requires AX.tsv, predictions of an MNLI model for a diagnostic set of 1,104 pairs, whose text is not available here.
That file is a placeholder with "neutral" for every pair. The server's average does not include AX, and the AX score of
such a submission has no meaning.
"""

import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.budgets import at_budget, predicted, run_folder
from bench.errors import UserError
from bench.exit_policies.operating import has_own_policy
from bench.exit_policies.policies import Policy
from bench.store import RunKey, written_at_once
from bench.tasks.catalogue import TASKS, Task
from bench.trace import Trace, is_current

AX_EXAMPLES = 1104
# A constant time makes the zip depend on the predictions only.
_TIME = (1980, 1, 1, 0, 0, 0)


def write_submission(
    points: pd.DataFrame,
    runs: Path,
    out: Path,
    method: str,
    *,
    glue: Collection[str] = tuple(TASKS),
    speedup: float = 1.0,
    seed: int | None = None,
    rule_on: Callable[[str], Policy] | None = None,
    make_traces: Callable[[RunKey], None] | None = None,
) -> pd.DataFrame:
    """Write a zip with predictions for all nine tasks; return the operating points used, one row per task.

    Args:
        points: All operating points.
        runs: results/<profile>/runs.
        out: The file.
        method: The contestant.
        glue: The tasks whose text is that of GLUE (`Settings.glue_caps`).
        speedup: The budget at which points are chosen (see `at_budget`).
        seed: The seed of the runs; None for the lowest.
        rule_on: Returns the exit policy on a task, for contestants that define their own.
        make_traces: Traces the test splits of a run that has no trace of its current weights.

    Raises:
        UserError: If the text is not that of GLUE, or if a task has no run, point or test trace. Nothing is written.
    """
    if method not in set(points["method"]):
        raise UserError(f"no method {method!r} in the points; choose from {', '.join(points['method'].unique())}")
    rows = points[(points["method"] == method) & points["task"].isin(list(TASKS))]
    if rows.empty:
        raise UserError(f"{method} was run on no task of GLUE; the server only takes predictions for GLUE")
    if others := rows.loc[~rows["task"].isin(list(glue)), "task"].unique().tolist():
        raise UserError(f"the text of {', '.join(others)} is not GLUE's: the server only takes predictions for GLUE")
    seed = int(rows["seed"].min()) if seed is None else seed
    chosen = at_budget(rows[rows["seed"] == seed], speedup).set_index("task", drop=False)
    files = {"AX.tsv": _lines(np.arange(AX_EXAMPLES), ["neutral"] * AX_EXAMPLES)}
    for task in TASKS.values():
        if task.name not in chosen.index:
            raise UserError(f"{task.name}: {method} has no run of seed {seed}; a submission needs all nine tasks")
        row = chosen.loc[task.name]
        if pd.isna(row["score"]):
            raise UserError(f"{task.name}: {method}, seed {seed}: {row['reason']}; a submission needs all nine tasks")
        splits = [split for split in task.splits if split.startswith("test")]
        for split, name in zip(splits, task.submission_files, strict=True):
            path = run_folder(row, runs) / f"trace-{split}.parquet"
            if make_traces and not is_current(path):
                make_traces(RunKey(task.name, method, str(row["variant"]), seed))
            if not path.is_file():
                raise UserError(f"{task.name}: no trace of the {split} split ({path}); run it on data that has one")
            trace = Trace.load(path)
            order = np.argsort(trace.idx, kind="stable")
            own = rule_on(task.name) if rule_on and has_own_policy(row) else None
            files[name] = _lines(trace.idx[order], server_labels(task, predicted(row, trace, own)[order]))
    with written_at_once(out) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), text, zipfile.ZIP_DEFLATED)
    return chosen.reset_index(drop=True)


def server_labels(task: Task, predictions: NDArray[np.float64]) -> list[str]:
    """Return predictions [N] in the format of the server: labels, or numbers from 0 to 5 with three decimals."""
    if task.regression:
        return [f"{value:.3f}" for value in np.clip(predictions, 0.0, 5.0)]
    return [task.submission_words[int(label)] for label in predictions]


def _lines(index: NDArray[np.int64], predictions: list[str]) -> str:
    rows = [f"{i}\t{prediction}" for i, prediction in zip(index, predictions, strict=True)]
    return "\n".join(["index\tprediction", *rows]) + "\n"
