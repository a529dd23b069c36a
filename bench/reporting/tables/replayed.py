"""Tables replayed from traces: other exit policies on each model, and cascades of two contestants."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.combinations import policy_grid, portfolios
from bench.analysis.comparing.equivalence import classify_differences
from bench.analysis.comparing.estimates import average
from bench.analysis.comparing.seeds import geometric, over_seeds, over_tasks
from bench.analysis.comparing.verdicts import ALL, LEARNED
from bench.analysis.roles import Roles
from bench.analysis.statistics import learned_tasks
from bench.reporting.tables.format.table import Format, Table, difference, display_names, score, speedup, variant_names
from bench.reporting.tables.main import Evidence
from bench.reporting.tables.notes import learned_note
from bench.settings import SCORE_METRICS
from bench.tasks.catalogue import in_order
from bench.tasks.catalogue import title as title_of

CLASSES = "classification tasks"
LEARNED_CLASSES = "learned classification tasks"


def scopes_of(tasks: Sequence[str], learned: Sequence[str], names: tuple[str, str] = (ALL, LEARNED)) -> dict[str, list]:
    """Return the sets of tasks to average over: all tasks and, if these are fewer, the learned ones."""
    some = [task for task in tasks if task in learned]
    return {names[0]: list(tasks)} | ({names[1]: some} if 0 < len(some) < len(tasks) else {})


def policies(points: pd.DataFrame, notes: Sequence[str], roles: Roles, runs: Path) -> Table:
    """Return the table of every model with several exits under every exit policy.

    Args:
        points: All operating points.
        notes: Notes that all tables share.
        roles: The roles of the methods.
        runs: results/<profile>/runs, with the traces.
    """
    shown = roles.contestants(points)
    grid = policy_grid.policy_grid(shown, runs)
    learned = learned_tasks(points, reference=roles.reference)
    names, variants = display_names(points), variant_names(points)
    own = shown[shown["kind"] == "uniform"].drop_duplicates(["method", "variant"]).query("policy != 'agreement'")
    its_own = dict(zip(zip(own["method"], own["variant"], strict=True), own["policy"], strict=True))
    by = ["method", "variant", "policy", "budget"]
    columns = {budget: f"At {budget:g}x" for budget in policy_grid.BUDGETS}
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    complete = grid.assign(score=100 * grid["score"]).groupby([*by, "task"], sort=False)["score"]
    grid = grid.assign(score=100 * grid["score"].where(complete.transform("count") == complete.transform("size")))
    of_tasks = over_seeds(grid, [*by, "task"], ["score"])
    for scope, tasks in scopes_of(in_order(grid["task"]), learned, (CLASSES, LEARNED_CLASSES)).items():
        for row in over_tasks(of_tasks, by, ["score"], tasks).to_dict("records"):
            model, policy = (row["method"], row["variant"]), row["policy"]
            head = {"Tasks": scope, "Model": f"{names[model[0]]} {variants.get(model, '')}".strip()}
            head["Policy"] = f"{policy} (its own)" if its_own.get(model) == policy else policy
            line = lines.setdefault((scope, *model, policy), head)
            line |= {columns[row["budget"]]: row["score"], f"{columns[row['budget']]} std": row["score_std"]}
    formats: dict[str, Format] = dict.fromkeys(columns.values(), score)
    pairs = [name for column in formats for name in (column, f"{column} std")]
    values = pd.DataFrame(list(lines.values()), columns=["Tasks", "Model", "Policy", *pairs])
    values = values.sort_values(["Tasks", "Model"], kind="stable", ignore_index=True)
    return Table(
        "policies",
        "Every model under every exit policy, at the given minimum speed-ups over the reference",
        values,
        formats,
        notes=[
            *notes,
            "Rows of a model differ only in the policy, rows of a policy only in the trained model. Fixed exit: all "
            "examples exit at the same exit, without a policy. The others have one threshold for all exits, chosen on "
            f"the selection split; {policy_grid.OWN}: also one threshold per exit and fixed exits, as in the table "
            "main. Policies: entropy, confidence (largest probability), patience (PABEE), similarity (F-PABEE: the "
            "entropy of the mean of successive distributions) and divergence (Jensen-Shannon divergence between them), "
            "both at a number of exits that is also chosen.",
            "Nothing is trained for this table. Exploratory: no verdicts. Empty if a task or seed has no threshold "
            "that is cheap enough. Regression is left out: most policies need classes.",
            learned_note(learned),
        ],
    )


def portfolio(points: pd.DataFrame, notes: Sequence[str], roles: Roles, evidence: Evidence) -> Table:
    """Return the table of the best portfolio at each budget, with its gain over the best single contestant."""
    resamples = evidence.splits["validation"]
    chosen = portfolios.portfolios(roles.contestants(points), resamples.runs)
    learned = learned_tasks(points, reference=roles.reference)
    names, variants = display_names(points), variant_names(points)

    def titled(model: tuple[str, str]) -> str:
        return f"{names[model[0]]} {variants.get(model, '')}".strip()

    lines, estimates = [], []
    for budget in dict.fromkeys(sorted(each.budget for each in chosen)):
        at = [each for each in chosen if each.budget == budget]
        gains = portfolios.gains(at, resamples)
        for scope, tasks in scopes_of(in_order(gains), learned, (CLASSES, LEARNED_CLASSES)).items():
            own = [each for each in at if each.task in tasks]
            cascades = pd.Series(
                [f"{titled(e.small)} before {titled(e.large)}" for e in own if e.cascade], dtype=object
            )
            table = pd.DataFrame(
                {
                    "task": [each.task for each in own],
                    "single": [100 * each.single_score for each in own],
                    "portfolio": [100 * each.score for each in own],
                }
            )
            means = table.groupby("task").mean().mean()
            estimates.append(average([gains[task] for task in tasks]))
            lines.append(
                {
                    "At least": f"{budget:g}x",
                    "Tasks": scope,
                    "Best single": means["single"],
                    "Its speed-up": geometric([each.single_speedup for each in own]),
                    "Best portfolio": means["portfolio"],
                    "Speed-up": geometric([each.speedup for each in own]),
                    "Cascades": f"{len(cascades)} of {len(own)}",
                    "Most often": cascades.mode().iloc[0] if len(cascades) else "",
                }
            )
    values = pd.DataFrame(lines)
    formats: dict[str, Format] = {"Best single": score, "Its speed-up": speedup, "Best portfolio": score}
    formats |= {"Speed-up": speedup, "Gain": difference, "Low": difference, "High": difference}
    if len(values):
        found = classify_differences(estimates, evidence.comparison, values["Tasks"].tolist())
        for column, name in (("Gain", "difference"), ("Low", "low"), ("High", "high")):
            values[column] = 100 * found[name]
        values["Verdict"] = found["verdict"]
    columns = ["At least", "Tasks", *formats, "Verdict", "Cascades", "Most often"]
    return Table(
        "portfolios",
        "Cascades of two contestants, a small model before a large one, replayed from traces",
        values.reindex(columns=columns),
        formats,
        notes=[
            *notes,
            "The small model answers where its largest probability is above a threshold; the large one answers the "
            "other examples, at the cost of both. For each task and seed, the best portfolio (of all pairs, thresholds "
            "and single contestants) and the best single contestant, with its early exits, are chosen on the selection "
            "split. Both are reported on validation. Cascades: number of tasks and seeds where a cascade is the best.",
            "Exploratory; nothing is trained. Classification only, since a regression has no confidence.",
            *_without_a_point(points, chosen),
            learned_note(learned),
        ],
    )


def _without_a_point(points: pd.DataFrame, chosen: Sequence[portfolios.Portfolio]) -> list[str]:
    """Return a note that names the tasks and seeds that are left out at a budget, where no point is cheap enough."""
    rows = points[points["metric"].notna() & ~points["metric"].isin(SCORE_METRICS)]
    planned = [
        (task, seed) for task in in_order(rows["task"]) for seed in sorted(set(rows.loc[rows["task"] == task, "seed"]))
    ]
    left_out = []
    for budget in portfolios.BUDGETS:
        present = {(each.task, each.seed) for each in chosen if each.budget == budget}
        lost = [f"{title_of(task)} seed {seed}" for task, seed in planned if (task, seed) not in present]
        left_out += [f"{', '.join(lost)} at {budget:g}x"] if lost else []
    return (
        [f"Left out, because no contestant has a known point within the budget: {'; '.join(left_out)}."]
        if left_out
        else []
    )
