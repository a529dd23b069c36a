"""Averages over the seeds of each task, then over tasks with equal weights.

For a task t whose seeds have mean m_t and sample deviation s_t, the average over T tasks is M = sum(m_t) / T. Runs on
different tasks are independent, so the average of one run per task has the deviation sqrt(sum(s_t^2)) / T. Tables print
it after the ± of an average, and s_t after the ± of a single task.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def over_seeds(
    rows: pd.DataFrame, by: Sequence[str], values: Sequence[str], *, ratios: Sequence[str] = ()
) -> pd.DataFrame:
    """Compute means and sample deviations over seeds, one row per group.

    Args:
        rows: One row per seed and group.
        by: Columns that define a group.
        values: Columns to average.
        ratios: Columns of which to compute geometric means.

    Returns:
        The columns `by`, each value (mean over the seeds where it is known), <value>_std (ddof 1; NaN for one seed),
        the ratios, and seeds (number of seeds where the first value is known).
    """
    grouped = rows.groupby(list(by), sort=False, dropna=False)
    numbers = rows[list(values)].astype(float).groupby([rows[key] for key in by], sort=False, dropna=False)
    result = numbers.mean().join(numbers.std(ddof=1).add_suffix("_std"))
    for ratio in ratios:
        result[ratio] = grouped[ratio].agg(geometric)
    return result.assign(seeds=numbers[values[0]].count()).reset_index()


def over_tasks(
    rows: pd.DataFrame, by: Sequence[str], values: Sequence[str], tasks: Sequence[str], *, ratios: Sequence[str] = ()
) -> pd.DataFrame:
    """Average rows of `over_seeds` over tasks, one row per group; NaN where a task has no value.

    Args:
        rows: Result of `over_seeds`.
        by: Columns that define a group.
        values: Columns to average.
        tasks: The tasks.
        ratios: Columns of which to compute geometric means.

    Returns:
        The columns `by`, each value, <value>_std (see the module; NaN where a task has one seed), the ratios, and seeds
        (the smallest number of a task).
    """
    lines = []
    for key, group in rows.groupby(list(by), sort=False, dropna=False):
        of_task = group.set_index("task").reindex(list(tasks))
        line = dict(zip(by, key, strict=True))
        for value in values:
            line[value] = of_task[value].astype(float).mean(skipna=False)
            line[f"{value}_std"] = deviation_of_mean(of_task[f"{value}_std"])
        line |= {ratio: geometric(of_task[ratio]) if of_task[ratio].notna().all() else np.nan for ratio in ratios}
        lines.append(line | {"seeds": of_task["seeds"].fillna(0).min() if len(of_task) else 0})
    columns = [*by, *(name for value in values for name in (value, f"{value}_std")), *ratios, "seeds"]
    return pd.DataFrame(lines, columns=columns)


def deviation_of_mean(deviations: pd.Series) -> float:
    """Return sqrt(sum of squares) / T of the deviations [T] of independent tasks; NaN if one is unknown."""
    known = deviations.astype(float)
    return float(np.sqrt((known**2).sum(skipna=False)) / len(known)) if len(known) else float("nan")


def geometric(ratios: ArrayLike) -> float:
    """Return the geometric mean of the ratios that are not NaN; NaN if there are none."""
    given = np.asarray(ratios, dtype=np.float64)
    known = given[~np.isnan(given)]
    return float(np.exp(np.log(known).mean())) if len(known) else float("nan")
