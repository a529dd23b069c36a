"""Frontiers in one number, and the gain that is kept.

All scores are fractions here; tables print them times 100.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bench.analysis.budgets import (
    at_budget,
    chosen_frontier,
    control_rows,
    selection_split,
    static_rows,
    teacher_rows,
)
from bench.analysis.frontier import hypervolume
from bench.analysis.roles import Roles

BUDGETS = (2.0, 4.0, 8.0, 19.0)
LEARNED_GAIN = 0.05
"""Gain of the reference over the best constant answer from which on a task counts as learned, as a fraction."""


def elue(score: ArrayLike, flops: ArrayLike, reference_score: ArrayLike, reference_flops: ArrayLike) -> float:
    """ELUE score (ElasticBERT, NAACL 2022): mean over points of p_i - p_ref(f_i), in fractions.

    p_ref is linear in log FLOPs between the reference's static points and clamped outside their range. NaN
    without points or without a reference.
    """
    known = pd.Series(np.asarray(reference_score, float), index=np.asarray(reference_flops, float))
    reference = known.dropna().groupby(level=0).mean()
    p, f = np.asarray(score, float), np.asarray(flops, float)
    usable = np.isfinite(p) & (f > 0)
    if reference.empty or not usable.any():
        return float("nan")
    expected = np.interp(np.log(f[usable]), np.log(reference.index.to_numpy(float)), reference.to_numpy())
    return float((p[usable] - expected).mean())


def gains(rows: pd.DataFrame, points: pd.DataFrame, *, reference: str = "teacher") -> pd.DataFrame:
    """`rows` (of `at_budget` or alike) with `gain` and `teacher_gain`: score and teacher's score over the control's.

    Both are of the same task and seed, and both NaN where one is not known.
    """
    rows = _beside_controls(rows, points, reference)
    known = rows[["score", "teacher", "control"]].notna().all(axis=1)
    return rows.assign(
        gain=(rows["score"] - rows["control"]).where(known),
        teacher_gain=(rows["teacher"] - rows["control"]).where(known),
    )


def kept(gain: ArrayLike, teacher_gain: ArrayLike) -> float:
    """Part of the teacher's gain over the best constant answer that is kept: sum of gains / sum of the teacher's.

    A ratio of sums, over tasks and seeds alike: a mean of ratios would be ruled by the task where the teacher gains
    least. NaN where a gain is not known, or the teacher gains nothing in all.
    """
    total, of_teacher = np.sum(np.asarray(gain, float)), np.sum(np.asarray(teacher_gain, float))
    return float(total / of_teacher) if of_teacher > 0 else float("nan")


def learned_tasks(points: pd.DataFrame, *, reference: str = "teacher") -> list[str]:
    """The tasks that the reference has learned: on the selection split it gains `LEARNED_GAIN` with every seed.

    The gain is that over the best constant answer. A task where a seed's reference failed is not learned.
    """
    split, keys = selection_split(points), ["task", "seed"]
    control = control_rows(points, split=split).set_index(keys)["score"]
    teacher = teacher_rows(points, reference=reference, split=split).set_index(keys)["score"]
    planned = points[keys].drop_duplicates()
    index = pd.MultiIndex.from_frame(planned)
    enough = (teacher.reindex(index) - control.reindex(index) >= LEARNED_GAIN).to_numpy()
    every = pd.Series(enough, index=planned["task"].to_numpy()).groupby(level=0, sort=False).all()
    return [str(task) for task in every.index[every]]


def frontier_summary(
    points: pd.DataFrame,
    roles: Roles,
    *,
    budgets: Sequence[float] = BUDGETS,
) -> pd.DataFrame:
    """One row a (task, method, seed): points on the frontier, hypervolume, elue; score_, gain_ and teacher_gain_<b>x.

    Frontiers are chosen on the selection split and read on validation. Hypervolume: score x doublings of
    speed-up above (control score, the teacher's FLOPs), see bench.analysis.frontier. ELUE: the reference is
    the static points of the depth reference with the teacher as its full depth; NaN where that has none.
    Where the control or the teacher of a seed failed, so does what is measured against it: NaN.
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
        rows.append(row)
    keys = ["task", "method", "seed"]
    summary = pd.DataFrame(rows, columns=[*keys, "points", "hypervolume", "elue"])
    for budget in budgets:
        found = gains(at_budget(points, budget), points, reference=roles.reference)
        found = found[[*keys, "score", "gain", "teacher_gain"]]
        found.columns = pd.Index([*keys, *(f"{name}_{budget:g}x" for name in found.columns[3:])])
        summary = summary.merge(found, on=keys, how="outer")
    return summary.sort_values(keys, ignore_index=True)


def _beside_controls(rows: pd.DataFrame, points: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`rows` with the columns `teacher` and `control`: the controls' scores on the same task and seed."""
    key = ["task", "seed"]
    teacher = teacher_rows(points, reference=reference)[[*key, "score"]].rename(columns={"score": "teacher"})
    control = control_rows(points)[[*key, "score"]].rename(columns={"score": "control"})
    return rows.merge(teacher, on=key, how="left").merge(control, on=key, how="left")
