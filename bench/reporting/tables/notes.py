"""Notes that several tables share."""

from collections.abc import Mapping, Sequence

import pandas as pd

from bench.analysis.budgets import RUN, has_traces, selection_split, succeeded
from bench.analysis.metrics import TITLES
from bench.analysis.statistics import LEARNED_GAIN
from bench.tasks.catalogue import TASKS, in_order
from bench.tasks.catalogue import title as title_of


def tasks_of(points: pd.DataFrame) -> list[str]:
    """Return the tasks of the points in the catalogue's order, followed by tasks of the user's own."""
    return in_order(points["task"])


POINTS_MARK = "¶"
MOST_NAMED = 5
"""Largest number of models that a note names one by one."""
"""Mark of scores that were published without traces."""


def learned_note(learned: Sequence[str]) -> str:
    """Return a note that names the learned tasks and states the criterion."""
    named = ", ".join(title_of(task) for task in learned) or "none"
    return (
        f"Learned tasks ({named}): with every seed the reference gains at least {100 * LEARNED_GAIN:g} points over the "
        "constant baseline on the selection split."
    )


def common_notes(points: pd.DataFrame, missing: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the notes that all tables share: data, selection, seeds, FLOPs convention and missing splits.

    Args:
        points: All operating points.
        missing: Map from task to the splits that its source does not have.
    """
    sources: dict[str, list[str]] = {}
    for task in tasks_of(points):
        of_task = points.loc[points["task"] == task, "source"].dropna().unique()
        sources.setdefault(" and ".join(map(str, of_task)) or "not known", []).append(title_of(task))
    several = "; ".join(f"{source}: {', '.join(titles)}" for source, titles in sources.items())
    split = selection_split(points)
    same = " (the papers' protocol: chosen and reported on the same examples)" if split == "validation" else ""
    notes = [
        f"Data: {several if len(sources) > 1 else next(iter(sources), 'none')}. "
        f"Profile: {', '.join(map(str, points['profile'].dropna().unique()))}.",
        f"Chosen on {split}, reported on validation{same}.",
        _seeds(points),
        *_metrics(points),
        "FLOPs are 2 x the multiply-adds of matrix products, mean over the examples' true lengths; "
        '"at 128" means at a length of 128 tokens. Scores are x 100.',
    ]
    if untraced := ", ".join(dict.fromkeys(points.loc[~has_traces(points), "label"].dropna())):
        notes.append(
            f"{POINTS_MARK} {untraced}: published without traces, so scores and FLOPs are as submitted and cannot be "
            "recomputed. They have no intervals and are left out of verdicts, rankings, tables replayed from traces "
            "and figures with intervals."
        )
    if "other_code" in points and (other := points[points["other_code"].eq(True)])["label"].any():
        labels = sorted(set(other["label"].dropna()))
        runs = [len(rows.drop_duplicates(RUN)) for rows in (other, succeeded(points))]
        models = ", ".join(labels) if len(labels) <= MOST_NAMED else f"{runs[0]} of {runs[1]} runs"
        notes += [f"Made by other code than the current one, at the same version: {models}."]
    if missing:
        named = {title_of(task): ", ".join(splits) for task, splits in missing.items() if splits}
        lost = "; ".join(f"{title}: {splits}" for title, splits in named.items())
        notes += [f"Splits that the source does not have: {lost}."] if lost else []
    return notes


def _metrics(points: pd.DataFrame) -> list[str]:
    """Return a note with the ranking metrics of tasks outside GLUE."""
    own = points[~points["task"].isin(list(TASKS)) & points["metric"].notna()].drop_duplicates("task")
    named = [f"{task} {TITLES.get(metric, metric)}" for task, metric in zip(own["task"], own["metric"], strict=True)]
    return [f"Scores are: {', '.join(named)}."] if named else []


def _seeds(points: pd.DataFrame) -> str:
    by_task: dict[tuple[int, ...], list[str]] = {}
    for task in tasks_of(points):
        seeds = sorted(int(seed) for seed in points.loc[points["task"] == task, "seed"].unique())
        by_task.setdefault(tuple(seeds), []).append(title_of(task))
    groups = [", ".join(map(str, seeds)) for seeds in by_task]
    if len(by_task) > 1:
        groups = [f"{group} ({', '.join(titles)})" for group, titles in zip(groups, by_task.values(), strict=True)]
    if all(len(seeds) < 2 for seeds in by_task):
        return f"One seed ({'; '.join(groups)}): no deviation can be given."
    counts = ", ".join(f"{title} {len(seeds)}" for seeds, titles in by_task.items() for title in titles)
    single = [title for seeds, titles in by_task.items() for title in titles if len(seeds) < 2]
    partly = (
        f" {', '.join(single)}: one seed, so intervals of averages leave out the variation of it." if single else ""
    )
    return f"Seeds: {'; '.join(groups)}; ± is the sample deviation over seeds. Seeds of each task: {counts}.{partly}"
