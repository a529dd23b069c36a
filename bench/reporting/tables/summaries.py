"""Summary tables of methods: score at each budget, frontiers, the gain kept at a cost, and rankings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.budgets import (
    ANY_COST,
    RUN,
    TOLERANCE,
    at_budget,
    at_quality,
    budget_title,
    by_budget,
    failures,
    teacher_rows,
)
from bench.analysis.budgets import BUDGETS as SPEEDUPS
from bench.analysis.comparing.intervals import Interval, budget_differences
from bench.analysis.comparing.ranking import ranking
from bench.analysis.comparing.seeds import geometric, over_seeds, over_tasks
from bench.analysis.comparing.verdicts import ALL, LEARNED
from bench.analysis.roles import Roles
from bench.analysis.statistics import BUDGETS, frontier_summary, gains, kept, learned_tasks
from bench.reporting.tables.details import with_failures
from bench.reporting.tables.format.table import (
    Format,
    Table,
    difference,
    display_names,
    fraction,
    percent,
    plain,
    score,
    speedup,
    whole,
)
from bench.reporting.tables.main import MISSED, MISSED_MEANS, MORE_COSTLY, Evidence, title_of
from bench.reporting.tables.notes import learned_note, tasks_of
from bench.reporting.tables.replayed import scopes_of

CLOCK_BUDGET = 4.0
"""The budget whose milliseconds the summary shows."""
SEED = ["task", "method", "seed"]
SHARES = (0.99, 0.97, 0.95)
DEARER = "#"
"""Mark of speed-ups of points that cost more than the teacher."""
KEPT = (
    "Kept: (score - constant baseline) / (teacher - constant baseline); both differences are averaged over seeds and "
    "then over tasks before the division."
)


def frontier(points: pd.DataFrame, notes: Sequence[str], roles: Roles) -> Table:
    """Return the table of hypervolume, ELUE score, score and gain kept, for each task and on average."""
    summary = frontier_summary(points, roles, budgets=BUDGETS)
    names, tasks = display_names(points), tasks_of(points)
    scores = {f"score_{budget:g}x": f"Score at {budget:g}x" for budget in BUDGETS}
    gained = [f"{kind}_{budget:g}x" for budget in BUDGETS for kind in ("gain", "teacher_gain")]
    learned = learned_tasks(points, reference=roles.reference)
    values_of = ["points", "hypervolume", "elue", "outside", *scores, *gained]
    means = _with_averages(
        _of_every_seed(summary, [*scores, *gained], points, roles.reference),
        values_of,
        scopes_of(tasks, learned),
        list(dict.fromkeys(points["method"])),
    )
    formats: dict[str, Format] = {"Points": whole, "Hypervolume": fraction, "ELUE": difference, "Outside": percent}
    lines = []
    for row in means.to_dict("records"):
        line: dict[str, Any] = {"Task": row["shown"], "Method": names.get(row["method"], row["method"])}
        line |= {"Points": row["points"], "Hypervolume": row["hypervolume"], "Hypervolume std": row["hypervolume_std"]}
        line |= {"ELUE": row["elue"] * 100, "ELUE std": row["elue_std"] * 100, "Outside": row["outside"] * 100}
        for budget in BUDGETS:
            line[f"Score at {budget:g}x"] = row[f"score_{budget:g}x"] * 100
            line[f"Kept at {budget:g}x"] = 100 * kept(row[f"gain_{budget:g}x"], row[f"teacher_gain_{budget:g}x"])
        lines.append(line)
    for budget in BUDGETS:
        formats |= {f"Score at {budget:g}x": score, f"Kept at {budget:g}x": percent}
    values = with_failures(pd.DataFrame(lines), points, ["Task", "Method", *formats], "Method")
    return Table(
        "frontier",
        "Summaries of frontiers: hypervolume, ELUE score, score and gain kept at a budget",
        values,
        formats,
        notes=[
            *notes,
            "Frontiers are chosen on the selection split and reported on validation. Averages are over the seeds of "
            "each task, then over tasks; they are left out if a task has no value.",
            "Hypervolume: area of (score as a fraction) x (doublings of the FLOPs speed-up) above the "
            "reference point (score of the constant baseline, the teacher's FLOPs); the teacher itself has 0.",
            "ELUE: mean over a frontier's points of the score minus that of the models of the first k layers "
            f"({names.get(roles.depth_reference or '', 'not in this profile')}; for all layers the teacher) at the "
            "same FLOPs, linear in log FLOPs, constant outside their range. As in the paper the mean is over points, "
            "however many the threshold search finds. Outside: share of the points outside that range, which are "
            "compared with its end; if it is large, the ELUE score is mostly about costs outside the range.",
            "Score and gain kept at a budget: those of the best point with at least this speed-up, if every seed has "
            f"one (where neither the run nor the teacher's failed). {KEPT}",
            learned_note(learned),
            *_no_gain(summary, tasks, [f"teacher_gain_{budget:g}x" for budget in BUDGETS]),
        ],
    )


def _of_every_seed(summary: pd.DataFrame, columns: Sequence[str], points: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the rows with each value left out where another seed of the same task and method lacks it.

    A mean over the other seeds would be too optimistic. Seeds do not count where the run or the teacher's failed.
    """
    failed = _failed(summary, points, reference)
    known = summary[list(columns)].apply(lambda values: values.notna() | failed)
    every = known.groupby([summary["task"], summary["method"]]).transform("all")
    return summary.assign(**summary[list(columns)].where(every))


def _failed(rows: pd.DataFrame, points: pd.DataFrame, reference: str) -> NDArray[np.bool_]:
    """Return whether the run of each row, or that of the reference on its task and seed, failed or is missing."""
    scored = teacher_rows(points, reference=reference).dropna(subset="score").set_index(["task", "seed"]).index
    own = pd.MultiIndex.from_frame(rows[SEED]).isin(failures(points).set_index(SEED).index)
    return np.asarray(own | ~pd.MultiIndex.from_frame(rows[["task", "seed"]]).isin(scored))


def quality(points: pd.DataFrame, notes: Sequence[str], roles: Roles) -> Table:
    """Return the table of the speed-up at which each method keeps a share of the teacher's gain."""
    names, tasks = display_names(points), tasks_of(points)
    learned = learned_tasks(points, reference=roles.reference)
    scopes = scopes_of(tasks, learned)
    formats: dict[str, Format] = {}
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    unkept: dict[tuple[str, str], dict[str, list[float]]] = {}
    every = []
    for share in SHARES:
        fast, really = f"Speed-up at {_listed([share])}", f"Kept at {_listed([share])}"
        formats |= {fast: speedup, really: percent}
        rows = at_quality(points, share, reference=roles.reference)
        rows = gains(rows[rows["method"] != roles.reference], points, reference=roles.reference)
        every.append(rows)
        lost = rows[rows["score"].isna() & ~_failed(rows, points, roles.reference)]
        # A method keeps a share only if every seed does; a mean over the other seeds would be too optimistic.
        cells = pd.MultiIndex.from_frame(rows[["task", "method"]])
        reached = rows.assign(speedup=rows["speedup"].where(~cells.isin(pd.MultiIndex.from_frame(lost[SEED[:2]]))))
        methods = list(dict.fromkeys(points["method"]))
        slow = rows.loc[rows["speedup"] < 1 - TOLERANCE, ["method", "task"]].drop_duplicates()
        dearer = {
            (method, name)
            for method, task in slow.itertuples(index=False)
            for name in (title_of(task), *(scope for scope, some in scopes.items() if task in some))
        }
        means = _with_averages(reached, ["gain", "teacher_gain"], scopes, methods, ratios=["speedup"])
        for row in means.to_dict("records"):
            head = {"Task": row["shown"], "Method": names.get(row["method"], row["method"])}
            line = lines.setdefault((row["shown"], row["method"]), head)
            if pd.notna(row["speedup"]):
                line |= {fast: row["speedup"], really: 100 * kept(row["gain"], row["teacher_gain"])}
                line[f"{fast} mark"] = DEARER if (row["method"], row["shown"]) in dearer else ""
                continue
            its = lost[lost["method"] == row["method"]]
            average = row["shown"] in scopes
            if average:
                its = its[its["task"].isin(scopes[row["shown"]])]
                where = ", ".join(title_of(task) for task in dict.fromkeys(its["task"]))
            else:
                seeds = its.loc[its["task"] == row["task"], "seed"]
                every_seed = len(seeds) == ((rows["method"] == row["method"]) & (rows["task"] == row["task"])).sum()
                where = "" if seeds.empty else "any seed" if every_seed else f"seed {', '.join(map(str, seeds))}"
            if where:
                reason = f"not kept {'on' if average else 'by'} {where}"
                unkept.setdefault((row["shown"], row["method"]), {}).setdefault(reason, []).append(share)
    for cell, reasons in unkept.items():
        lines[cell]["Note"] = "; ".join(f"{_listed(those)} {reason}" for reason, those in reasons.items())
    values = with_failures(pd.DataFrame(list(lines.values())), points, ["Task", "Method", *formats], "Method")
    marked = any(DEARER in values[name].tolist() for name in values if str(name).endswith(" mark"))
    listed = _listed(SHARES)
    return Table(
        "quality",
        f"Cost at a quality: the speed-up that keeps {listed} of the teacher's gain",
        values,
        formats,
        notes=[
            *notes,
            f"For each task and seed, the cheapest of a method's points that keep at least {listed} of the teacher's "
            "gain over the constant baseline on the selection split is chosen. Its speed-up (geometric means) and the "
            "gain kept are reported on validation. A value is given if every seed has such a point, an average if "
            "every task has one.",
            *(
                [
                    f"{DEARER}: with at least one seed (an average: on at least one of its tasks) the point costs "
                    "more than the teacher."
                ]
                if marked
                else []
            ),
            KEPT,
            learned_note(learned),
            *_no_gain(pd.concat(every), tasks, ["teacher_gain"]),
        ],
    )


def rankings(points: pd.DataFrame, notes: Sequence[str], roles: Roles, evidence: Evidence) -> Table:
    """Return the table of methods ranked by their average at each budget, with intervals of ranks."""
    comparison, shown = evidence.comparison, roles.contestants(points)
    learned = learned_tasks(points, reference=roles.reference)
    scopes = scopes_of(tasks_of(points), learned)
    found = ranking(shown, evidence.splits["validation"], comparison, budgets=SPEEDUPS, scopes=scopes)
    names = display_names(points)
    percents = {name: 100 * found[name].astype(float) for name in ("score", "low", "high", "iqm", "wins")}
    values = pd.DataFrame(
        {
            "At least": found["budget"].map(lambda budget: f"{budget:g}x"),
            "Tasks": found["scope"],
            "Rank": found["rank"],
            "Ranks": [f"{best} to {worst}" for best, worst in zip(found["best"], found["worst"], strict=True)],
            "Method": found["method"].map(lambda method: names.get(method, method)),
            "Average": percents["score"],
            "Low": percents["low"],
            "High": percents["high"],
            "Middle half": percents["iqm"],
            "Wins": percents["wins"],
            "Speed-up": found["speedup"].astype(float),
            "Tied with the best": found["tied"].map({True: "yes", False: ""}),
        }
    )
    formats: dict[str, Format] = {"Rank": whole, **dict.fromkeys(["Average", "Low", "High", "Middle half"], score)}
    level = f"{100 * comparison.level:g} %"
    return Table(
        "ranking",
        "Ranking of the methods that have a point on every task, at the given minimum speed-ups",
        values,
        formats | {"Wins": percent, "Speed-up": speedup},
        notes=[
            *notes,
            f"Low, high: {level} interval of the average over seeds and examples. Ranks: from 1 + the number of "
            "methods that are better to the number of those that are not worse, by tests of all pairs of the block "
            f"with a joint correction (Holm); the level of {level} holds for all intervals of a block together. Tied "
            "with the best: no method is better. Exploratory.",
            "Middle half: interquartile mean of the scores over tasks x seeds. Wins: share of other methods x tasks "
            "x seeds with a lower score; ties count half.",
            learned_note(learned),
        ],
    )


def _listed(shares: Sequence[float]) -> str:
    """Return "99, 97, 95 %" for 0.99, 0.97, 0.95."""
    return ", ".join(f"{100 * share:g}" for share in shares) + " %"


def _with_averages(
    rows: pd.DataFrame,
    values: Sequence[str],
    scopes: Mapping[str, Sequence[str]],
    methods: Sequence[str],
    *,
    ratios: Sequence[str] = (),
) -> pd.DataFrame:
    """Return means over seeds and, if there are several tasks, over the tasks of each scope.

    The column `shown` is the printed name of a task or scope.
    """
    means = over_seeds(rows, ["task", "method"], list(values), ratios=ratios)
    means["shown"] = means["task"].map(title_of)
    tasks = scopes[ALL]
    if len(tasks) > 1:
        averages = [
            over_tasks(means, ["method"], list(values), some, ratios=ratios).assign(task=name, shown=name)
            for name, some in scopes.items()
        ]
        means = pd.concat([means, *averages], ignore_index=True)
    places = {name: at for at, name in enumerate([*tasks, ALL, LEARNED])}
    ranks = {method: at for at, method in enumerate(methods)}
    return means.sort_values(["task", "method"], key=lambda c: c.map(places | ranks), ignore_index=True)


def _no_gain(rows: pd.DataFrame, tasks: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return a note that names the tasks where the teacher is not above the constant baseline."""
    if rows.empty:
        return []
    means = rows.groupby("task")[list(columns)].mean().max(axis=1)
    none = [title_of(task) for task in tasks if task in means.index and not np.isnan(means[task]) and means[task] <= 0]
    return [f"The teacher is not above the constant baseline on {', '.join(none)}."] if none else []


def summary(points: pd.DataFrame, notes: Sequence[str], roles: Roles, evidence: Evidence | None) -> Table:
    """Return the mean score of each method at each budget, with its difference from the teacher at full depth.

    The mean is over the learned tasks, or over all tasks if none was learned.

    Args:
        points: All operating points.
        notes: Notes that all tables share.
        roles: The roles of the methods.
        evidence: Resamples for the intervals of the differences; None: without intervals.
    """
    learned = learned_tasks(points, reference=roles.reference)
    tasks = learned or tasks_of(points)
    shown = roles.contestants(points[points["task"].isin(tasks)])
    gaps = budget_differences(
        shown, roles, evidence.splits["validation"] if evidence else None, [*SPEEDUPS, ANY_COST], tasks
    )
    teacher = teacher_rows(shown, reference=roles.reference)
    planned = len(shown[["task", "seed"]].drop_duplicates())
    names = display_names(points)
    methods = shown.loc[shown["kind"] != "control", "method"].drop_duplicates()
    lines: dict[str, dict[str, Any]] = {method: {"Method": names[method]} for method in methods}
    timed, behind = f"ms at {CLOCK_BUDGET:g}x", [teacher]
    compared = by_budget(shown[shown["method"] != roles.reference])
    titles = {budget: f"{budget:g}x" if budget else budget_title(budget).capitalize() for budget, _ in compared}
    for budget, affected in compared:
        chosen = at_budget(affected, budget)
        behind.append(chosen)
        for method, rows in chosen.groupby("method"):
            gap = gaps.get((str(method), budget))
            lines[str(method)][titles[budget]] = _cell(rows, teacher, gap, planned) if gap else None
            if budget == CLOCK_BUDGET:
                lines[str(method)][timed] = mean_over_tasks(rows, "milliseconds")
    if len(teacher):
        lines[roles.reference]["1x"] = score(100 * mean_over_tasks(teacher, "score", tasks_of(shown)))
        lines[roles.reference][timed] = mean_over_tasks(teacher, "milliseconds")
    runs = pd.concat(behind).dropna(subset="score").drop_duplicates(RUN)
    for method, rows in runs.groupby("method"):
        flops = rows.get("training_flops_in_all", pd.Series(dtype=float)).mean() / 1e12
        lines[str(method)]["Training, TFLOP"] = flops
    formats: dict[str, Format] = {timed: plain, "Training, TFLOP": plain}
    columns = ["Method", *titles.values(), timed, "Training, TFLOP"]
    values = pd.DataFrame([lines[name] for name in sorted(lines, key=lambda name: name != roles.reference)]).reindex(
        columns=columns
    )
    formats = {name: form for name, form in formats.items() if values[name].notna().any()}
    return Table(
        "summary",
        f"Mean score on {'the learned' if learned else 'all'} tasks at the given minimum speed-ups over the teacher",
        values.drop(columns=[name for name in (timed, "Training, TFLOP") if name not in formats]),
        formats,
        notes=[
            *notes,
            "Score at the actual speed-up on validation (geometric mean), which may be far above the required one; in "
            "brackets the difference from the teacher at full depth, in points, with its interval over seeds and "
            "examples for this comparison alone (table verdicts has the corrected ones). All are over the seeds that "
            "both have; their number is given where some have no point. A dash: no point at this budget on some task.",
            *([f"{MISSED}: {MISSED_MEANS}."] if values[list(titles.values())].map(_marked).any(axis=None) else []),
            "Milliseconds: one example at a time, mean over tasks, of the points at "
            f"{CLOCK_BUDGET:g}x (of the teacher at 1x). Training: of one model on one task, with every model that it "
            "needs, such as its teacher; mean over the models whose points are in the row.",
            *([MORE_COSTLY] if len(compared) > len(SPEEDUPS) else []),
            *([learned_note(learned)] if learned else []),
        ],
    )


def mean_over_tasks(rows: pd.DataFrame, column: str, tasks: Sequence[str] | None = None) -> float:
    """Return the mean over tasks (default: those of `rows`) of the means over seeds; NaN where a task has no value."""
    means = rows.groupby("task")[column].mean()
    return float(means.reindex(means.index if tasks is None else tasks).mean(skipna=False))


def _marked(cell: Any) -> bool:
    return MISSED in str(cell)


def _cell(rows: pd.DataFrame, teacher: pd.DataFrame, gap: Interval, planned: int) -> str:
    """Return a method's mean score, its speed-up and its difference from the teacher, such as "79.4 at 12.9x (-4.9)".

    Args:
        rows: The chosen points of the method.
        teacher: The teacher's points. All numbers are over the tasks and seeds where both have a score.
        gap: The difference from the teacher with its interval, as fractions.
        planned: Number of tasks x seeds.
    """
    keys = ["task", "seed"]
    both = rows[rows["score"].notna()].merge(teacher.loc[teacher["score"].notna(), keys], on=keys)
    low, high = (100 * edge for edge in (gap.low, gap.high))
    interval = "" if np.isnan(low) else f", {difference(low)} to {difference(high)}"
    reached = geometric([geometric(each) for _, each in both.groupby("task")["speedup"]])
    mark = MISSED if both["missed"].eq(True).any() else ""
    word = "seeds" if both["task"].nunique() == 1 else "runs"
    some = f"; {len(both)} of {planned} {word}" if len(both) < planned else ""
    mean = 100 * mean_over_tasks(both, "score")
    return f"{score(mean)} at {speedup(reached)}{mark} ({difference(100 * gap.value)}{interval}{some})"
