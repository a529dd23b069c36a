"""A zip for the GLUE server (gluebenchmark.com) from the kept test traces of one method.

The server wants one file a task, tab-separated with the header `index<tab>prediction`, labels as it writes
them (the catalogue's `submission_words`), STS-B as numbers from 0 to 5, and MNLI's two halves apart. It also
wants AX.tsv, predictions of an MNLI model for a diagnostic set of 1,104 pairs that is no part of the nine
tasks and whose text no source here has: that file is a placeholder ("neutral" throughout). The server's
average does not count AX, and its AX score of such a submission means nothing and must not be quoted.
"""

import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.budgets import at_budget, predicted, run_folder
from bench.errors import UserError
from bench.exit_policies.operating import brings_its_rule
from bench.exit_policies.policies import Policy
from bench.store import RunKey
from bench.tasks.catalogue import TASKS, Task
from bench.trace import Trace, is_current

AX_EXAMPLES = 1104
# A zip of the same predictions is the same file.
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
    """Write the zip `out`; return the operating points that were used, one row a task.

    Args:
        points: all-points.parquet.
        runs: results/<profile>/runs.
        out: The file.
        method: The contestant.
        glue: The tasks whose text is GLUE's own (`Settings.glue_caps`).
        speedup: Each task's point is the best on the selection split at this speed-up (see `at_budget`).
        seed: The seed of the runs; None for the lowest.
        rule_on: Returns the exit policy on a task, of a contestant that brought its own.
        make_traces: Traces the test splits of a run that has no trace of its present weights.

    Raises:
        UserError: Before anything is written: the text is not GLUE's, or a task (the first is named) has no run, no
            point or no test trace.
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
            own = rule_on(task.name) if rule_on and brings_its_rule(row) else None
            files[name] = _lines(trace.idx[order], words(task, predicted(row, trace, own)[order]))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), text, zipfile.ZIP_DEFLATED)
    part.replace(out)
    return chosen.reset_index(drop=True)


def words(task: Task, predictions: NDArray[np.float64]) -> list[str]:
    """Predictions [N] as the server writes them: words or digits; three decimals within 0..5 for STS-B."""
    if task.regression:
        return [f"{value:.3f}" for value in np.clip(predictions, 0.0, 5.0)]
    return [task.submission_words[int(label)] for label in predictions]


def _lines(index: NDArray[np.int64], predictions: list[str]) -> str:
    rows = [f"{i}\t{prediction}" for i, prediction in zip(index, predictions, strict=True)]
    return "\n".join(["index\tprediction", *rows]) + "\n"
