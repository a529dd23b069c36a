"""Tables of differences between methods, and between ablations and their full methods, with verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.analysis.budgets import BUDGETS, at_budget, budget_title, failures, succeeded
from bench.analysis.comparing.equivalence import classify_differences
from bench.analysis.comparing.estimates import Estimate, average_if_known
from bench.analysis.comparing.pairings import every_pair, pairings
from bench.analysis.comparing.resampling import records
from bench.analysis.comparing.verdicts import ALL, LEARNED, ONE_SEED, PRIMARY, compare, estimate
from bench.analysis.roles import Roles
from bench.analysis.statistics import learned_tasks
from bench.errors import UserError
from bench.reporting.tables.format.table import (
    Format,
    Table,
    difference,
    display_names,
    percent,
    plain,
    score,
    speedup,
    whole,
)
from bench.reporting.tables.main import Evidence, title_of
from bench.reporting.tables.notes import learned_note, tasks_of
from bench.settings import Comparison

FORMATS: dict[str, Format] = {
    **dict.fromkeys(["Score A", "Score B"], score),
    **dict.fromkeys(["Speed-up A", "Speed-up B"], speedup),
    **dict.fromkeys(["Difference", "Low", "High"], difference),
    **dict.fromkeys(["p", "p equal"], plain),
    "Seeds": whole,
    **dict.fromkeys(["Middle half", "By accuracy"], difference),
    "A wins": percent,
    "Wilcoxon p": plain,
}
PHRASES = {"better": "Better than", "worse": "Worse than", "equal": "Equal to", "not decided": "Not decided:"}
"""Verdict -> how a sentence on the first contestant begins."""
NO_TRACES = "No traces are available: differences have neither an interval nor a verdict."


def how(comparison: Comparison, comparisons: int | str | Mapping[tuple[str, str], int]) -> str:
    """Return a note that explains intervals and verdicts.

    Args:
        comparison: Settings with level, margin and number of resamples.
        comparisons: Number of comparisons as number or text, or a map from (family, scope) to it.
    """
    level = f"{100 * comparison.level:g} %"
    number = str(comparisons)
    if isinstance(comparisons, Mapping):
        number = ", ".join(f"{scope} {count} {family}" for (family, scope), count in comparisons.items()) or "0"
    return (
        f"Low, high: {level} interval of a single comparison, over seeds and examples (paired; examples resampled "
        f"{comparison.resamples} times, seeds by Student's t), within the metric's range. Verdicts are corrected "
        f"(Holm, {level} for each family) for the number of comparisons: {number}. Better, worse: the corrected p is "
        f"at most {1 - comparison.level:g}. Equal: two one-sided tests reject a difference of {comparison.margin:g} "
        "points or more, with a separate correction (p equal). Not decided: neither. Seeds: number of seeds that both "
        "have, the smallest of a task in an average. With one seed an interval covers the examples only."
    )


BESIDE = (
    "Middle half: interquartile mean of the differences over tasks x seeds. A wins: share of tasks x seeds. Wilcoxon "
    "p: signed-rank test over six or more tasks, uncorrected. Rests on: tasks whose removal changes the verdict, "
    "because the difference changes or because fewer tasks give less statistical power. Without one task: the least "
    "and the greatest difference if any one task is left out. By accuracy: the difference with accuracy instead of F1, "
    "where a task is ranked by F1."
)


def verdicts(points: pd.DataFrame, notes: Sequence[str], roles: Roles, evidence: Evidence | None) -> Table:
    """Return the table of verdicts on averages over tasks: every pair of contestants, and each with the reference."""
    names = display_names(points)
    columns = ["Comparison", "A", "B", "A at least", "B at least", "Tasks", *list(FORMATS)[:10], "Verdict", "Rests on"]
    columns += ["Without one task", *list(FORMATS)[10:], "Accuracy verdict", "Note"]
    table, said = pd.DataFrame(columns=columns), [NO_TRACES]
    if evidence:
        first = evidence.comparison.primary.contestant
        pairs = every_pair(points, reference=roles.reference, ablations=roles.ablations, first=first)
        wanted = pairings(points, pairs, evidence.comparison, reference=roles.reference, budgets=BUDGETS)
        learned = learned_tasks(points, reference=roles.reference)
        found = compare(
            points, wanted, evidence.splits["validation"], evidence.comparison, learned=learned, single_tasks=False
        )
        shown = found[(found["verdict"] != "") | (found["family"] == PRIMARY)]
        table = printed(note_seeds(shown, points, learned), names).reindex(columns=columns)
        absent = len(found) - len(shown)
        said = [
            "A minus B on averages over tasks, each at its best point on the selection split with at least the given "
            "speed-up; speed-ups A and B are those reached on validation. A method without cheaper points is compared "
            "at 1x. If both have the same points as at a smaller speed-up, the comparison is not repeated. Single "
            "tasks: `costeff compare`.",
            "Primary: declared in the profile before the results. Exploratory: all others; they need confirmation. "
            f"Exploratory pairs without a point on every task are left out ({absent} rows).",
            how(evidence.comparison, found.attrs["comparisons"]),
            learned_note(learned),
            BESIDE,
        ]
    return Table("verdicts", "Better, worse, equal or not decided", table, FORMATS, notes=[*notes, *said])


def note_seeds(found: pd.DataFrame, points: pd.DataFrame, learned: Sequence[str]) -> pd.DataFrame:
    """Return the rows of `compare` with a note on each task that is compared with fewer seeds than the points have.

    Args:
        found: Rows of `compare`.
        points: All operating points, with failed runs.
        learned: The tasks of the scope `LEARNED`.
    """
    planned = points.groupby("task", sort=False)["seed"].nunique()
    seeds: dict[tuple[str, float, str], set[int]] = {}
    for budget in {*found["budget_a"], *found["budget_b"]}:
        rows = at_budget(points, budget)
        for method, task, seed in rows.loc[rows["score"].notna(), ["method", "task", "seed"]].itertuples(index=False):
            seeds.setdefault((method, budget, task), set()).add(seed)
    notes = []
    for row in found.itertuples():
        few = []
        for task in {ALL: list(planned.index), LEARNED: learned}.get(row.task, [row.task]):
            common = seeds.get((row.a, row.budget_a, task), set()) & seeds.get((row.b, row.budget_b, task), set())
            few += [f"{title_of(task)} {len(common)} of {planned[task]}"] if 0 < len(common) < planned[task] else []
        notes.append("; ".join(filter(None, [row.note, f"seeds: {', '.join(few)}" * bool(few and row.verdict)])))
    return found.assign(note=notes)


def printed(found: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of `compare` with the columns and units of tables (scores x 100)."""
    return pd.DataFrame(
        {
            "Comparison": found["family"],
            "A": found["a"].map(lambda method: names.get(method, method)),
            "B": found["b"].map(lambda method: names.get(method, method)),
            **{
                f"{side.upper()} at least": found[f"budget_{side}"].map(lambda at: f"{at:g}x" if at else "any")
                for side in "ab"
            },
            "Tasks": found["task"].map(title_of),
            **{f"Score {side.upper()}": found[f"score_{side}"].astype(float) * 100 for side in "ab"},
            **{f"Speed-up {side.upper()}": found[f"speedup_{side}"].astype(float) for side in "ab"},
            **{name.capitalize(): found[name].astype(float) * 100 for name in ("difference", "low", "high")},
            "p": found["p"],
            "p equal": found["p_equal"],
            "Seeds": found["seeds"].where(found["verdict"] != ""),
            "Verdict": found["verdict"],
            "Rests on": found["rests_on"].map(
                lambda tasks: ", ".join(map(title_of, tasks.split(", "))) if tasks else ""
            ),
            "Without one task": [
                "" if pd.isna(least) else f"{difference(100 * least)} to {difference(100 * most)}"
                for least, most in zip(found["least_without_one"], found["most_without_one"], strict=True)
            ],
            "Middle half": found["iqm"] * 100,
            "By accuracy": found["accuracy"] * 100,
            "Accuracy verdict": found["accuracy_verdict"],
            "A wins": found["wins"] * 100,
            "Wilcoxon p": found["wilcoxon"],
            "Note": found["note"],
        }
    )


def sentences(found: pd.DataFrame, names: Mapping[str, str]) -> list[str]:
    """Return a line for each pair of budgets: A's mean score over tasks, and each B with verdict and difference.

    Args:
        found: Rows of `compare` with the same A.
        names: Display names of the methods.
    """
    said = []
    scope = ALL if found["task"].eq(ALL).any() or found.empty else found["task"].iloc[0]
    averages = found[(found["task"] == scope) & (found["verdict"] != "")]
    for (budget_a, budget_b), rows in averages.groupby(["budget_a", "budget_b"], sort=False):
        a, value = names.get(rows["a"].iloc[0], rows["a"].iloc[0]), 100 * rows["score_a"].iloc[0]
        against = f"B {budget_title(budget_b)}" if budget_a != budget_b else "B likewise"
        parts = []
        for word, alike in rows.sort_values("difference").groupby("verdict", sort=False):
            each = [
                "{} ({:+.1f}, {:+.1f} to {:+.1f})".format(names.get(b, b), *(100 * value for value in interval))
                for b, *interval in alike[["b", "difference", "low", "high"]].itertuples(index=False)
            ]
            parts.append(f"{PHRASES[word]} {'; '.join(each)}")
        said.append(f"{a} {budget_title(budget_a)}, {against}: {score(value)}. {'. '.join(parts)}.")
    return said


def ablations(
    points: pd.DataFrame, notes: Sequence[str], ablations: Mapping[str, str], evidence: Evidence | None = None
) -> Table:
    """Return the table of ablations: score minus that of the full method at the same exit, variant and seed.

    Args:
        points: All operating points.
        notes: Notes that all tables share.
        ablations: Map from each ablation to its full method.
        evidence: Resamples and settings of comparisons, or None without traces.
    """
    rows = succeeded(points)
    rows = rows[(rows["split"] == "validation") & rows["kind"].isin(["fixed_exit", "static"])]
    rows = rows.assign(place=rows["exit"].where(rows["kind"] == "fixed_exit", 0))
    names = display_names(points)
    exits: set[int] = set()
    lines: list[dict[str, Any]] = []
    estimates: dict[str, list[Estimate | None]] = {"All exits": [], "Full depth": []}
    for name, full in ablations.items():
        for variant in dict.fromkeys(points.loc[points["method"] == name, "variant"]):
            both = rows[rows["method"].isin([name, full]) & (rows["variant"] == variant)]
            label = points.loc[(points["method"] == name) & (points["variant"] == variant), "label"].iloc[0]
            head = {"Ablation": label, "Full method": names.get(full, full), "Variant": variant}
            tasks = tasks_of(points[(points["method"] == name) & (points["variant"] == variant)])
            made: list[tuple[dict[str, Any], dict[str, Estimate | None]]] = []
            for task in tasks:
                of_task = both[both["task"] == task]
                sides = [of_task[of_task["method"] == method] for method in (name, full)]
                pairs = sides[0].merge(sides[1], on=["seed", "place", "kind"], suffixes=("", "_full"))
                if pairs.empty:
                    why = _why(points, task, name, full, variant)
                    made.append(({**head, "Task": title_of(task), "Note": why}, dict.fromkeys(estimates)))
                    continue
                gaps = 100 * (pairs["score"] - pairs["score_full"])
                line = {**head, "Task": title_of(task)}
                at_exits = gaps[pairs["kind"] == "fixed_exit"].groupby(pairs["place"].astype(int)).mean()
                exits |= set(at_exits.index)
                line |= {f"Exit {e}": value for e, value in at_exits.items()}
                found: dict[str, Estimate | None] = {}
                for column, kind in (("All exits", "fixed_exit"), ("Full depth", "static")):
                    of_seed = gaps[pairs["kind"] == kind].groupby(pairs["seed"]).mean()
                    line |= {column: of_seed.mean(), f"{column} std": of_seed.std(ddof=1)}
                    found[column], note = _estimate([side[side["kind"] == kind] for side in sides], evidence)
                    line["Note"] = note
                made.append((line, found))
            if len(made) > 1 and all("Full depth" in line for line, _ in made):
                made.append(_average(made))
            for line, found in made:
                lines.append(line)
                for column, one in found.items():
                    estimates[column].append(one)
    table = pd.DataFrame(lines)
    said = [NO_TRACES]
    shown: dict[str, Format] = {f"Exit {e}": difference for e in sorted(exits)}
    order = list(shown)
    if evidence and len(table):
        both = classify_differences([*estimates["All exits"], *estimates["Full depth"]], evidence.comparison)
        for column, part in zip(estimates, (both.iloc[: len(table)], both.iloc[len(table) :]), strict=True):
            table[f"{column}, low"], table[f"{column}, high"] = (part[e].to_numpy(float) * 100 for e in ("low", "high"))
            table[f"{column}, verdict"] = part["verdict"].to_numpy()
        said = [how(evidence.comparison, int(both["difference"].notna().sum()))]
    for column in estimates:
        shown |= dict.fromkeys([column, f"{column}, low", f"{column}, high"] if evidence else [column], difference)
        order += (
            [column, f"{column} std"] if table.get(f"{column} std", pd.Series(dtype=float)).notna().any() else [column]
        )
        order += [f"{column}, low", f"{column}, high", f"{column}, verdict"] if evidence else []
    values = table.reindex(columns=["Ablation", "Full method", "Variant", "Task", *order, "Note"])
    return Table(
        "ablations",
        "Ablations: change of the score against the full method, points on validation",
        values,
        shown,
        notes=[
            *notes,
            "Ablation minus full method at the same exit, variant and seed; all exits: the mean over exits. Averages "
            "are over the seeds of each task, then over tasks.",
            *said,
        ],
    )


def _estimate(sides: Sequence[pd.DataFrame], evidence: Evidence | None) -> tuple[Estimate | None, str]:
    """Return the estimated difference of two sides, or None, and a note on it."""
    if evidence is None:
        return None, ""
    try:
        made = estimate(records(sides[0]), records(sides[1]), evidence.splits["validation"])
    except UserError as error:
        return None, str(error) if len(sides[0]) and len(sides[1]) else ""
    return made, ONE_SEED if made.seeds == 1 else ""


def _average(
    made: Sequence[tuple[dict[str, Any], dict[str, Estimate | None]]],
) -> tuple[dict[str, Any], dict[str, Estimate | None]]:
    """Return the average row over the rows of all tasks."""
    lines = pd.DataFrame([line for line, _ in made])
    numbers = lines.select_dtypes("number").columns
    means = {name: lines[name].mean(skipna=False) for name in numbers if not name.endswith(" std")}
    for name in (name for name in numbers if name.endswith(" std")):
        means[name] = (lines[name] ** 2).sum(skipna=False) ** 0.5 / len(lines)
    found = {column: average_if_known(each[column] for _, each in made) for column in made[0][1]}
    notes = list(dict.fromkeys(note for note in lines["Note"] if note))
    first = made[0][0]
    head = {name: first[name] for name in ("Ablation", "Full method", "Variant")}
    return {**head, "Task": ALL, **means, "Note": "; ".join(notes)}, found


def _why(points: pd.DataFrame, task: str, name: str, full: str, variant: str) -> str:
    """Return the reason why an ablation cannot be compared on a task."""
    failed = failures(points)
    failed = failed[(failed["task"] == task) & failed["method"].isin([name, full]) & (failed["variant"] == variant)]
    reasons = [f"{row.method}, seed {row.seed}, failed: {row.reason}" for row in failed.itertuples()]
    return "; ".join(reasons) or "no variant and seed in common with the full method"
