"""Better, worse, equal or not decided: what two sets of operating points differ by, and what may be said of it.

*Difference*: a minus b, on the same examples of a task, averaged over the seeds that both have; then over tasks.

*Error*: seeds and examples are resampled together. One resample draws N of the N examples, the same for both sides and
all seeds, and K - 1 of the K seeds (so many, because K of K would understate the variance of their mean by (K - 1) / K:
Rao and Wu, Resampling inference with complex survey data, 1988). The variance of the resampled differences is the
squared standard error, but for one thing: what an example does to one seed alone (a variance of s^2 / (K N) in their
mean) is in it three times, once with the seeds and twice with the examples (Owen, The pigeonhole bootstrap, 2007,
shows why such resampling is conservative); two of them, estimated from how much less the mean over seeds scatters than
one seed, are taken off. The degrees of freedom follow from Satterthwaite's formula, where the seeds' part has K - 1 and
the examples' part N - 1: with three seeds that disagree the interval is as wide as three numbers allow. Tasks are
independent: the error of an average is the root of the sum of their squared errors over their number.

*Correction*: with m comparisons, ordered by p (two-sided, difference / error against Student's t), Holm's procedure
judges the r-th at 1 - (1 - level) / (m - r + 1) and stops at the first that fails; those after it are judged as that
one. Each interval is given at the level at which its comparison was judged, so it excludes 0 exactly where Holm's
procedure rejects. An error in any of the m words then has the probability 1 - level at most.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from bench.analysis.budgets import POINT, at_budget
from bench.analysis.comparing.resampling import Floats, Point, Resamples, records
from bench.analysis.comparing.seeds import geometric
from bench.errors import UserError
from bench.settings import Comparison

Verdict = Literal["better", "worse", "equal", "not decided"]
ALL = "all tasks"
BUDGETS = (1.0, 2.0, 4.0, 8.0, 19.0)
ONE_SEED = "one seed: the interval covers the examples only"


@dataclass(frozen=True)
class Estimate:
    """A difference of two scores (a minus b, as fractions), and how sure it is."""

    difference: float
    error: float
    """Standard error."""
    freedom: float
    """Degrees of freedom of the error."""
    seeds: int


def spread(scores: Floats, resampled: Floats, examples: int, rng: np.random.Generator) -> Estimate:
    """The estimate of K seeds' differences [K], which resamples of the examples turned into [R, K]."""
    seeds = len(scores)
    drawn = max(seeds - 1, 1)
    counts = rng.multinomial(drawn, np.full(seeds, 1 / seeds), size=len(resampled))
    variance = float(np.var((resampled * counts).sum(axis=1) / drawn, ddof=1))
    of_seeds = 0.0
    if seeds > 1:
        of_seeds = float(np.var(scores, ddof=1)) / seeds
        of_examples = float(np.var(resampled.mean(axis=1), ddof=1))
        both = max(float(np.var(resampled, axis=0, ddof=1).mean()) - of_examples, 0.0) / (seeds - 1)
        variance = max(variance - 2 * both, of_seeds, of_examples)
    parts = [(of_seeds, seeds - 1), (max(variance - of_seeds, 0.0), examples - 1)]
    return Estimate(float(scores.mean()), variance**0.5, _freedom(variance, parts), seeds)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent tasks' differences."""
    count = len(estimates)
    parts = [((each.error / count) ** 2, each.freedom) for each in estimates]
    variance = sum(part for part, _ in parts)
    difference = sum(each.difference for each in estimates) / count
    return Estimate(difference, variance**0.5, _freedom(variance, parts), min(each.seeds for each in estimates))


def _freedom(variance: float, parts: Iterable[tuple[float, float]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances, given as (variance, its degrees of freedom)."""
    under = sum(part**2 / freedom for part, freedom in parts if part > 0)
    return max(variance**2 / under, 1.0) if under > 0 else float("inf")


def estimate(a: Sequence[Point], b: Sequence[Point], resamples: Resamples) -> Estimate:
    """What the points `a` are above the points `b`, all of one task.

    They are paired by seed, and within a seed by `place` where the points have one (an exit, say); a seed's difference
    is the mean over its pairs. UserError, with the reason, where nothing can be paired or a trace is missing.
    """
    first, second = ({(row["seed"], row.get("place")): row for row in scored(side)} for side in (a, b))
    common = [key for key in first if key in second]
    if not common:
        lost = [f"{row['method']}: {row['reason']}" for row in [*a, *b] if pd.isna(row["score"])]
        raise UserError("; ".join(dict.fromkeys(lost)) or "no seed in common")
    one, two = [first[key] for key in common], [second[key] for key in common]
    seeds = np.array([seed for seed, _ in common])
    share = np.array([seeds == seed for seed in dict.fromkeys(seeds)], dtype=float)  # [K, pairs]
    share /= share.sum(axis=1, keepdims=True)
    observed = share @ [float(x["score"]) - float(y["score"]) for x, y in zip(one, two, strict=True)]
    gaps = (resamples.of(one) - resamples.of(two)) @ share.T
    return spread(observed, gaps, int(one[0]["examples"]), np.random.default_rng([resamples.seed, 1]))


def scored(rows: Sequence[Point]) -> list[Point]:
    """Those that have a score."""
    return [row for row in rows if not pd.isna(row["score"])]


def judged(estimates: Sequence[Estimate | None], comparison: Comparison) -> pd.DataFrame:
    """Every estimate with its interval and word, corrected for their number; None stands for one that was not made.

    Columns: difference, p (corrected: the smallest 1 - level at which Holm's procedure would reject), seeds, low, high,
    verdict (better, worse, equal, not decided). Equal: the whole interval lies within the margin, with 0 or without.
    """
    table = pd.DataFrame(
        [(np.nan, np.nan, np.nan, 0) if each is None else (each.difference, each.error, each.freedom, each.seeds)
         for each in estimates],
        columns=["difference", "error", "freedom", "seeds"],
    ).astype({"difference": float, "error": float, "freedom": float, "seeds": int})  # fmt: skip
    made = table[table["difference"].notna()]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(made["difference"] == 0, 0.0, np.abs(made["difference"]) / made["error"])
    raw = pd.Series(2 * _tail(-ratio, made["freedom"].to_numpy(float)), index=made.index)
    alpha = 1 - comparison.level
    order = raw.sort_values(kind="stable").index
    left = np.arange(len(order), 0, -1)
    corrected = np.minimum(np.maximum.accumulate(raw[order].to_numpy() * left), 1.0)
    held = np.flatnonzero(corrected > alpha)
    left[held] = left[held[0]] if len(held) else 1
    table.loc[order, "p"] = corrected
    quantile = _quantile(1 - alpha / left / 2, table.loc[order, "freedom"].to_numpy(float))
    table.loc[order, "half"] = quantile * table.loc[order, "error"]
    table = table.reindex(columns=["difference", "p", "half", "seeds"])
    low, high = table["difference"] - table["half"], table["difference"] + table["half"]
    words = [_word(*each, comparison.margin / 100) for each in zip(low, high, strict=True)]
    return table.drop(columns="half").assign(low=low, high=high, verdict=words)


def _tail(t: Floats, freedom: Floats) -> Floats:
    return np.asarray(stdtr(np.minimum(freedom, 1e9), t))


def _quantile(share: Floats, freedom: Floats) -> Floats:
    return np.asarray(stdtrit(np.minimum(freedom, 1e9), share))


def _word(low: float, high: float, margin: float) -> Verdict:
    if -margin <= low and high <= margin:
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "not decided"


def compare(
    points: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    resamples: Resamples,
    comparison: Comparison,
    *,
    budgets: Sequence[float] = BUDGETS,
    single_tasks: bool = True,
) -> pd.DataFrame:
    """The verdict on every pair of methods, at least so many times cheaper than the teacher, on validation.

    Each method's point is chosen on the selection split, a seed at a time. One row a pair, budget and task, and one for
    the average over all tasks where there are several (only that one where not `single_tasks`, if it can be had).
    Columns: a, b, budget, task, metric, score_a, score_b, speedup_a, speedup_b (reached on validation; geometric
    means), those of `judged`, and note. Where both sides use the same points as at the budget before, the row is left
    out: it is the same comparison. `attrs["comparisons"]` is the number that was corrected for. UserError for an
    unknown method.
    """
    known = list(dict.fromkeys(points["method"]))
    for method in dict.fromkeys(name for pair in pairs for name in pair):
        if method not in known:
            raise UserError(f"no method {method!r} in the points; choose from {', '.join(known)}")
    compared = {name for pair in pairs for name in pair}
    chosen: dict[tuple[str, float], dict[str, list[Point]]] = {}
    for budget in budgets:
        for row in records(at_budget(points[points["method"].isin(compared)], budget)):
            chosen.setdefault((row["method"], budget), {}).setdefault(row["task"], []).append(row)
    resamples.prepare(row for tasks in chosen.values() for of_task in tasks.values() for row in scored(of_task))
    rows: list[dict[str, object]] = []
    estimates: list[Estimate | None] = []
    for a, b in pairs:
        before: dict[str, Any] = {}
        for budget in budgets:
            first, second = chosen.get((a, budget), {}), chosen.get((b, budget), {})
            made, facts = _tasks(first, second, resamples)
            used = {task: [_used(side.get(task, [])) for side in (first, second)] for task in made}
            fresh = [task for task in made if used[task] != before.get(task)]
            before = used
            if len(made) > 1 and fresh:
                whole = [each for each in made.values() if each is not None]
                estimates.append(average(whole) if len(whole) == len(made) else None)
                rows.append({"a": a, "b": b, "budget": budget, "task": ALL, **_over_tasks(facts, made)})
            # The row of the average says why a task could not be compared.
            shown = [task for task in fresh if len(made) == 1 or (single_tasks and made[task] is not None)]
            estimates += [made[task] for task in shown]
            rows += [{"a": a, "b": b, "budget": budget, "task": task, **facts[task]} for task in shown]
    columns = ["a", "b", "budget", "task", "metric", "score_a", "score_b", "speedup_a", "speedup_b", "note"]
    table = pd.DataFrame(rows, columns=columns).join(judged(estimates, comparison))
    table = table[[*columns[:-1], "difference", "low", "high", "p", "seeds", "verdict", "note"]]
    table.attrs["comparisons"] = sum(each is not None for each in estimates)
    return table


def _used(rows: Sequence[Point]) -> list[Any]:
    """What tells the choices of two budgets apart."""
    return [row["reason"] if pd.isna(row["score"]) else tuple(row[name] for name in POINT) for row in rows]


def _tasks(
    first: Mapping[str, Sequence[Point]], second: Mapping[str, Sequence[Point]], resamples: Resamples
) -> tuple[dict[str, Estimate | None], dict[str, dict[str, object]]]:
    """By task: the estimate, or None, and what is printed beside it."""
    made: dict[str, Estimate | None] = {}
    facts: dict[str, dict[str, object]] = {}
    for task in dict.fromkeys([*first, *second]):
        sides = [scored(side.get(task, [])) for side in (first, second)]
        common = set.intersection(*({row["seed"] for row in side} for side in sides))
        facts[task] = {"metric": next((row["metric"] for side in sides for row in side), "")}
        for name, side in zip("ab", sides, strict=True):
            shared = [row for row in side if row["seed"] in common]
            mean = float(np.mean([row["score"] for row in shared])) if shared else float("nan")
            facts[task] |= {f"score_{name}": mean, f"speedup_{name}": geometric([row["speedup"] for row in shared])}
        try:
            made[task] = estimate(first.get(task, []), second.get(task, []), resamples)
            facts[task]["note"] = ONE_SEED if len(common) == 1 else ""
        except UserError as error:
            made[task] = None
            facts[task]["note"] = str(error)
    return made, facts


def _over_tasks(facts: Mapping[str, Mapping[str, object]], made: Mapping[str, Estimate | None]) -> dict[str, object]:
    """What is printed beside the average; where a task is missing only why."""
    notes: dict[str, list[str]] = {}
    for task, fact in facts.items():
        if fact["note"] and (made[task] is None or None not in made.values()):
            notes.setdefault(str(fact["note"]), []).append(task)
    said = "; ".join(
        note if len(tasks) == len(facts) else f"{note} ({', '.join(tasks)})" for note, tasks in notes.items()
    )
    if None in made.values():
        return {"note": said}
    table = pd.DataFrame(list(facts.values()))
    means = {name: float(table[name].mean()) for name in ("score_a", "score_b")}
    return {"metric": "average", "note": said, **means, **{n: geometric(table[n]) for n in ("speedup_a", "speedup_b")}}
