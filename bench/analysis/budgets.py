"""Choice of operating points on the selection split.

Every function takes `points`, the rows of all-points.parquet, and returns rows of it. Points are chosen on the
selection split (column `selection`) and reported on another split, by default validation. The predictions of a chosen
point are replayed from the trace of its run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import UserError
from bench.exit_policies.operating import exits_taken
from bench.exit_policies.policies import Policy
from bench.trace import Trace

RUN = ["task", "method", "variant", "seed"]
POINT = [*RUN, "kind", "point"]
GROUP = ("task", "method", "seed")
BUDGETS = (1.0, 2.0, 4.0, 8.0)
"""Speed-ups over the reference at which tables, figures and exports show the best points."""
ANY_COST = 0.0
"""Budget of the methods that cost more than the reference at every point (`costlier`)."""
# Kinds of operating points that may be chosen; of equal points the simplest kind is kept.
SIMPLICITY = {"static": 0, "fixed_exit": 1, "uniform": 2, "per_exit": 3}
ROUNDING = 1e-12
TIER, POINTS_ONLY = "tier", "points"
"""Column of all-points.parquet, and its value for runs that were published without traces."""
TOLERANCE = 0.02
"""Relative tolerance of a budget: exit heads cost up to 2 % on short texts, and half the layers count as 2x."""


def succeeded(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of runs that did not fail."""
    return points[points["status"] != "failed"] if "status" in points else points


def has_traces(points: pd.DataFrame) -> pd.Series:
    """Return a mask of the rows whose runs have traces, which is False for entries published with points only."""
    if TIER not in points:
        return pd.Series(True, index=points.index)
    return points[TIER] != POINTS_ONLY


def failures(points: pd.DataFrame) -> pd.DataFrame:
    """Return one row per failed run, with task, method, variant, label, seed and reason."""
    columns = ["task", "method", "variant", "label", "seed", "reason"]
    if "status" not in points:
        return pd.DataFrame(columns=columns)
    failed = points.loc[points["status"] == "failed", columns]
    return failed.drop_duplicates(RUN).sort_values(RUN, ignore_index=True)


def selection_split(points: pd.DataFrame) -> str:
    """Return the selection split recorded in the rows, "calibration" or "validation".

    Raises:
        UserError: If the rows name more than one.
    """
    named = [str(each) for each in points["selection"].dropna().unique()] if "selection" in points else []
    if len(named) > 1:
        raise UserError(
            f"points were chosen on different splits, {' and '.join(named)}; use the results of one profile"
        )
    return named[0] if named else "calibration"


def operating_points(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of points that may be chosen: static, fixed exit, uniform and per exit."""
    points = succeeded(points)
    return points[points["kind"].isin(list(SIMPLICITY))]


def costlier(points: pd.DataFrame) -> set[str]:
    """Return the methods without a point within the reference's cost, such as models with more layers."""
    rows = operating_points(points)
    fastest = rows[rows["split"] == selection_split(points)].groupby("method")["speedup"].max()
    return {str(name) for name in fastest.index[fastest < 1 - TOLERANCE]}


def by_budget(points: pd.DataFrame, budgets: Sequence[float] = BUDGETS) -> list[tuple[float, pd.DataFrame]]:
    """Return each budget with all points, then `ANY_COST` with the points of costlier methods if there are any."""
    more = points[points["method"].isin(costlier(points))]
    return [*((budget, points) for budget in budgets), *([(ANY_COST, more)] if len(more) else [])]


def budget_title(budget: float) -> str:
    """Return the text for a budget, such as "at least 2x"."""
    return f"at least {budget:g}x" if budget else "any cost"


def at_budget(
    points: pd.DataFrame, speedup: float, *, split: str = "validation", by: tuple[str, ...] = GROUP
) -> pd.DataFrame:
    """Choose, for each method, task and seed, the best operating point within a budget.

    Candidates are the points whose speed-up on the selection split is at least `speedup`, less `TOLERANCE`. Of these
    the point with the highest score on the selection split is chosen; of equal scores, the cheapest point.

    Args:
        points: All operating points.
        speedup: The budget, as a speed-up over the reference.
        split: The split to report.
        by: Columns that define a group. The default considers all variants of a method together.

    Returns:
        One row per group: the row of the chosen point on `split`, with `budget`, `selected_score`, `selected_speedup`
        and `missed` (whether the speed-up on `split` is below the budget by more than the tolerance). Groups without a
        candidate have NaN scores and a `reason`.
    """
    usable = operating_points(points)
    affordable = usable["speedup"] >= speedup * (1 - TOLERANCE)
    chosen = best(usable, affordable & (usable["split"] == selection_split(points)), split=split, by=by)
    rows = _with_reasons(points, usable, chosen, by, f"no point at {speedup:g}x")
    return rows.assign(budget=float(speedup), missed=rows["speedup"] < speedup * (1 - TOLERANCE))


def best(
    usable: pd.DataFrame,
    candidates: pd.Series,
    *,
    split: str = "validation",
    by: tuple[str, ...] = GROUP,
    order: tuple[str, str] = ("score", "speedup"),
) -> pd.DataFrame:
    """Return the row on `split` of the best candidate of each group.

    Args:
        usable: Rows of `operating_points`.
        candidates: Mask of `usable`; the candidates are rows of the selection split.
        split: The split to report.
        by: Columns that define a group.
        order: Columns to rank candidates by, highest first.
    """
    keys = list(by)
    chosen = usable[candidates & usable["score"].notna()]
    chosen = chosen.assign(rank=chosen["kind"].map(SIMPLICITY))
    chosen = chosen.sort_values(
        [*order, "variant", "rank", "point"], ascending=[False, False, True, True, True]
    ).drop_duplicates(keys)
    chosen = chosen[[*POINT, "score", "speedup"]]
    chosen = chosen.set_axis([*POINT, "selected_score", "selected_speedup"], axis=1)
    reported = usable[usable["split"] == split]
    chosen = chosen.merge(reported, on=POINT, how="inner", validate="one_to_one")
    return chosen.sort_values(keys, ignore_index=True)


def _with_reasons(
    points: pd.DataFrame, usable: pd.DataFrame, chosen: pd.DataFrame, by: tuple[str, ...], reason: str
) -> pd.DataFrame:
    """Return `chosen` with an additional row, which states the reason, for each group without a chosen point.

    Args:
        points: All operating points.
        usable: Those that may be chosen (`operating_points`).
        chosen: The chosen points.
        by: Columns that define a group.
        reason: The reason where the run succeeded and the reference's costs are known.
    """
    keys = list(by)
    groups = points.loc[points["kind"] != "control", keys].drop_duplicates()
    rows = groups.merge(chosen, on=keys, how="left", validate="one_to_one")
    failed = failures(points).drop_duplicates(keys).set_index(keys)["reason"]
    known = usable["speedup"].notna().groupby([usable[key] for key in keys]).any()
    unknown = pd.MultiIndex.from_frame(rows[keys]).isin(known.index[~known])
    otherwise = np.where(unknown, "no speed-up is known, because the reference has no result", reason)
    why = rows[keys].join(failed, on=keys)["reason"].fillna(pd.Series(otherwise, index=rows.index))
    given = rows["reason"] if "reason" in rows else pd.Series("", index=rows.index)
    rows["reason"] = given.astype(object).where(rows["score"].notna(), why)
    return rows.sort_values(keys, ignore_index=True)


def at_quality(points: pd.DataFrame, share: float, *, reference: str = "teacher") -> pd.DataFrame:
    """Choose, for each method, task and seed, the cheapest operating point that keeps a share of the reference's gain.

    Candidates are the points whose score on the selection split is at least baseline + share x (reference - baseline),
    where baseline is the score of the constant baseline. Of these the point with the highest speed-up is chosen; of
    equal speed-ups, the one with the highest score. The criterion follows MLPerf Inference (Reddi et al., 2020, section
    3: 99 % of the reference's quality, then speed), but compares gains, because a constant answer has a score above 0.

    Args:
        points: All operating points.
        share: Share of the gain to keep, such as 0.99.
        reference: The reference contestant.

    Returns:
        One row per group: the row of the chosen point on validation, with `share`, `selected_score`, `selected_speedup`
        and `kept`, the share of the gain that it keeps on validation. Groups without a candidate have NaN scores and a
        `reason`.
    """
    selected = selection_split(points)
    usable = operating_points(points)
    floor, gain = _gain(usable, points, reference, selected)
    enough = (usable["score"] >= floor + share * gain - ROUNDING) & (usable["split"] == selected) & (gain > 0)
    chosen = best(usable, enough, order=("speedup", "score"))
    rows = _with_reasons(points, usable, chosen, GROUP, f"no point keeps {100 * share:g} % of the gain")
    floor, gain = _gain(rows, points, reference, "validation")
    without = (_gain(rows, points, reference, selected)[1] <= 0) & rows["reason"].str.startswith("no point")
    rows["reason"] = rows["reason"].where(~without, f"{reference} gains nothing over the constant baseline")
    return rows.assign(share=float(share), kept=((rows["score"] - floor) / gain).where(gain > 0))


def _gain(
    rows: pd.DataFrame, points: pd.DataFrame, reference: str, split: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the constant baseline's score, and the reference's gain over it, for each row; NaN if unknown."""
    keys = ["task", "seed"]
    control = control_rows(points, split=split).set_index(keys)["score"]
    teacher = teacher_rows(points, reference=reference, split=split).set_index(keys)["score"]
    index = pd.MultiIndex.from_frame(rows[keys])
    floor = control.reindex(index).to_numpy(dtype=np.float64)
    return floor, teacher.reindex(index).to_numpy(dtype=np.float64) - floor


def chosen_frontier(points: pd.DataFrame, *, split: str = "validation", by: tuple[str, ...] = GROUP) -> pd.DataFrame:
    """Return the rows on `split` of the points that form each group's frontier on the selection split, cheapest first.

    The points are not filtered again on `split`, where they do not always form a frontier. Of points that are equal on
    the selection split the simplest kind is kept.
    """
    keys = list(by)
    usable = operating_points(points)
    selected = usable[(usable["split"] == selection_split(points)) & usable["score"].notna()]
    selected = selected.assign(rank=selected["kind"].map(SIMPLICITY))
    order = [*keys, "flops", "score", *RUN, "rank", "point"]
    order = list(dict.fromkeys(order))
    selected = selected.sort_values(order, ascending=[name != "score" for name in order])
    # In order of FLOPs, a point is on the frontier if its score exceeds all scores before it.
    before = selected.groupby(keys, sort=False)["score"].cummax().groupby([selected[key] for key in keys]).shift()
    kept = selected.loc[~(selected["score"] <= before), POINT]
    reported = usable[usable["split"] == split]
    frontier = kept.merge(reported, on=POINT, how="inner", validate="one_to_one")
    return frontier.sort_values([*by, "flops", "score"], ignore_index=True)


def static_rows(points: pd.DataFrame, *, split: str = "validation") -> pd.DataFrame:
    """Return the static points on `split`, one row per task, method, variant and seed."""
    rows = succeeded(points)
    return rows[(rows["kind"] == "static") & (rows["split"] == split)].sort_values(RUN, ignore_index=True)


def control_rows(points: pd.DataFrame, *, split: str = "validation") -> pd.DataFrame:
    """Return the constant baseline on `split`, one row per task and seed."""
    rows = succeeded(points)
    rows = rows[(rows["kind"] == "control") & (rows["split"] == split)]
    return rows.drop_duplicates(["task", "seed"]).sort_values(["task", "seed"], ignore_index=True)


def teacher_rows(points: pd.DataFrame, *, reference: str = "teacher", split: str = "validation") -> pd.DataFrame:
    """Return the static points of the reference on `split`, one row per task and seed."""
    rows = static_rows(points, split=split)
    return rows[rows["method"] == reference].drop_duplicates(["task", "seed"]).reset_index(drop=True)


def run_folder(row: pd.Series | Mapping[str, Any], runs: Path) -> Path:
    """Return the folder of the run of a point. `runs` is results/<profile>/runs."""
    return runs / row["task"] / row["method"] / row["variant"] / f"seed{int(row['seed'])}"


def full_depth_runs(points: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the static point on the selection split of each run that did not fail, as mappings."""
    rows = static_rows(points, split=selection_split(points))
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def predicted(row: pd.Series, trace: Trace, own: Policy | None = None) -> NDArray[np.float64]:
    """Return the predictions [N] of an operating point on a trace: class ids, or values for regression.

    Args:
        row: A row of `operating_points`.
        trace: The trace of N examples.
        own: The exit policy that the contestant defines, if it defines one.
    """
    exits = exits_taken(row, trace, own)
    logits = trace.logits[exits, np.arange(len(exits))]
    return np.asarray(logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1), dtype=np.float64)


def operated(points: pd.DataFrame) -> pd.Series:
    """Return how each row of a points table is operated, as text that stays the same when points are computed again."""

    def words(row: dict[str, Any]) -> str:
        if not isinstance(row.get("kind"), str):
            return "failed"
        thresholds = [repr(float(value)) for value in row["thresholds"]]
        # In a table with gaps whole numbers are floats.
        return " ".join(
            [row["kind"], str(row["policy"]), str(int(row["exit"])), repr(float(row["threshold"])), *thresholds]
        )

    return pd.Series([words(row) for row in points.to_dict("records")], index=points.index, dtype=str)


def timed_points(points: pd.DataFrame, times: pd.DataFrame, batch: int = 1) -> pd.DataFrame:
    """Return the validation rows that were timed, with the columns of their times.

    Args:
        points: Rows of all-points.parquet.
        times: latency.parquet of the same results; it may be empty.
        batch: Examples per forward pass.

    Returns:
        Rows with `milliseconds` (median over rounds, per example), `p95_milliseconds`, and two speed-ups over the
        reference on the timed examples: `measured`, and `promised`, which is calculated from FLOPs.
    """
    rows = succeeded(points)
    columns = ["milliseconds", "p95_milliseconds", "measured", "promised"]
    rows = rows[(rows["split"] == "validation") & rows["score"].notna()].drop(columns=columns, errors="ignore")
    if times.empty:  # nothing was timed: the file may have no columns
        return rows.iloc[:0].reindex(columns=[*rows, *columns])
    keys = [*RUN, "operated"]
    timed = times[times["batch_size"] == batch]
    timed = timed.assign(
        milliseconds=1000 * timed["seconds"] / timed["examples"],
        p95_milliseconds=1000 * timed["p95_seconds"],
        measured=timed["speedup"],
    )
    rows = rows[pd.MultiIndex.from_frame(rows[RUN]).isin(pd.MultiIndex.from_frame(timed[RUN]))]
    return rows.assign(operated=operated(rows)).merge(timed[[*keys, *columns]], on=keys)
