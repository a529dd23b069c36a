"""Summaries of frontiers, the share of the teacher's gain that a method keeps, and learned tasks.

Scores are fractions here; tables print them times 100.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bench.analysis.budgets import (
    ROUNDING,
    TOLERANCE,
    at_budget,
    chosen_frontier,
    control_rows,
    selection_split,
    static_rows,
    teacher_rows,
)
from bench.analysis.frontier import hypervolume
from bench.analysis.roles import Roles
from bench.errors import UserError
from bench.tasks.catalogue import Task, in_order

BUDGETS = (2.0, 4.0, 8.0, 19.0)
LEARNED_GAIN = 0.05
"""Smallest gain of the reference over the constant baseline, as a fraction, for a task to count as learned."""
GROUPS = ("pairs", "single", "learned")
"""Names of groups of tasks for `--tasks`."""


def elue(score: ArrayLike, flops: ArrayLike, reference_score: ArrayLike, reference_flops: ArrayLike) -> float:
    """Compute the ELUE score (ElasticBERT, NAACL 2022): the mean over points of p_i - p_ref(f_i), as a fraction.

    The mean is over points, as the paper defines it. A threshold search can find hundreds of points, and those outside
    the range of the reference are compared with its end, so a method with many of them has a large score. The
    definition is kept, since a mean over a grid of costs would be another score under the same name; tables give the
    number of points and the share of those outside (`outside`) beside it.

    p_ref is linear in log FLOPs between the static points of the reference, and constant outside their range. The
    result is NaN without points or without a reference.

    Args:
        score: Scores p [P].
        flops: FLOPs f [P].
        reference_score: Scores [Q] of the static points of the reference.
        reference_flops: Their FLOPs [Q].
    """
    known = pd.Series(np.asarray(reference_score, float), index=np.asarray(reference_flops, float))
    reference = known.dropna().groupby(level=0).mean()
    p, f = np.asarray(score, float), np.asarray(flops, float)
    usable = np.isfinite(p) & (f > 0)
    if reference.empty or not usable.any():
        return float("nan")
    expected = np.interp(np.log(f[usable]), np.log(reference.index.to_numpy(float)), reference.to_numpy())
    return float((p[usable] - expected).mean())


def outside(flops: ArrayLike, reference_flops: ArrayLike) -> float:
    """Return the share of points whose FLOPs are outside those of the reference by more than `TOLERANCE`.

    Args:
        flops: FLOPs [P] of the points.
        reference_flops: FLOPs [Q] of the reference.
    """
    own, range_ = np.asarray(flops, float), np.asarray(reference_flops, float)
    if not len(own) or not len(range_):
        return float("nan")
    low, high = range_.min() * (1 - TOLERANCE), range_.max() * (1 + TOLERANCE)
    return float(((own < low) | (own > high)).mean())


def gains(rows: pd.DataFrame, points: pd.DataFrame, *, reference: str = "teacher") -> pd.DataFrame:
    """Return `rows` with columns `gain` and `teacher_gain`: score minus the constant baseline's score.

    Teacher and baseline are those of the same task and seed. Both columns are NaN where one of the scores is unknown.
    """
    rows = _beside_controls(rows, points, reference)
    known = rows[["score", "teacher", "control"]].notna().all(axis=1)
    return rows.assign(
        gain=(rows["score"] - rows["control"]).where(known),
        teacher_gain=(rows["teacher"] - rows["control"]).where(known),
    )


def kept(gain: ArrayLike, teacher_gain: ArrayLike) -> float:
    """Compute the share of the teacher's gain that is kept: sum of gains / sum of the teacher's gains.

    A mean of ratios would be dominated by the task where the teacher gains least. The result is NaN if a gain is
    unknown or if the teacher's gains do not sum to a positive number.
    """
    total, of_teacher = np.sum(np.asarray(gain, float)), np.sum(np.asarray(teacher_gain, float))
    return float(total / of_teacher) if of_teacher > 0 else float("nan")


def learned_tasks(points: pd.DataFrame, *, reference: str = "teacher") -> list[str]:
    """Return the tasks where the reference gains at least `LEARNED_GAIN` over the constant baseline with every seed.

    They are in the order of the catalogue. Gains are those on the selection split. A task where a run of the reference
    failed does not count as learned.
    """
    split, keys = selection_split(points), ["task", "seed"]
    control = control_rows(points, split=split).set_index(keys)["score"]
    teacher = teacher_rows(points, reference=reference, split=split).set_index(keys)["score"]
    planned = points[keys].drop_duplicates()
    index = pd.MultiIndex.from_frame(planned)
    enough = (teacher.reindex(index) - control.reindex(index) >= LEARNED_GAIN - ROUNDING).to_numpy()
    every = pd.Series(enough, index=planned["task"].to_numpy()).groupby(level=0, sort=False).all()
    return in_order(map(str, every.index[every]))


def select_tasks(wanted: str, points: pd.DataFrame, known: Mapping[str, Task], *, reference: str) -> list[str]:
    """Return the tasks in a comma-separated list of names and groups.

    Args:
        wanted: Names of tasks, or `pairs` (two texts), `single` (one text) and `learned` (`learned_tasks`).
        points: All operating points.
        known: Map from name to task.
        reference: The contestant whose gain decides which tasks count as learned.

    Raises:
        UserError: For a name that is neither a task of the points nor a group, and if the result is empty.
    """
    available = list(dict.fromkeys(points["task"]))
    groups: dict[str, Callable[[], Sequence[str]]] = {
        "pairs": lambda: [task for task in available if task in known and len(known[task].columns) == 2],
        "single": lambda: [task for task in available if task in known and len(known[task].columns) == 1],
        "learned": lambda: learned_tasks(points, reference=reference),
    }
    chosen: list[str] = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        if name not in available and name not in groups:
            raise UserError(f"--tasks: no task {name!r}; choose from {', '.join([*available, *groups])}")
        chosen += [name] if name in available else groups[name]()
    if not chosen:
        raise UserError(f"--tasks {wanted}: no such task here; there are {', '.join(available)}")
    return [task for task in available if task in chosen]


def frontier_summary(
    points: pd.DataFrame,
    roles: Roles,
    *,
    budgets: Sequence[float] = BUDGETS,
) -> pd.DataFrame:
    """Summarise frontiers that are chosen on the selection split, with values on validation.

    Returns:
        One row per task, method and seed, with points (number of points on the frontier), hypervolume (see
        `bench.analysis.frontier.hypervolume`; above the score of the constant baseline and the FLOPs of the teacher),
        elue (relative to the static points of the depth reference and the teacher; NaN without a depth reference),
        outside (share of the points outside the range of their FLOPs), and for each budget b score_<b>x, gain_<b>x and
        teacher_gain_<b>x. Values that depend on a failed baseline or teacher are NaN.
    """
    frontier = _beside_controls(chosen_frontier(points), points, roles.reference)
    static = static_rows(points)
    curve = static[static["method"].isin([roles.depth_reference, roles.reference])]
    rows = []
    for (task, method, seed), group in frontier.groupby(["task", "method", "seed"], sort=False):
        cuts = curve[(curve["task"] == task) & (curve["seed"] == seed)]
        scored, floor = group["score"], float(group["control"].iloc[0])
        compared = (cuts["method"] == roles.depth_reference).any()
        row = {"task": task, "method": method, "seed": seed, "points": len(group)}
        measured = np.isfinite(floor) and group["speedup"].notna().any()
        area = hypervolume(scored, 1 / group["speedup"], teacher_flops=1.0, floor=floor) if measured else np.nan
        row |= {"hypervolume": area}
        row["elue"] = elue(scored, group["flops"], cuts["score"], cuts["flops"]) if compared else float("nan")
        known = cuts.loc[cuts["score"].notna(), "flops"]
        row["outside"] = outside(group["flops"], known) if compared else float("nan")
        rows.append(row)
    keys = ["task", "method", "seed"]
    summary = pd.DataFrame(rows, columns=[*keys, "points", "hypervolume", "elue", "outside"])
    for budget in budgets:
        found = gains(at_budget(points, budget), points, reference=roles.reference)
        found = found[[*keys, "score", "gain", "teacher_gain"]]
        found.columns = pd.Index([*keys, *(f"{name}_{budget:g}x" for name in found.columns[3:])])
        summary = summary.merge(found, on=keys, how="outer")
    return summary.sort_values(keys, ignore_index=True)


def _beside_controls(rows: pd.DataFrame, points: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return `rows` with the scores of the teacher and of the constant baseline on the same task and seed."""
    key = ["task", "seed"]
    teacher = teacher_rows(points, reference=reference)[[*key, "score"]].rename(columns={"score": "teacher"})
    control = control_rows(points)[[*key, "score"]].rename(columns={"score": "control"})
    return rows.merge(teacher, on=key, how="left").merge(control, on=key, how="left")
