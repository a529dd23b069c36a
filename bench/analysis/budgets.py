"""Choosing operating points: the selection split decides, the other splits are only read.

Every function takes `points`, the rows of all-points.parquet, and returns rows of it. The split on which a
choice is made is the one the settings name (column `selection`); what is reported is the row of the same
operating point on another split, validation unless said. What a chosen point predicts is replayed from the
run's kept trace.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import UserError
from bench.exit_policies.operating import left
from bench.exit_policies.policies import Policy
from bench.trace import Trace

RUN = ["task", "method", "variant", "seed"]
POINT = [*RUN, "kind", "point"]
GROUP = ("task", "method", "seed")
# What a model may be operated at. Of points that are equal the simplest is kept: the order of a run's points table.
SIMPLICITY = {"static": 0, "fixed_exit": 1, "uniform": 2, "per_exit": 3}
_ROUNDING = 1e-12
TOLERANCE = 0.02
"""A budget may be missed by this much: exit heads cost up to 2 % on short texts, and half the layers count as 2x."""


def succeeded(points: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs that ended well."""
    return points[points["status"] != "failed"] if "status" in points else points


def failures(points: pd.DataFrame) -> pd.DataFrame:
    """One row a failed run: task, method, variant, label, seed, reason."""
    columns = ["task", "method", "variant", "label", "seed", "reason"]
    if "status" not in points:
        return pd.DataFrame(columns=columns)
    failed = points.loc[points["status"] == "failed", columns]
    return failed.drop_duplicates(RUN).sort_values(RUN, ignore_index=True)


def selection_split(points: pd.DataFrame) -> str:
    """The split on which choices are made, as recorded in the rows: "calibration" or "validation"."""
    named = [str(each) for each in points["selection"].dropna().unique()] if "selection" in points else []
    if len(named) > 1:
        raise UserError(f"some points were selected on {' and some on '.join(named)}: collect one profile")
    return named[0] if named else "calibration"


def operating_points(points: pd.DataFrame) -> pd.DataFrame:
    """The rows a method may be operated at: full depth, a fixed exit, its rule with one threshold or one an exit."""
    points = succeeded(points)
    return points[points["kind"].isin(list(SIMPLICITY))]


def at_budget(
    points: pd.DataFrame, speedup: float, *, split: str = "validation", by: tuple[str, ...] = GROUP
) -> pd.DataFrame:
    """The operating point each method is used at when it must be `speedup` times cheaper than the teacher.

    Among the points of a group (all variants of a method on one task and seed; add "variant" to `by` to keep
    them apart) whose speed-up on the selection split is at least `speedup` less `TOLERANCE`, the best score on
    that split is taken, ties to the cheaper one, and its row on `split` is returned with `budget`,
    `selected_score`, `selected_speedup` and `missed` (whether its speed-up on `split` is below the budget by more
    than the tolerance). Groups without such a point keep a row with NaN scores whose `reason` says why.
    """
    usable = operating_points(points)
    affordable = usable["speedup"] >= speedup * (1 - TOLERANCE)
    chosen = best(usable, affordable & (usable["split"] == selection_split(points)), split=split, by=by)
    rows = _with_reasons(points, chosen, by, f"no point at {speedup:g}x")
    return rows.assign(budget=float(speedup), missed=rows["speedup"] < speedup * (1 - TOLERANCE))


def best(
    usable: pd.DataFrame,
    candidates: pd.Series,
    *,
    split: str = "validation",
    by: tuple[str, ...] = GROUP,
    order: tuple[str, str] = ("score", "speedup"),
) -> pd.DataFrame:
    """Of each group's candidates the best by `order`, and of that operating point the row on `split`.

    usable: rows of `operating_points`; candidates: a mask of it, rows of the selection split.
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


def _with_reasons(points: pd.DataFrame, chosen: pd.DataFrame, by: tuple[str, ...], reason: str) -> pd.DataFrame:
    """`chosen`, and a row with a reason for each group that has none."""
    keys = list(by)
    groups = points.loc[points["kind"] != "control", keys].drop_duplicates()
    rows = groups.merge(chosen, on=keys, how="left", validate="one_to_one")
    failed = failures(points).drop_duplicates(keys).set_index(keys)["reason"]
    why = rows[keys].join(failed, on=keys)["reason"].fillna(reason)
    given = rows["reason"] if "reason" in rows else pd.Series("", index=rows.index)
    rows["reason"] = given.astype(object).where(rows["score"].notna(), why)
    return rows.sort_values(keys, ignore_index=True)


def at_quality(
    points: pd.DataFrame,
    share: float,
    *,
    reference: str = "teacher",
    split: str = "validation",
    by: tuple[str, ...] = GROUP,
) -> pd.DataFrame:
    """The cheapest operating point that keeps `share` (such as 0.99) of the reference's gain over the control.

    The rule of fixed quality (MLPerf Inference, Reddi et al., 2020, section 3: a target of 99 % of the reference's
    quality, then speed), with the gain in place of the score, for a constant answer already scores. Among the points
    of a group whose score on the selection split is at least control + share x (reference - control) there, the
    one with the highest speed-up is taken, ties to the better one, and its row on `split` is returned with `share`,
    `selected_score`, `selected_speedup` and `kept`, the share that it keeps on `split`. Groups without such a point
    keep a row with NaN scores whose `reason` says why.
    """
    selected = selection_split(points)
    usable = operating_points(points)
    floor, gain = _gain(usable, points, reference, selected)
    enough = (usable["score"] >= floor + share * gain - _ROUNDING) & (usable["split"] == selected) & (gain > 0)
    chosen = best(usable, enough, split=split, by=by, order=("speedup", "score"))
    rows = _with_reasons(points, chosen, by, f"no point keeps {100 * share:g} % of the gain")
    floor, gain = _gain(rows, points, reference, split)
    without = ~(_gain(rows, points, reference, selected)[1] > 0) & rows["reason"].str.startswith("no point")
    rows["reason"] = rows["reason"].where(~without, f"{reference} gains nothing over the control")
    return rows.assign(share=float(share), kept=((rows["score"] - floor) / gain).where(gain > 0))


def _gain(
    rows: pd.DataFrame, points: pd.DataFrame, reference: str, split: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each row's task and seed on `split`: the control's score, and the reference's gain over it; NaN if unknown."""
    keys = ["task", "seed"]
    control = control_rows(points, split=split).set_index(keys)["score"]
    teacher = teacher_rows(points, reference=reference, split=split).set_index(keys)["score"]
    index = pd.MultiIndex.from_frame(rows[keys])
    floor = control.reindex(index).to_numpy(dtype=np.float64)
    return floor, teacher.reindex(index).to_numpy(dtype=np.float64) - floor


def chosen_frontier(points: pd.DataFrame, *, split: str = "validation", by: tuple[str, ...] = GROUP) -> pd.DataFrame:
    """The frontier of each group: points not dominated on the selection split (score up, FLOPs down).

    Their rows on `split` are returned, cheapest first; there they need not form a frontier, and are not
    filtered again. Of points that are equal on the selection split the simplest is kept.
    """
    keys = list(by)
    usable = operating_points(points)
    selected = usable[(usable["split"] == selection_split(points)) & usable["score"].notna()]
    selected = selected.assign(rank=selected["kind"].map(SIMPLICITY))
    order = [*keys, "flops", "score", *RUN, "rank", "point"]
    order = list(dict.fromkeys(order))
    selected = selected.sort_values(order, ascending=[name != "score" for name in order])
    # Cheapest first, a point is on the frontier if its score is above that of all before it.
    before = selected.groupby(keys, sort=False)["score"].cummax().groupby([selected[key] for key in keys]).shift()
    kept = selected.loc[~(selected["score"] <= before), POINT]
    reported = usable[usable["split"] == split]
    frontier = kept.merge(reported, on=POINT, how="inner", validate="one_to_one")
    return frontier.sort_values([*by, "flops", "score"], ignore_index=True)


def static_rows(points: pd.DataFrame, *, split: str = "validation") -> pd.DataFrame:
    """The full-depth prediction of every run on `split`, one row a (task, method, variant, seed)."""
    rows = succeeded(points)
    return rows[(rows["kind"] == "static") & (rows["split"] == split)].sort_values(RUN, ignore_index=True)


def control_rows(points: pd.DataFrame, *, split: str = "validation") -> pd.DataFrame:
    """The control that always answers the best constant answer, one row a (task, seed)."""
    rows = succeeded(points)
    rows = rows[(rows["kind"] == "control") & (rows["split"] == split)]
    return rows.drop_duplicates(["task", "seed"]).sort_values(["task", "seed"], ignore_index=True)


def teacher_rows(points: pd.DataFrame, *, reference: str = "teacher", split: str = "validation") -> pd.DataFrame:
    """The static rows of the reference, one row a (task, seed): what every speed-up is measured against."""
    rows = static_rows(points, split=split)
    return rows[rows["method"] == reference].drop_duplicates(["task", "seed"]).reset_index(drop=True)


def run_folder(row: pd.Series | Mapping[str, Any], runs: Path) -> Path:
    """Where the run of a point keeps its artefacts; `runs` is results/<profile>/runs."""
    return runs / row["task"] / row["method"] / row["variant"] / f"seed{int(row['seed'])}"


def full_depth_runs(points: pd.DataFrame) -> list[dict[str, Any]]:
    """The runs that ended well: one row of the selection split each, of their prediction at full depth."""
    rows = static_rows(points, split=selection_split(points))
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def predicted(row: pd.Series, trace: Trace, own: Policy | None = None) -> NDArray[np.float64]:
    """What an operating point answers for the examples of a trace: [N] class ids, or values for regression.

    row: one of `operating_points`, or of what is chosen among them. own: as in `bench.exit_policies.operating.left`.
    """
    exits = left(row, trace, own)
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
