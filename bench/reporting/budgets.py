"""Choosing operating points: the selection split decides, the other splits are only read.

Every function takes `points`, the rows of all-points.parquet, and returns rows of it. The splits on which a choice is
made is the one the settings name (column `selection`); what is reported is the row of the same operating point on
another split, validation unless said. What a chosen point predicts is replayed from the run's kept trace.
"""

from pathlib import Path

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import UserError
from bench.measuring.policies import policy_for, replay
from bench.measuring.trace import Trace
from bench.tasks.catalogue import task as task_named

RUN = ["task", "method", "variant", "seed"]
POINT = [*RUN, "kind", "point"]
OPERATED = ("uniform", "per_exit", "static")
# At 1x a full-depth model with exits may cost what its exit heads cost: up to 2 % on short texts.
TOLERANCE_AT_1X = 0.02


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
    named = points["selection"].dropna().unique() if "selection" in points else np.array(["calibration"])
    if len(named) != 1:
        raise UserError(
            f"the points were selected on {' and '.join(map(str, named)) or 'nothing'}: collect one profile"
        )
    return str(named[0])


def operating_points(points: pd.DataFrame) -> pd.DataFrame:
    """The rows a method may be operated at: swept thresholds and the full-depth prediction.

    Where a run has exits but no rule to leave by (a cascade on STS-B), its fixed exits stand in as static points.
    """
    points = succeeded(points)
    run = [points[column] for column in RUN]
    ruled = points["kind"].isin(["uniform", "per_exit"]).groupby(run).transform("any")
    # The last fixed exit is the static row again.
    earlier = points["kind"].eq("fixed_exit") & points["exit"].lt(
        points["exit"].groupby(run).transform("max")
    )
    return points[points["kind"].isin(OPERATED) | (earlier & ~ruled)]


def at_budget(
    points: pd.DataFrame,
    speedup: float,
    *,
    split: str = "validation",
    by: tuple[str, ...] = ("task", "method", "seed"),
) -> pd.DataFrame:
    """The operating point each method is used at when it must be `speedup` times cheaper than the teacher.

    Among the points of a group (all variants of a method on one task and seed; add "variant" to `by` to keep them
    apart) whose speed-up on the selection split is at least `speedup`, the best score on that split is taken, ties to
    the cheaper one, and its row on `split` is returned with `budget`, `selected_score` and `selected_speedup`.
    Groups without such a point keep a row with NaN scores whose `reason` says why.
    """
    keys = list(by)
    usable = operating_points(points)
    bound = speedup * (1 - TOLERANCE_AT_1X) if speedup <= 1 else speedup
    chosen = usable[
        (usable["split"] == selection_split(points)) & (usable["speedup"] >= bound) & usable["score"].notna()
    ]
    chosen = chosen.sort_values(
        ["score", "speedup", "variant", "kind", "point"],
        ascending=[False, False, True, True, True],
        kind="stable",
    ).drop_duplicates(keys)
    chosen = chosen[[*POINT, "score", "speedup"]].rename(
        columns={"score": "selected_score", "speedup": "selected_speedup"}
    )
    reported = chosen.merge(usable[usable["split"] == split], on=POINT, how="left", validate="one_to_one")
    groups = points.loc[points["kind"].ne("majority") | points["kind"].isna(), keys].drop_duplicates()
    rows = groups.merge(reported, on=keys, how="left", validate="one_to_one").assign(budget=float(speedup))
    missing = rows["score"].isna()
    if missing.any():
        reasons = failures(points).groupby(keys)["reason"].first()
        failed = pd.Series(reasons.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy(), index=rows.index)
        rows["reason"] = (
            rows["reason"].astype(object).where(~missing, failed.fillna(f"no point at {speedup:g}x"))
        )
    return rows.sort_values(keys, ignore_index=True)


def chosen_frontier(
    points: pd.DataFrame, *, split: str = "validation", by: tuple[str, ...] = ("task", "method", "seed")
) -> pd.DataFrame:
    """The frontier of each group: operating points not dominated on the selection split (score up, FLOPs down).

    Their rows on `split` are returned, cheapest first; there they need not form a frontier, and are not filtered again.
    """
    usable = operating_points(points)
    selected = usable[(usable["split"] == selection_split(points)) & usable["score"].notna()]
    keep = pd.Series(False, index=selected.index)
    for _, group in selected.groupby(list(by), sort=False):
        objectives = np.column_stack([group["flops"], -group["score"]]).astype(float)
        keep[group.index] = moocore.is_nondominated(objectives)
    frontier = selected.loc[keep, POINT].merge(
        usable[usable["split"] == split], on=POINT, how="inner", validate="one_to_one"
    )
    return frontier.sort_values([*by, "flops", "score"], ignore_index=True)


def static_rows(points: pd.DataFrame, *, split: str = "validation") -> pd.DataFrame:
    """The full-depth prediction of every run on `split`, one row a (task, method, variant, seed)."""
    rows = succeeded(points)
    return rows[(rows["kind"] == "static") & (rows["split"] == split)].sort_values(RUN, ignore_index=True)


def majority_rows(points: pd.DataFrame, *, split: str = "validation") -> pd.DataFrame:
    """The control that always answers the commonest training label, one row a (task, seed)."""
    rows = succeeded(points)
    rows = rows[(rows["kind"] == "majority") & (rows["split"] == split)]
    return rows.drop_duplicates(["task", "seed"]).sort_values(["task", "seed"], ignore_index=True)


def teacher_rows(
    points: pd.DataFrame, *, reference: str = "teacher", split: str = "validation"
) -> pd.DataFrame:
    """The static rows of the reference, one row a (task, seed): what every speed-up is measured against."""
    rows = static_rows(points, split=split)
    return rows[rows["method"] == reference].drop_duplicates(["task", "seed"]).reset_index(drop=True)


def run_folder(row: pd.Series, runs: Path) -> Path:
    """Where the run of a point keeps its artefacts, under results/<profile>/runs."""
    return runs / row["task"] / row["method"] / row["variant"] / f"seed{int(row['seed'])}"


def predicted(row: pd.Series, trace: Trace) -> NDArray[np.float64]:
    """What an operating point answers for the examples of a trace: [N] class ids, or values for regression."""
    exits = len(trace.logits)
    if row["kind"] in ("static", "fixed_exit"):
        left = np.full(len(trace.idx), (int(row["exit"]) or exits) - 1)
    else:
        policy = policy_for(row["policy"], task_named(row["task"]), int(row.get("exit_start", 1)))
        left = replay(policy, trace.logits, row["thresholds"] if len(row["thresholds"]) else row["knob"])
    logits = trace.logits[left, np.arange(len(left))]
    return np.asarray(logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1), dtype=np.float64)
