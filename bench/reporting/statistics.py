"""What differences mean: deviation over seeds, bootstraps over examples, and one-number summaries of frontiers.

All scores are fractions here; tables print them times 100.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import moocore
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bench.errors import UserError
from bench.reporting.budgets import (
    at_budget,
    chosen_frontier,
    majority_rows,
    predicted,
    run_folder,
    static_rows,
    teacher_rows,
)
from bench.measuring.trace import Trace

BUDGETS = (2.0, 4.0, 8.0, 19.0)
# Resamples are drawn and multiplied in blocks of this many numbers (float64: 80 MB).
_BLOCK = 10_000_000

Floats = NDArray[np.float64]


def over_seeds(rows: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Mean, sample deviation (ddof 1, NaN for one seed) and number of seeds of `values`, one row a group.

    Columns: by, each value (its mean), <value>_std, seeds (those where the first value is known).
    """
    grouped = rows.groupby(list(by), sort=False, dropna=False)
    result = grouped[list(values)].mean().join(grouped[list(values)].std(ddof=1).add_suffix("_std"))
    return result.assign(seeds=grouped[values[0]].count()).reset_index()


@dataclass(frozen=True)
class Surface:
    """The staircase (cheapest first) that at least half of the seeds' frontiers attain."""

    flops: Floats
    score: Floats
    seeds: int
    note: str


def attainment(points: pd.DataFrame, task: str, method: str, split: str = "validation") -> Surface:
    """Median attainment surface of a method's frontiers over seeds (moocore.eaf at percentile 50).

    Each seed's frontier is chosen on the selection split and read on `split`. With one seed it is that frontier.
    """
    rows = chosen_frontier(points[(points["task"] == task) & (points["method"] == method)], split=split)
    rows = rows.dropna(subset=["score", "flops"])
    seeds = int(rows["seed"].nunique())
    if seeds == 0:
        return Surface(np.array([]), np.array([]), 0, "no run")
    objectives = np.column_stack([rows["flops"], -rows["score"]]).astype(float)
    surface = moocore.eaf(objectives, rows["seed"].rank(method="dense").to_numpy(int), percentiles=[50])
    surface = surface[np.argsort(surface[:, 0], kind="stable")]
    note = f"median of {seeds} seeds" if seeds > 1 else "one seed: its own frontier, no median"
    return Surface(surface[:, 0], -surface[:, 1], seeds, note)


def hypervolume(score: ArrayLike, speedup: ArrayLike, majority: float) -> float:
    """Area that points dominate between (FLOPs of the teacher, majority score) and (no FLOPs, score 1).

    FLOPs count as a fraction of the teacher's (1 / speedup), so the value is at most 1 - majority and is comparable
    over models. Points dearer than the teacher or worse than the majority add nothing.
    """
    objectives = np.column_stack([1.0 / np.asarray(speedup, float), -np.asarray(score, float)])
    objectives = objectives[np.isfinite(objectives).all(axis=1)]
    return float(moocore.hypervolume(objectives, ref=[1.0, -majority])) if len(objectives) else 0.0


def elue(score: ArrayLike, flops: ArrayLike, reference_score: ArrayLike, reference_flops: ArrayLike) -> float:
    """ELUE score (ElasticBERT, NAACL 2022): mean over points of p_i - p_ref(f_i), in fractions.

    p_ref is linear in log FLOPs between the reference's static points and clamped outside their range. NaN without
    points or without a reference.
    """
    reference = pd.Series(
        np.asarray(reference_score, float), index=np.asarray(reference_flops, float)
    ).dropna()
    reference = reference.groupby(level=0).mean()
    p, f = np.asarray(score, float), np.asarray(flops, float)
    known = np.isfinite(p) & (f > 0)
    if reference.empty or not known.any():
        return float("nan")
    expected = np.interp(np.log(f[known]), np.log(reference.index.to_numpy(float)), reference.to_numpy())
    return float((p[known] - expected).mean())


def score_kept(points: pd.DataFrame, speedup: float, *, reference: str = "teacher") -> pd.DataFrame:
    """What a method keeps of the score at a budget, one row a (task, method, seed).

    Columns: score (absolute), kept = (score - majority) / (teacher - majority), the part of the teacher's gain over
    the majority class; NaN where the teacher gains nothing or the method has no point there.
    """
    rows = at_budget(points, speedup)
    rows = _beside_controls(rows, points, reference)
    gain = rows["teacher"] - rows["majority"]
    return rows.assign(kept=((rows["score"] - rows["majority"]) / gain).where(gain > 0))


def frontier_summary(
    points: pd.DataFrame,
    *,
    budgets: Sequence[float] = BUDGETS,
    reference: str = "teacher",
    depth_reference: str = "cut",
) -> pd.DataFrame:
    """One row a (task, method, seed): hypervolume, elue, points on the frontier, score_<b>x and kept_<b>x.

    The ELUE reference is the static points of `depth_reference` with the teacher as its full depth.
    """
    frontier = _beside_controls(chosen_frontier(points), points, reference)
    static = static_rows(points)
    curve = static[static["method"].isin([depth_reference, reference])]
    rows = []
    for (task, method, seed), group in frontier.groupby(["task", "method", "seed"], sort=False):
        known = curve[(curve["task"] == task) & (curve["seed"] == seed)]
        comparable = bool((known["method"] == depth_reference).any())
        rows.append(
            {
                "task": task,
                "method": method,
                "seed": seed,
                "points": len(group),
                "hypervolume": hypervolume(
                    group["score"], group["speedup"], float(group["majority"].iloc[0])
                ),
                "elue": elue(group["score"], group["flops"], known["score"], known["flops"])
                if comparable
                else float("nan"),
            }
        )
    keys = ["task", "method", "seed"]
    summary = pd.DataFrame(rows, columns=[*keys, "points", "hypervolume", "elue"])
    for budget in budgets:
        kept = score_kept(points, budget, reference=reference)[[*keys, "score", "kept"]]
        kept.columns = pd.Index([*keys, f"score_{budget:g}x", f"kept_{budget:g}x"])
        summary = summary.merge(kept, on=keys, how="left")
    return summary


def _beside_controls(rows: pd.DataFrame, points: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`rows` with the columns `teacher` and `majority`: the controls' scores on the same task and seed."""
    key = ["task", "seed"]
    teacher = teacher_rows(points, reference=reference)[[*key, "score"]].rename(columns={"score": "teacher"})
    control = majority_rows(points)[[*key, "score"]].rename(columns={"score": "majority"})
    return rows.merge(teacher, on=key, how="left").merge(control, on=key, how="left")


def resampled(
    metric: str,
    predictions: Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Floats:
    """Scores [R, P] of P predictions [N] on R bootstrap resamples of the N examples, the same for all predictions.

    metric: accuracy, f1 (of class 1), matthews (two classes) or pearson; undefined cases are 0, as in bench.tasks.
    Every metric is a function of weighted sums over examples, so a block of resamples is one matrix product.
    """
    if metric not in _SUMS:
        raise UserError(f"no bootstrap for the metric {metric!r}: choose one of {', '.join(_SUMS)}")
    true = np.asarray(labels, float)
    predicted = np.stack([np.asarray(each, float) for each in predictions])
    terms, finish = _SUMS[metric]
    columns = terms(predicted, true)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(true))
    scores = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(len(true), size=(size, len(true))) + np.arange(size)[:, None] * len(true)
        weights = np.bincount(drawn.ravel(), minlength=size * len(true)).reshape(size, -1).astype(float)
        scores.append(finish(*(weights @ each.T / len(true) for each in columns)))
    return np.concatenate(scores)


def compare(
    points: pd.DataFrame,
    runs: Path,
    a: str,
    b: str,
    *,
    budgets: Sequence[float] = (1.0, *BUDGETS),
    resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired bootstrap of method `a` against `b` at the same budgets on validation, one row a (task, budget).

    Each method's point is chosen on the selection split. Both are scored on the same resampled examples; with several
    seeds the differences are averaged over the seeds both have. Columns: task, budget, metric, a, b, score_a, score_b,
    difference (a - b), low and high (95 % interval), seeds, verdict. A difference is called one only where the
    interval excludes 0. The interval covers the choice of examples, not of training seeds; rows are not corrected for
    their number.
    """
    for method in (a, b):
        if method not in set(points["method"]):
            known = ", ".join(sorted(points["method"].unique()))
            raise UserError(f"no method {method!r} in the points; choose from {known}")
    rows = [
        _compare_at(task, budget, sides, runs, resamples, seed) | {"a": a, "b": b}
        for budget in budgets
        for task, sides in _paired(points, a, b, budget).groupby("task", sort=True)
    ]
    return pd.DataFrame(rows, columns=_VERDICT).sort_values(["task", "budget"], ignore_index=True)


_VERDICT = "task budget metric a b score_a score_b difference low high seeds verdict".split()


def _paired(points: pd.DataFrame, a: str, b: str, budget: float) -> pd.DataFrame:
    """The reported rows of both methods at a budget, with the columns `side` ("a", "b")."""
    sides = [
        at_budget(points[points["method"] == method], budget).assign(side=side)
        for side, method in _sides(a, b)
    ]
    return pd.concat(sides, ignore_index=True)


def _sides(a: str, b: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("a", a), ("b", b)


def _compare_at(
    task: str, budget: float, sides: pd.DataFrame, runs: Path, resamples: int, seed: int
) -> dict[str, object]:
    verdict: dict[str, object] = {"task": task, "budget": budget}
    first, second = (sides[sides["side"] == side].set_index("seed") for side in "ab")
    known = [
        s
        for s in first.index
        if s in second.index and first["score"].notna()[s] and second["score"].notna()[s]
    ]
    if not known:
        reasons = [f"{row.method}: {row.reason}" for row in sides[sides["score"].isna()].itertuples()]
        return verdict | {
            "seeds": 0,
            "verdict": "not comparable: " + ("; ".join(dict.fromkeys(reasons)) or "no seed"),
        }
    differences = []
    for k in known:
        pair = [first.loc[k].copy(), second.loc[k].copy()]
        for row in pair:
            row["seed"] = k
        traces = [Trace.load(run_folder(row, runs) / f"trace-{row['split']}.parquet") for row in pair]
        if not np.array_equal(traces[0].idx, traces[1].idx):
            raise UserError(
                f"{task}, seed {k}: {pair[0]['method']} and {pair[1]['method']} saw different examples"
            )
        answers = [predicted(row, trace) for row, trace in zip(pair, traces, strict=True)]
        scores = resampled(pair[0]["metric"], answers, traces[0].labels, resamples=resamples, seed=seed)
        differences.append(scores[:, 0] - scores[:, 1])
    low, high = np.percentile(np.mean(differences, axis=0), [2.5, 97.5])
    score_a, score_b = first.loc[known, "score"].mean(), second.loc[known, "score"].mean()
    names = sides.groupby("side")["method"].first()
    verdict |= {"metric": first["metric"].loc[known[0]], "score_a": score_a, "score_b": score_b}
    verdict |= {"difference": score_a - score_b, "low": low, "high": high, "seeds": len(known)}
    called = (
        f"{names['a']} is better"
        if low > 0
        else f"{names['b']} is better"
        if high < 0
        else "no difference shown"
    )
    return verdict | {"verdict": called}


def frontier_band(
    points: pd.DataFrame,
    runs: Path,
    task: str,
    method: str,
    run_seed: int,
    *,
    resamples: int = 2_000,
    seed: int = 0,
    split: str = "validation",
) -> pd.DataFrame:
    """95 % bootstrap band over examples for one seed's frontier, cheapest point first.

    Columns: flops, speedup, score, low, high. All points share the resamples; FLOPs are held at their observed mean.
    """
    chosen = points[(points["task"] == task) & (points["method"] == method) & (points["seed"] == run_seed)]
    frontier = chosen_frontier(chosen, split=split).dropna(subset=["score"])
    columns = ["flops", "speedup", "score"]
    if frontier.empty:
        return pd.DataFrame(columns=[*columns, "low", "high"])
    traces = {}
    for _, row in frontier.drop_duplicates("variant").iterrows():
        traces[row["variant"]] = Trace.load(run_folder(row, runs) / f"trace-{split}.parquet")
    answers = [predicted(row, traces[row["variant"]]) for _, row in frontier.iterrows()]
    labels = next(iter(traces.values())).labels
    scores = resampled(frontier["metric"].iloc[0], answers, labels, resamples=resamples, seed=seed)
    low, high = np.percentile(scores, [2.5, 97.5], axis=0)
    return frontier[columns].assign(low=low, high=high)


def _accuracy_sums(x: Floats, y: Floats) -> tuple[Floats, ...]:
    return ((x == y).astype(float),)


def _count_sums(x: Floats, y: Floats) -> tuple[Floats, ...]:
    guessed, actual = (x == 1).astype(float), (y == 1).astype(float)
    return guessed * actual, guessed, actual[None]


def _moment_sums(x: Floats, y: Floats) -> tuple[Floats, ...]:
    # Centred first: variances of resamples are then differences of small numbers.
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    return x, y[None], x * x, (y * y)[None], x * y


def _f1(hits: Floats, guessed: Floats, actual: Floats) -> Floats:
    return _ratio(2 * hits, guessed + actual)


def _matthews(hits: Floats, guessed: Floats, actual: Floats) -> Floats:
    return _ratio(hits - guessed * actual, np.sqrt(guessed * (1 - guessed) * actual * (1 - actual)))


def _pearson(x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> Floats:
    return np.clip(_ratio(xy - x * y, np.sqrt(np.maximum((xx - x * x) * (yy - y * y), 0))), -1, 1)


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.zeros(over.shape), where=under > 1e-12)


_SUMS: dict[str, tuple[Callable[[Floats, Floats], tuple[Floats, ...]], Callable[..., Floats]]] = {
    "accuracy": (_accuracy_sums, lambda correct: correct),
    "f1": (_count_sums, _f1),
    "matthews": (_count_sums, _matthews),
    "pearson": (_moment_sums, _pearson),
}
