"""Averages: seeds within a task first, then tasks, each task with equal weight.

For a task t with n_t seeds of mean m_t and sample deviation s_t, the average over T tasks is M = sum(m_t) / T. One run
of every task gives an average that scatters about M with the deviation sqrt(sum(s_t^2)) / T, since trainings on
different tasks are independent: that is what stands behind an average's ±, as s_t stands behind a cell's.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def over_seeds(
    rows: pd.DataFrame, by: Sequence[str], values: Sequence[str], *, ratios: Sequence[str] = ()
) -> pd.DataFrame:
    """Mean, sample deviation (ddof 1, NaN for one seed) and number of seeds of `values`, one row a group.

    Columns: by, each value (its mean over the seeds that have one), <value>_std, seeds (those where the first value is
    known), and the geometric means of `ratios`.
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
    """The average over `tasks` of what `over_seeds` gave for each, one row a group; NaN where a task has no value.

    Columns: by, each value, <value>_std (see above; NaN where a task has one seed only), seeds (the fewest of a task),
    and the geometric means of `ratios`.
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
    """sqrt(sum of squares) / T of T independent tasks' deviations; NaN where one is not known."""
    known = deviations.astype(float)
    return float(np.sqrt((known**2).sum(skipna=False)) / len(known)) if len(known) else float("nan")


def geometric(ratios: ArrayLike) -> float:
    """Geometric mean of those that are known; NaN for none."""
    given = np.asarray(ratios, dtype=np.float64)
    known = given[~np.isnan(given)]
    return float(np.exp(np.log(known).mean())) if len(known) else float("nan")
