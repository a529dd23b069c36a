"""What differences mean: deviation over seeds, bootstraps over examples, one-number summaries of frontiers.

All scores are fractions here; tables print them times 100.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import moocore
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bench.artefacts import Trace
from bench.choosing.budgets import (
    at_budget,
    chosen_frontier,
    control_rows,
    predicted,
    run_folder,
    static_rows,
    teacher_rows,
)
from bench.choosing.frontier import hypervolume
from bench.choosing.roles import Roles
from bench.errors import UserError

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

    Each seed's frontier is chosen on the selection split and read on `split`. With one seed it is that
    frontier.
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


def score_kept(points: pd.DataFrame, speedup: float, *, reference: str = "teacher") -> pd.DataFrame:
    """What a method keeps of the score at a budget, one row a (task, method, seed).

    Columns: score (absolute), kept = (score - control) / (teacher - control), the part of the teacher's
    gain over the best constant; NaN where the teacher gains nothing or the method has no point there.
    """
    rows = at_budget(points, speedup)
    rows = _beside_controls(rows, points, reference)
    gain = rows["teacher"] - rows["control"]
    return rows.assign(kept=((rows["score"] - rows["control"]) / gain).where(gain > 0))


def frontier_summary(
    points: pd.DataFrame,
    roles: Roles,
    *,
    budgets: Sequence[float] = BUDGETS,
) -> pd.DataFrame:
    """One row a (task, method, seed): points on the frontier, hypervolume, elue, score_<b>x and kept_<b>x.

    Frontiers are chosen on the selection split and read on validation. Hypervolume: score x doublings of
    speed-up above (control score, the teacher's FLOPs), see bench.choosing.frontier. ELUE: the reference is
    the static points of the depth reference with the teacher as its full depth; NaN where that has none.
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
        row["hypervolume"] = hypervolume(scored, 1 / group["speedup"], teacher_flops=1.0, floor=floor)
        row["elue"] = elue(scored, group["flops"], cuts["score"], cuts["flops"]) if compared else float("nan")
        rows.append(row)
    keys = ["task", "method", "seed"]
    summary = pd.DataFrame(rows, columns=[*keys, "points", "hypervolume", "elue"])
    for budget in budgets:
        kept = score_kept(points, budget, reference=roles.reference)[[*keys, "score", "kept"]]
        kept.columns = pd.Index([*keys, f"score_{budget:g}x", f"kept_{budget:g}x"])
        summary = summary.merge(kept, on=keys, how="outer")
    return summary.sort_values(keys, ignore_index=True)


def _beside_controls(rows: pd.DataFrame, points: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`rows` with the columns `teacher` and `control`: the controls' scores on the same task and seed."""
    key = ["task", "seed"]
    teacher = teacher_rows(points, reference=reference)[[*key, "score"]].rename(columns={"score": "teacher"})
    control = control_rows(points)[[*key, "score"]].rename(columns={"score": "control"})
    return rows.merge(teacher, on=key, how="left").merge(control, on=key, how="left")


def resampled(
    metric: str,
    predictions: Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Floats:
    """Scores [R, P] of P predictions [N] on R bootstrap resamples of the N examples, shared by all of them.

    metric: accuracy, f1 (of class 1), matthews (two classes) or pearson; undefined cases are 0.
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

    runs: results/<profile>/runs. Each method's point is chosen on the selection split. Both are scored on the
    same resampled examples; with several seeds the differences are averaged over the seeds both have.
    Columns: task, budget, metric, a, b, score_a, score_b, difference (a - b), low and high (95 % interval),
    seeds, verdict. A difference is called one only where the interval excludes 0. The interval covers the
    choice of examples, not of training seeds; rows are not corrected for their number. UserError for an
    unknown method.
    """
    for method in (a, b):
        if method not in set(points["method"]):
            known = ", ".join(sorted(points["method"].unique()))
            raise UserError(f"no method {method!r} in the points; choose from {known}")
    verdicts: list[dict[str, object]] = []
    for budget in budgets:
        sides = [at_budget(points[points["method"] == method], budget) for method in (a, b)]
        rows = pd.concat([rows.assign(side=side) for side, rows in enumerate(sides)])
        for task, of_task in rows.groupby("task", sort=True):
            first, second = (of_task[of_task["side"] == side].set_index("seed", drop=False) for side in (0, 1))
            judged = _compare_at(first, second, runs, resamples, seed)
            verdicts.append({"task": task, "budget": budget, "a": a, "b": b, **judged})
    columns = ["task", "budget", "metric", "a", "b", "score_a", "score_b", "difference", "low", "high"]
    table = pd.DataFrame(verdicts, columns=[*columns, "seeds", "verdict"])
    return table.sort_values(["task", "budget"], ignore_index=True)


def _compare_at(first: pd.DataFrame, second: pd.DataFrame, runs: Path, resamples: int, seed: int) -> dict[str, object]:
    """The verdict for two methods' chosen rows (index: seed) on one task at one budget."""
    common = first.index[first["score"].notna()].intersection(second.index[second["score"].notna()])
    if common.empty:
        rows = pd.concat([first, second])
        rows = rows[rows["score"].isna()]
        reasons = "; ".join(dict.fromkeys(rows["method"] + ": " + rows["reason"]))
        return {"seeds": 0, "verdict": f"not comparable: {reasons or 'no seed in common'}"}
    differences = []
    for each in common:
        pair = [first.loc[each], second.loc[each]]
        traces = [Trace.load(run_folder(row, runs) / f"trace-{row['split']}.parquet") for row in pair]
        if not np.array_equal(traces[0].idx, traces[1].idx):
            names = " and ".join(str(run_folder(row, runs)) for row in pair)
            raise UserError(f"{names} were traced on different examples: run both with the same data settings")
        answers = [predicted(row, trace) for row, trace in zip(pair, traces, strict=True)]
        scores = resampled(pair[0]["metric"], answers, traces[0].labels, resamples=resamples, seed=seed)
        differences.append(scores[:, 0] - scores[:, 1])
    low, high = np.percentile(np.mean(differences, axis=0), [2.5, 97.5])
    score_a, score_b = float(first.loc[common, "score"].mean()), float(second.loc[common, "score"].mean())
    better = first["method"].iloc[0] if low > 0 else second["method"].iloc[0] if high < 0 else None
    return {
        "metric": first.loc[common[0], "metric"],
        "score_a": score_a,
        "score_b": score_b,
        "difference": score_a - score_b,
        "low": float(low),
        "high": float(high),
        "seeds": len(common),
        "verdict": f"{better} is better" if better else "no difference shown",
    }


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

    runs: results/<profile>/runs. Columns: flops, speedup, score, low, high. All points share the resamples;
    FLOPs are held at their observed mean.
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
