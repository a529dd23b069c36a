"""Differences between two methods, with their verdicts.

A difference is a minus b on the same examples of a task, averaged over the seeds that both methods have, then over
tasks. The result also contains an interquartile mean over the runs (Agarwal et al., Deep RL at the edge of the
statistical precipice, 2021), Wilcoxon's signed-rank test over tasks (Demsar, 2006), the share of runs where a is
better, the mean with accuracy instead of F1, and the tasks whose removal changes the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.budgets import POINT, at_budget
from bench.analysis.comparing.equivalence import COLUMNS, classify_differences, p_values, verdict_of
from bench.analysis.comparing.estimates import Estimate, average, average_if_known, bounds, estimate_mean
from bench.analysis.comparing.pairings import Pairing
from bench.analysis.comparing.resampling import Floats, Point, Resamples, records
from bench.analysis.comparing.seeds import geometric
from bench.errors import UserError
from bench.settings import Comparison
from bench.tasks.catalogue import title

ALL = "all tasks"
LEARNED = "learned tasks"
BUDGETS = (1.0, 2.0, 4.0, 8.0, 19.0)
ADDITIONAL = ["iqm", "wins", "wilcoxon", "least_without_one", "most_without_one", "rests_on"]
ONE_SEED = "one seed: the interval covers the examples only"
PRIMARY, EXPLORATORY = "primary", "exploratory"


def gaps(a: Sequence[Point], b: Sequence[Point]) -> tuple[list[Point], list[Point], Floats, Floats]:
    """Pair the points of one task by seed, and by `place` (such as an exit) if the rows have one.

    Args:
        a: Points of the first method.
        b: Points of the second method.

    Returns:
        The paired points of both methods, the weight [K, pairs] of each pair in its seed, and the differences [K] of
        the seeds.

    Raises:
        UserError: With the reason, if there is no pair.
    """
    first, second = ({(row["seed"], row.get("place")): row for row in scored(side)} for side in (a, b))
    common = [key for key in first if key in second]
    if not common:
        lost = [f"{row['method']}: {row['reason']}" for row in [*a, *b] if pd.isna(row["score"])]
        raise UserError("; ".join(dict.fromkeys(lost)) or "no seed in common")
    one, two = [first[key] for key in common], [second[key] for key in common]
    seeds = np.array([seed for seed, _ in common])
    share = np.array([seeds == seed for seed in dict.fromkeys(seeds)], dtype=float)
    share /= share.sum(axis=1, keepdims=True)
    observed = share @ [float(x["score"]) - float(y["score"]) for x, y in zip(one, two, strict=True)]
    return one, two, share, observed


def estimate(a: Sequence[Point], b: Sequence[Point], resamples: Resamples) -> Estimate:
    """Estimate the difference a minus b between points of one task. For pairs and errors see `gaps`."""
    one, two, share, observed = gaps(a, b)
    drawn = (resamples.of(one) - resamples.of(two)) @ share.T
    limits, noise = bounds(one[0]["metric"], difference=True), resamples.noise.get(one[0]["task"], 0.0)
    return estimate_mean(observed, drawn, int(one[0]["examples"]), bounds=limits, noise=noise)


def mean_estimate(rows: Sequence[Point], resamples: Resamples) -> Estimate:
    """Estimate the mean score of points of one task, one per seed; UserError if a trace is missing."""
    limits, noise = bounds(rows[0]["metric"], difference=False), resamples.noise.get(rows[0]["task"], 0.0)
    scores = np.array([row["score"] for row in rows], dtype=np.float64)
    return estimate_mean(scores, resamples.of(rows), int(rows[0]["examples"]), bounds=limits, noise=noise)


def scored(rows: Sequence[Point]) -> list[Point]:
    """Return the rows that have a score."""
    return [row for row in rows if not pd.isna(row["score"])]


def chosen_points(points: pd.DataFrame, budget: float) -> dict[str, dict[str, list[Point]]]:
    """Map method and task to the points with a score that are chosen at a budget, one per seed."""
    chosen: dict[str, dict[str, list[Point]]] = {}
    for row in scored(records(at_budget(points, budget))) if len(points) else []:
        chosen.setdefault(row["method"], {}).setdefault(row["task"], []).append(row)
    return chosen


@dataclass
class _Side:
    """The comparison of two methods on one task.

    Attributes:
        facts: Columns of the result.
        estimate: The estimated difference, or None.
        by_accuracy: The same with accuracy instead of F1; for other metrics equal to `estimate`.
        runs: The differences of the seeds.
        used: A key of the points compared.
    """

    facts: dict[str, Any]
    estimate: Estimate | None = None
    by_accuracy: Estimate | None = None
    runs: Floats = field(default_factory=lambda: np.array([]))
    used: tuple[Any, ...] = ()


def compare(
    points: pd.DataFrame,
    wanted: Sequence[Pairing],
    resamples: Resamples,
    comparison: Comparison,
    *,
    learned: Sequence[str] = (),
    single_tasks: bool = True,
) -> pd.DataFrame:
    """Compute the verdict of every pairing on validation. Points are chosen on the selection split for each seed.

    Args:
        points: All operating points.
        wanted: The pairings, in the order of the rows.
        resamples: Resampled scores of the operating points.
        comparison: Settings with level and margin.
        learned: Tasks of a second average (`bench.analysis.statistics.learned_tasks`); no such rows if empty.
        single_tasks: Whether to return a row for each task in addition to the averages.

    Returns:
        One row per pairing and scope (all tasks, learned tasks, one task). Columns: a, b, budget_a, budget_b, family
        ("primary" or "exploratory"; single tasks of several are always exploratory), task (the scope), metric, score_a,
        score_b, speedup_a, speedup_b (on validation; geometric means), those of `classify_differences`, iqm, wins,
        wilcoxon (uncorrected p-value), least_without_one, most_without_one and rests_on (`_without_one_task`),
        accuracy and accuracy_verdict (NaN and "" where no task is ranked by F1), note. Primary and
        exploratory comparisons, averages and single tasks are
        separate families; `attrs["comparisons"]` has their sizes. A pairing with the same points as an earlier one is
        left out. If nothing can be compared, the verdict is "", the note gives the reason, and the row is in no family.
    """
    chosen, every_task = _chosen(points, wanted), list(dict.fromkeys(points["task"]))
    every = [row for tasks in chosen.values() for of_task in tasks.values() for row in scored(of_task)]
    resamples.prepare([*every, *(row for row in map(_by_accuracy, every) if row is not None)])
    rows: list[dict[str, Any]] = []
    made: list[dict[str, _Side]] = []
    seen: set[tuple[Any, ...]] = set()
    for pairing in wanted:
        tasks = _tasks(
            chosen.get((pairing.a, pairing.budget_a), {}),
            chosen.get((pairing.b, pairing.budget_b), {}),
            every_task,
            resamples,
        )
        used = {task: (pairing.a, pairing.b, task, side.used) for task, side in tasks.items()}
        whole = tuple(used.values())
        fresh = [task for task in tasks if used[task] not in seen]
        head = {name: getattr(pairing, name) for name in ("a", "b", "budget_a", "budget_b")}
        scopes: list[tuple[str, dict[str, _Side]]] = []
        if len(tasks) > 1 and whole not in seen:
            scopes.append((ALL, tasks))
            some = {task: side for task, side in tasks.items() if task in learned}
            scopes += [(LEARNED, some)] if 0 < len(some) < len(tasks) else []
        # The note of the average gives the reason why a task cannot be compared.
        single = [task for task in fresh if len(tasks) == 1 or (single_tasks and tasks[task].estimate is not None)]
        seen.update([whole, *used.values()])
        for scope, sides in [*scopes, *((task, {task: tasks[task]}) for task in single)]:
            average_row = scope in (ALL, LEARNED)
            primary = pairing.primary and (average_row or len(tasks) == 1)
            facts = _over_tasks({task: side.facts for task, side in sides.items()}, sides)
            facts = {"family": PRIMARY if primary else EXPLORATORY} | (facts if average_row else tasks[scope].facts)
            rows.append({**head, "task": scope, **facts})
            made.append(sides)
    return _with_verdicts(rows, made, comparison)


def comparable(points: pd.DataFrame, wanted: Sequence[Pairing]) -> int:
    """Return how many pairings have a verdict on all tasks, as `compare` counts them, without computing any."""
    chosen, every_task = _chosen(points, wanted), list(dict.fromkeys(points["task"]))
    made: set[tuple[Any, ...]] = set()
    for pairing in wanted:
        sides = [chosen.get(side, {}) for side in ((pairing.a, pairing.budget_a), (pairing.b, pairing.budget_b))]
        seeds = [[{row["seed"] for row in scored(side.get(task, []))} for side in sides] for task in every_task]
        if all(a & b for a, b in seeds):
            used = tuple(_used(scored(side[task])) for side in sides for task in every_task)
            made.add((pairing.a, pairing.b, used))
    return len(made)


def _chosen(points: pd.DataFrame, wanted: Iterable[Pairing]) -> dict[tuple[str, float], dict[str, list[Point]]]:
    """Map (method, budget) and task to the chosen row of each seed."""
    sides = {side for each in wanted for side in ((each.a, each.budget_a), (each.b, each.budget_b))}
    chosen: dict[tuple[str, float], dict[str, list[Point]]] = {}
    for budget in sorted({budget for _, budget in sides}):
        methods = [method for method, at in sides if at == budget]
        for row in records(at_budget(points[points["method"].isin(methods)], budget)):
            chosen.setdefault((row["method"], budget), {}).setdefault(row["task"], []).append(row)
    return chosen


def _tasks(
    first: Mapping[str, Sequence[Point]],
    second: Mapping[str, Sequence[Point]],
    tasks: Sequence[str],
    resamples: Resamples,
) -> dict[str, _Side]:
    """Return the comparison of two methods on each of the tasks."""
    found: dict[str, _Side] = {}
    for task in tasks:
        sides = [first.get(task, []), second.get(task, [])]
        known = [scored(side) for side in sides]
        common = set.intersection(*({row["seed"] for row in side} for side in known))
        facts: dict[str, Any] = {"metric": next((row["metric"] for side in known for row in side), ""), "note": ""}
        for name, side in zip("ab", known, strict=True):
            shared = [row for row in side if row["seed"] in common]
            mean = float(np.mean([row["score"] for row in shared])) if shared else float("nan")
            facts |= {f"score_{name}": mean, f"speedup_{name}": geometric([row["speedup"] for row in shared])}
        found[task] = result = _Side(facts, used=tuple(_used(side) for side in sides))
        try:
            result.estimate = result.by_accuracy = estimate(sides[0], sides[1], resamples)
            result.runs = gaps(sides[0], sides[1])[-1]
        except UserError as error:
            facts["note"] = str(error)
            continue
        facts["note"] = ONE_SEED if len(common) == 1 else missed_budget([row for side in known for row in side])
        a, b = ([other for row in side if (other := _by_accuracy(row)) is not None] for side in known)
        if facts["metric"] == "f1" and (len(a), len(b)) == (len(known[0]), len(known[1])):
            result.by_accuracy = estimate(a, b, resamples)
    return found


def missed_budget(rows: Sequence[Point]) -> str:
    """Return a note that names the methods whose speed-up on validation is below the budget, beyond the tolerance."""
    names = [row["method"] for row in rows if row.get("missed")]
    return f"below its speed-up on validation: {', '.join(dict.fromkeys(names))}" if names else ""


def _by_accuracy(row: Point) -> Point | None:
    """Return the row of an F1 task with accuracy as its score; None for other tasks."""
    known = row["metric"] == "f1" and not pd.isna(row.get("accuracy", np.nan))
    return {**row, "metric": "accuracy", "score": row["accuracy"]} if known else None


def _used(rows: Sequence[Point]) -> tuple[Any, ...]:
    """Return a key of the chosen points, to detect equal choices at two budgets."""
    return tuple(row["reason"] if pd.isna(row["score"]) else tuple(row[name] for name in POINT) for row in rows)


def _over_tasks(facts: Mapping[str, Mapping[str, Any]], sides: Mapping[str, _Side]) -> dict[str, Any]:
    """Return the columns of an average over tasks; only a note if a task is missing."""
    complete = all(side.estimate is not None for side in sides.values())
    notes: dict[str, list[str]] = {}
    for task, fact in facts.items():
        if fact["note"] and (complete or sides[task].estimate is None):
            notes.setdefault(str(fact["note"]), []).append(task)
    said = "; ".join(
        note if len(tasks) == len(facts) else f"{note} ({', '.join(map(title, tasks))})"
        for note, tasks in notes.items()
    )
    if not complete:
        return {"note": said}
    table = pd.DataFrame(list(facts.values()))
    means = {name: float(table[name].mean()) for name in ("score_a", "score_b")}
    return {"metric": "average", "note": said, **means, **{n: geometric(table[n]) for n in ("speedup_a", "speedup_b")}}


def _with_verdicts(
    rows: list[dict[str, Any]], made: Sequence[dict[str, _Side]], comparison: Comparison
) -> pd.DataFrame:
    """Return the rows with their verdicts and additional statistics."""
    columns = ["a", "b", "budget_a", "budget_b", "family", "task", "metric", "score_a", "score_b"]
    columns += ["speedup_a", "speedup_b", "note"]
    table = pd.DataFrame(rows, columns=columns)
    scopes = table["task"].where(table["task"].isin([ALL, LEARNED]), "single tasks")
    families = list(zip(table["family"], scopes, strict=True))
    found = classify_differences(
        [average_if_known(side.estimate for side in sides.values()) for sides in made], comparison, families
    )
    with_f1 = [any(side.by_accuracy is not side.estimate for side in sides.values()) for sides in made]
    others = [
        average_if_known(side.by_accuracy for side in sides.values()) if f1 else None
        for sides, f1 in zip(made, with_f1, strict=True)
    ]
    accuracy = classify_differences(others, comparison, families)
    additional = [_additional(row, sides, comparison) for row, sides in zip(found.itertuples(), made, strict=True)]
    table = table.join(found[COLUMNS]).join(pd.DataFrame(additional, columns=ADDITIONAL))
    table = table.assign(accuracy=accuracy["difference"], accuracy_verdict=accuracy["verdict"])
    table = table[[*(name for name in table if name != "note"), "note"]]
    counted = pd.Series(families, dtype=object)[found["verdict"] != ""]
    table.attrs["comparisons"] = counted.value_counts(sort=False).to_dict()
    return table


def _additional(row: Any, sides: Mapping[str, _Side], comparison: Comparison) -> dict[str, Any]:
    """Return the additional statistics of a row of `classify_differences`; empty values if it has no verdict."""
    if not row.verdict:
        return dict.fromkeys(ADDITIONAL, np.nan) | {"rests_on": ""}
    runs = np.concatenate([side.runs for side in sides.values()])
    wins = float(((runs > 0) + 0.5 * (runs == 0)).mean())
    found = {"iqm": interquartile_mean(runs), "wins": wins, "wilcoxon": _wilcoxon(sides)}
    return found | _without_one_task(row, sides, comparison)


def interquartile_mean(values: Floats) -> float:
    """Return the mean of the middle half of the values, with fractional weights at its ends."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    edges = np.linspace(0, 1, len(ordered) + 1)
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float(ordered @ weights / weights.sum()) if len(ordered) else float("nan")


def _wilcoxon(sides: Mapping[str, _Side]) -> float:
    """Return the p-value of Wilcoxon's two-sided signed-rank test over tasks; NaN for fewer than six tasks."""
    values = np.array([side.estimate.value for side in sides.values() if side.estimate is not None])
    values = values[values != 0]
    if len(values) < 6:
        return float("nan")
    from scipy.stats import wilcoxon  # half a second to import

    return float(wilcoxon(values).pvalue)


def _without_one_task(row: Any, sides: Mapping[str, _Side], comparison: Comparison) -> dict[str, Any]:
    """Return what the average is if one task is left out: the range of differences, and the tasks that matter.

    `rests_on` names the tasks whose removal changes the verdict, at unchanged significance levels. One task fewer also
    has fewer degrees of freedom, so a verdict may change although the difference does not.
    """
    if len(sides) < 2:
        return {"least_without_one": np.nan, "most_without_one": np.nan, "rests_on": ""}
    estimates = {task: side.estimate for task, side in sides.items() if side.estimate is not None}
    rests = [average([each for name, each in estimates.items() if name != task]) for task in estimates]
    different, equal = p_values(rests, comparison.margin / 100)
    words = [
        verdict_of(rest.value, p, p_equal, row.strict, row.strict_equal)
        for rest, p, p_equal in zip(rests, different, equal, strict=True)
    ]
    values = [rest.value for rest in rests]
    changed = [task for task, said in zip(estimates, words, strict=True) if said != row.verdict]
    return {"least_without_one": min(values), "most_without_one": max(values), "rests_on": ", ".join(changed)}
